"""Count the partial sums of the parameter gradients of layer and RMS normalization."""

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.kernels.tiles import PIECE
from numbanorm.cpu.vectors.loops import TERMS

PARTIALS = 64  # partial sums of the parameter gradients at most
PARTIAL_BYTES = 1 << 20  # of all partial sums at most, if there are more than two


@loop
def partial_count(size, count, most):
    """Return the number of partial sums of the parameter gradients.

    It depends on the shape alone, and is `most` at most. A partial sum has 2 * count float64 values. More than two of
    them take PARTIAL_BYTES at most, and each has the sums of TERMS rows or more.
    """
    affordable = min(max(2, PARTIAL_BYTES // (16 * count)), max(2, size // count // TERMS))
    return max(1, min(size // (2 * PIECE), PARTIALS, affordable, most))
