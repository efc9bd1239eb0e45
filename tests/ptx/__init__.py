"""Runs kernels on the CPU from their PTX, with NumPy, and reports what they do wrong.

What a thread may not rely on, it cannot rely on here: what is not ordered by a barrier is a race, whatever the order
of execution; memory that nobody wrote is NaN or a fault; approximate operations err by as much as they may.
"""

from tests.ptx.faults import Divergence, Fault, Misaligned, OutOfBounds, Race, Uninitialised, Unsupported
from tests.ptx.launch import run
from tests.ptx.memory import GlobalMemory
from tests.ptx.program import Program

__all__ = [
    "Divergence",
    "Fault",
    "GlobalMemory",
    "Misaligned",
    "OutOfBounds",
    "Program",
    "Race",
    "Uninitialised",
    "Unsupported",
    "run",
]
