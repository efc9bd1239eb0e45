"""This package defines vectors for the CUDA kernels, and what threads do with them together."""
