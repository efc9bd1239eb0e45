"""The way from the caller's arrays to the kernels and back: the same steps for every device."""
