"""This package holds the kernels for NumPy arrays."""
