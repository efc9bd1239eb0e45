"""Mean and M2 of the channels of x (N, C, L), to be kept and merged: all is float64."""

import numpy as np

from numbanorm.cpu.compiling.jit import compact, launcher, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.statistics import (
    PASSES,
    add_channel_sums_apart,
    channel_shift,
    finish_moments,
    keep_lost_squares,
    total,
)
from numbanorm.cpu.kernels.tiles import sum_steps, tile_of, work


@range_kernel
def sums_apart(lo, hi, far, steps, x, m, partials):
    """Tiles lo to hi: the sums of d and d * d, in float64, into partials (pieces, 2, C), zero before."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        sum_d, sum_dd = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1]
        add_channel_sums_apart(x, tile, far, m[c0:c1], (sum_d, sum_dd))
        if x.itemsize == 8:
            keep_lost_squares(x, tile, m[c0:c1], sum_dd)


_sums_apart = parallel_for(sums_apart)


@launcher
def channel_moments_apart(engine, far, x, mean, low, m2):
    """Of each channel of x (N, C, L), of one value or more: the mean, as mean + low, and M2; all (C,), float64. M2 is
    above 0 unless all values are equal, but if it is below SMALL**2, squares may have fallen below float64.
    """
    compact()
    N, C, L = x.shape
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.empty((pieces, 2, C))
    channel_shift(x, (0, C), mean)
    for _ in range(PASSES):
        partials[:] = 0
        _sums_apart(engine, tiles, grain, (far, steps, x, mean, partials))
        sums = total(partials)
        if finish_moments(sums[0], sums[1], np.float64(N * L), mean, low, m2):
            break
