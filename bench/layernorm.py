"""Layer normalization: what is timed, and the bytes that it must move.

For x of n values of 4 bytes (weight, bias, mean and rstd are small beside it)::

    layer_norm            reads x,      writes y     8 n bytes
    layer_norm_forward    reads x,      writes y     8 n bytes
    layer_norm_backward   reads dy, x,  writes dx   12 n bytes
"""

from bench.cases import Case, Shape, operations

SHAPES = (
    Shape("BERT", (4096, 768), -1, quick=True),
    Shape("BERT", (512, 768), -1),
    Shape("ViT", (32, 197, 384), -1),
    Shape("ConvNeXt", (8, 96, 56, 56), 1, quick=True),
    Shape("ConvNeXt", (8, 768, 7, 7), 1),
    Shape("MLP", (2048, 512), -1),
    Shape("MLP", (64, 4096), -1),
    Shape("narrow", (65536, 64), -1),
    Shape("wide", (256, 8192), -1, quick=True),
    Shape("wide", (1024, 8192), -1),
    Shape("large", (262144, 64), -1),
    Shape("large", (65536, 256), -1),
    Shape("large", (16384, 1024), -1),
    Shape("large", (8192, 2048), -1),
    Shape("large", (2048, 8192), -1),
    Shape("large", (512, 32768), -1),
    Shape("tiny", (60, 100), -1),
    Shape("tiny", (1, 768), -1, quick=True),
)

OPERATIONS = operations("layernorm")


def cases(dtype: type) -> list[Case]:
    return [Case(operation, shape, dtype) for operation in OPERATIONS for shape in SHAPES]
