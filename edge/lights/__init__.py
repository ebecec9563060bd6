"""The status light's hardware: LEDs of the kernel, GPIO lines, a file, or none."""
