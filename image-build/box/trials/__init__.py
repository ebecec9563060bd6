"""Harms a box on purpose, and looks whether it kept its word; see image-build/README.md."""
