"""How the CPU kernels come to run: threads, forks, limits and memory."""
