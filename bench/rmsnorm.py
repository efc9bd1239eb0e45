"""RMS normalization: what is timed, and the bytes that it must move.

For x of n values of 4 bytes (weight and rstd are small beside it)::

    rms_norm            reads x,      writes y     8 n bytes
    rms_norm_forward    reads x,      writes y     8 n bytes
    rms_norm_backward   reads dy, x,  writes dx   12 n bytes
"""

from bench.cases import Case, Shape, operations

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

OPERATIONS = operations("rmsnorm")


def cases(dtype: type) -> list[Case]:
    return [Case(operation, shape, dtype) for operation in OPERATIONS for shape in SHAPES]
