"""This package compiles the CPU kernels, and keeps their machine code from process to process."""
