"""Builds the box: the Debian package, the image for its storage card, the bundle that updates it."""
