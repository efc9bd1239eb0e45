"""RMS normalization: what is timed, and the bytes that it must move.

For x of n values of 4 bytes (weight and rstd are small beside it)::

    rms_norm            reads x,      writes y     8 n bytes
    rms_norm_forward    reads x,      writes y     8 n bytes
    rms_norm_backward   reads dy, x,  writes dx   12 n bytes
"""

import numbanorm
from bench.cases import Case, Operation, Shape, random

SHAPES = (
    Shape("Llama", (2048, 4096), -1, quick=True),
    Shape("Llama", (64, 4096), -1),
    Shape("T5", (4096, 768), -1, quick=True),
    Shape("T5", (512, 768), -1),
    Shape("heads", (65536, 128), -1, quick=True),
    Shape("channels", (8, 96, 56, 56), 1, quick=True),
    Shape("wide", (256, 8192), -1),
    Shape("large", (262144, 64), -1),
    Shape("large", (512, 32768), -1),
    Shape("tiny", (1, 768), -1, quick=True),
)


def _forward_arrays(shape: Shape):
    """x, weight."""
    return random(0, *shape.sizes), random(1, shape.sizes[shape.axis])


def _backward_arrays(shape: Shape):
    """dy, x, rstd, weight."""
    x, weight = _forward_arrays(shape)
    return random(3, *shape.sizes), x, numbanorm.rms_norm_forward(x, axis=shape.axis).rstd, weight


OPERATIONS = (
    Operation("rms_norm", "axis", 1, _forward_arrays),
    Operation("rms_norm_forward", "axis", 1, _forward_arrays),
    Operation("rms_norm_backward", "axis", 2, _backward_arrays),
)


def cases(dtype: type) -> list[Case]:
    return [Case(operation, shape, dtype) for operation in OPERATIONS for shape in SHAPES]
