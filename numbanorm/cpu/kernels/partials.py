"""Partial sums of the parameter gradients of layer normalization, and their totals."""

from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels.statistics import total
from numbanorm.cpu.kernels.tiles import PIECE
from numbanorm.cpu.vectors.elements import (
    copy_row,
)
from numbanorm.cpu.vectors.loops import TERMS

PARTIALS = 64  # at most so many partial sums of the parameter gradients
PARTIAL_BYTES = 1 << 20


@loop
def partial_count(size, count, most):
    """How many partial sums of the parameter gradients, 2 * count float64 values each: fixed by the shape.

    More than two take 1 MB at the most, and each of them stands for TERMS rows or more.
    """
    affordable = min(max(2, PARTIAL_BYTES // (16 * count)), max(2, size // count // TERMS))
    return max(1, min(size // (2 * PIECE), PARTIALS, affordable, most))


@block
def store_total(partials, dweight, dbias):
    compact()
    sums = total(partials)
    copy_row(dweight.size, dweight, sums[0])
    copy_row(dbias.size, dbias, sums[1])
