"""This package defines vectors for the CPU kernels, and the loops that run over them."""
