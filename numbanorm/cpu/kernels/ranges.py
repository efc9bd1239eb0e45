"""Statistics where sums of x's dtype did not do, taken anew in float64: of values far from their first shift, and of
values whose squares, or 1 / std, leave the range of the dtype.

Values of the second kind are multiplied by a power of two, their *scale* (`range_scale`). Then m, delta, var and rstd
are those of x * scale, and y is computed from x * scale, which is first written into y's memory. All other values have
a scale of 1.
"""

import math

import numpy as np

from numbanorm._math import dtype_range, moments, range_scale, reciprocal_std
from numbanorm.cpu.compiling.jit import block, compact, plain
from numbanorm.cpu.kernels.statistics import add_channel_sums, channel_shift, moments_of_sums
from numbanorm.cpu.vectors.elements import scaled_row_sums
from numbanorm.cpu.vectors.loops import TERMS, checking
from numbanorm.cpu.vectors.simd import at, pointer


@block
def far_row_moments(size, row, m, eps, itemsize):
    """m, delta and rstd of row * scale, and scale; m: a number near the mean of the row."""
    compact()
    delta, var = _row_moments(size, row, m, 1.0)
    scale = range_scale(m, var + eps, itemsize)
    if scale != 1.0:
        m *= scale
        delta, var = _row_moments(size, row, m, scale)
    return m, delta, reciprocal_std(var, eps * scale * scale), scale


@block
def _row_moments(size, row, m, scale):
    compact()
    sum_d, sum_dd = scaled_row_sums(size, row, m, scale)
    return moments(sum_d, sum_dd, size)


@block
def add_wide_sums(x, tile, m, inexact, scale, sums):
    """`add_channel_sums` in float64 of the channels that need it: slower, but it holds squares that float32 cannot."""
    compact()
    (n0, n1), (c0, c1), (l0, l1) = tile
    C, L = x.shape[1:]
    for first in range(n0, n1, TERMS):
        for c in range(c0, c1):
            j = c - c0
            if inexact[j]:
                own_m, own_scale = np.float64(m[j]), np.float64(scale[j])
                all_d = all_dd = 0.0
                for n in range(first, min(first + TERMS, n1)):
                    row = pointer(x, (n * C + c) * L + l0)
                    sum_d, sum_dd = scaled_row_sums(l1 - l0, row, own_m, own_scale)
                    all_d, all_dd = all_d + sum_d, all_dd + sum_dd
                sums[0][j] += all_d
                sums[1][j] += all_dd


@block
def moments_of_wide_sums(sums, count, eps, inexact, scale, m, delta, var):
    """delta, var of the inexact channels only, so that an exact channel's bits never depend on its neighbours.

    Return whether some channels need a scale. These get one, and they alone stay marked as inexact, to be summed again.
    """
    compact()
    again = False
    for j in range(inexact.size):
        if inexact[j]:
            delta[j], var[j] = moments(sums[0][j], sums[1][j], count)
            inexact[j] = False
            if scale[j] == 1:
                scale[j] = range_scale(np.float64(m[j]), var[j] + eps, m.itemsize)
                inexact[j] = scale[j] != 1
                again |= inexact[j]
            if inexact[j]:
                m[j] *= scale[j]
                sums[0][j] = sums[1][j] = 0
    return again


@block
def channel_moments(x, tile, far, eps, m, delta, var, scale):
    """m, delta, var of each channel of a tile that holds whole channels of x (N, C, L).

    Return whether some channels have a scale other than 1. Only then is scale filled.
    """
    compact()
    count = x.shape[0] * x.shape[2]
    sums, inexact = (np.zeros(m.size), np.zeros(m.size)), np.empty(m.size, np.bool_)
    channel_shift(x, tile[1], m)
    add_channel_sums(x, tile, far, m, sums)
    if not moments_of_sums(sums, count, m, delta, var, eps, inexact):
        return False
    scale[:] = 1
    add_wide_sums(x, tile, m, inexact, scale, sums)
    if not moments_of_wide_sums(sums, count, eps, inexact, scale, m, delta, var):
        return False
    add_wide_sums(x, tile, m, inexact, scale, sums)
    moments_of_wide_sums(sums, count, eps, inexact, scale, m, delta, var)
    return True


@checking
def _is_in_range(j, var, eps, least, most):
    own = at(var, j) + eps
    return (own >= least) & (own <= most)


@block
def all_in_range(var, eps, itemsize):
    """Whether `range_scale` is 1 for all of these variances."""
    compact()
    _, most = dtype_range(itemsize)
    return _is_in_range(var.size, pointer(var, 0), eps, 1.0 / most, most)


@plain
def least_rstd(itemsize):
    """Below it, values may lie farther apart than their dtype holds."""
    _, most = dtype_range(itemsize)
    return 1.0 / math.sqrt(most)


@checking
def _is_near(j, rstd, least):
    own = at(rstd, j)
    return ~((own < least) & ~(own <= 0.0))


@block
def all_near(rstd, itemsize):
    """Whether x - mean fits x's dtype, of so many bytes, everywhere, as far as rstd tells."""
    compact()
    return _is_near(rstd.size, pointer(rstd, 0), least_rstd(itemsize))
