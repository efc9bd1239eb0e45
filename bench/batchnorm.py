"""Batch normalization: what is timed, and the bytes that it must move.

For x of n values of 4 bytes (all else is one value per channel, small beside it)::

    batch_norm            reads x,      writes y     8 n bytes
    batch_norm_forward    reads x,      writes y     8 n bytes
    batch_norm_backward   reads dy, x,  writes dx   12 n bytes

Training needs x twice, and backward dy and x twice, but a channel that fits a cache comes from memory only once.
"""

from bench.cases import Case, Shape, operations

SHAPES = (
    Shape("ResNet-50", (32, 64, 56, 56), 1, quick=True),
    Shape("ResNet-50", (32, 256, 28, 28), 1),
    Shape("ResNet-50", (32, 2048, 7, 7), 1, quick=True),
    Shape("ResNet-50", (32, 56, 56, 64), -1),
    Shape("ResNet-50", (32, 7, 7, 2048), -1),
    Shape("MLP", (2048, 512), 1, quick=True),
    Shape("MLP", (64, 4096), 1),
    Shape("MLP", (8192, 1024), 1),
    Shape("narrow", (65536, 64), 1, quick=True),
    Shape("large", (65536, 256), 1),
    Shape("tiny", (60, 100), 1),
)

OPERATIONS = operations("batchnorm")


def cases(dtype: type) -> list[Case]:
    return [Case(operation, shape, dtype) for operation in OPERATIONS for shape in SHAPES]
