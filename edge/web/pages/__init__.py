"""The pages: one module each, listed in `edge.web.app`."""
