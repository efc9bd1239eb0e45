"""Compute mean and M2 of the channels of x (N, C, L), to be kept and merged. All is computed in float64."""

import numpy as np

from numbanorm.cpu.compiling.jit import compact, launcher, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.statistics import (
    PASSES,
    MomentSums,
    add_float64_channel_sums,
    channel_shift,
    finish_moments,
    keep_lost_squares,
    total,
)
from numbanorm.cpu.kernels.tiles import sum_steps, tile_of, work


@range_kernel
def float64_sums(lo, hi, streams, steps, x, m, partials):
    """Add the sums of d and d * d of tiles lo to hi, in float64, to partials (pieces, 2, C)."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        tile_sums = MomentSums(partials[piece, 0][c0:c1], partials[piece, 1][c0:c1])
        add_float64_channel_sums(x, tile, streams, m[c0:c1], tile_sums)
        if x.itemsize == 8:
            keep_lost_squares(x, tile, m[c0:c1], tile_sums.dd)


_float64_sums = parallel_for(float64_sums)


@launcher
def float64_channel_moments(engine, streams, x, mean, low, m2):
    """Write the mean of each channel of x (N, C, L), as mean + low, and its M2. All are (C,) and float64.

    A channel has one value or more. M2 is above 0 unless all values are equal. If it is below SMALL**2, float64 may not
    have held the squares.
    """
    compact()
    N, C, L = x.shape
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.empty((pieces, 2, C))
    channel_shift(x, (0, C), mean)
    for _ in range(PASSES):
        partials[:] = 0
        _float64_sums(engine, tiles, grain, (streams, steps, x, mean, partials))
        sums = total(partials)
        if finish_moments(sums[0], sums[1], np.float64(N * L), mean, low, m2):
            break
