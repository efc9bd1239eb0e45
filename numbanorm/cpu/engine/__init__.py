"""This package runs the CPU kernels: it takes care of threads, forks, limits and memory."""
