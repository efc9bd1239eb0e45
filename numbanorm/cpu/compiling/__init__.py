"""How the CPU kernels are compiled, and how their machine code is kept from process to process."""
