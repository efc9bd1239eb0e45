"""How the CPU kernels are compiled, and kept from process to process."""
