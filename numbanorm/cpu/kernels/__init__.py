"""This package holds the CPU kernels by the shape of what they normalise: rows, long rows, columns, channels."""
