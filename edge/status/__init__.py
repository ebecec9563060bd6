"""One snapshot of everything, and the light that follows from it."""
