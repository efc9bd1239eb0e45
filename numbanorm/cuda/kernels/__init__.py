"""This package holds the CUDA kernels by the shape of what they normalise: rows, long rows, columns, channels."""
