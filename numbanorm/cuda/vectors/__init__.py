"""Vectors for the CUDA kernels, and what threads do with them together."""
