"""Compute statistics again in float64, where sums of x's dtype were not exact.

Some values are far from their first shift. Of others, the squares or 1 / std leave the range of the dtype. These are
multiplied by a power of two, their *scale* (`range_scale`). Then m, delta, var and rstd are those of x * scale, and y
is computed from x * scale, which is first written into y's memory. All other values have a scale of 1.
"""

import numpy as np

from numbanorm._math import dtype_range, moments, range_scale, reciprocal_std
from numbanorm.cpu.compiling.jit import block, compact, plain
from numbanorm.cpu.kernels.statistics import (
    MomentSums,
    add_channel_squares,
    add_channel_sums,
    channel_shift,
    moments_of_sums,
    no_channel_shift,
)
from numbanorm.cpu.vectors.elements import scaled_row_sums
from numbanorm.cpu.vectors.loops import TERMS, checking
from numbanorm.cpu.vectors.rms import scaled_row_squares
from numbanorm.cpu.vectors.simd import at, pointer


def _far_row_moments(scaled_sums):
    """Make ``far_row_moments(size, row, m, eps, itemsize)`` from a loop that sums a row times a scale."""

    @block
    def row_moments(size, row, m, scale):
        """Return delta and var of row * scale."""
        compact()
        sum_d, sum_dd = scaled_sums(size, row, m, scale)
        return moments(sum_d, sum_dd, size)

    @block
    def far_row_moments(size, row, m, eps, itemsize):
        """Return m, delta and var of row * scale, and the scale. m is a number near the mean of the row."""
        compact()
        delta, var = row_moments(size, row, m, 1.0)
        scale = range_scale(m, var + eps, itemsize)
        if scale != 1.0:
            m *= scale
            delta, var = row_moments(size, row, m, scale)
        return m, delta, var, scale

    return far_row_moments


far_row_moments, far_row_squares = _far_row_moments(scaled_row_sums), _far_row_moments(scaled_row_squares)


def _adding_inexact(scaled_sums):
    """Make ``add_inexact_sums(x, tile, m, inexact, scale, sums)`` from a loop that sums a row times a scale."""

    @block
    def add_inexact_sums(x, tile, m, inexact, scale, sums):
        """Do what `add_channel_sums` does in float64, for the inexact channels alone.

        float64 holds squares that float32 cannot.
        """
        compact()
        (n0, n1), (c0, c1), (l0, l1) = tile
        C, L = x.shape[1:]
        for first in range(n0, n1, TERMS):
            for c in range(c0, c1):
                j = c - c0
                if inexact[j]:
                    channel_m, channel_scale = np.float64(m[j]), np.float64(scale[j])
                    all_d = all_dd = 0.0
                    for n in range(first, min(first + TERMS, n1)):
                        row = pointer(x, (n * C + c) * L + l0)
                        sum_d, sum_dd = scaled_sums(l1 - l0, row, channel_m, channel_scale)
                        all_d, all_dd = all_d + sum_d, all_dd + sum_dd
                    sums.d[j] += all_d
                    sums.dd[j] += all_dd

    return add_inexact_sums


add_inexact_sums, add_inexact_squares = _adding_inexact(scaled_row_sums), _adding_inexact(scaled_row_squares)


@block
def moments_of_inexact_sums(sums, count, eps, inexact, scale, m, delta, var):
    """Compute delta and var of the inexact channels only, so that an exact channel's bits never depend on others.

    Return whether some channels need a scale. These get one, and they alone stay marked as inexact, to be summed again.
    """
    compact()
    again = False
    for j in range(inexact.size):
        if inexact[j]:
            delta[j], var[j] = moments(sums.d[j], sums.dd[j], count)
            inexact[j] = False
            if scale[j] == 1:
                scale[j] = range_scale(np.float64(m[j]), var[j] + eps, m.itemsize)
                inexact[j] = scale[j] != 1
                again |= inexact[j]
            if inexact[j]:
                m[j] *= scale[j]
                sums.d[j] = sums.dd[j] = 0
    return again


def _channel_moments(shift, add_sums, add_inexact):
    """Make ``channel_moments(x, tile, streams, eps, m, delta, var, scale)`` from what finds shifts and takes sums."""

    @block
    def channel_moments(x, tile, streams, eps, m, delta, var, scale):
        """Compute m, delta and var of each channel of a tile that holds whole channels of x (N, C, L).

        Return whether some channels have a scale other than 1. Only then is scale filled.
        """
        compact()
        count = x.shape[0] * x.shape[2]
        sums, inexact = MomentSums(np.zeros(m.size), np.zeros(m.size)), np.empty(m.size, np.bool_)
        shift(x, tile.c_range, m)
        add_sums(x, tile, streams, m, sums)
        if not moments_of_sums(sums, count, m, delta, var, eps, inexact):
            return False
        scale[:] = 1
        add_inexact(x, tile, m, inexact, scale, sums)
        if not moments_of_inexact_sums(sums, count, eps, inexact, scale, m, delta, var):
            return False
        add_inexact(x, tile, m, inexact, scale, sums)
        moments_of_inexact_sums(sums, count, eps, inexact, scale, m, delta, var)
        return True

    return channel_moments


channel_moments = _channel_moments(channel_shift, add_channel_sums, add_inexact_sums)
channel_squares = _channel_moments(no_channel_shift, add_channel_squares, add_inexact_squares)  # m and delta are 0


@checking
def _is_in_range(j, var, eps, least, most):
    var_eps = at(var, j) + eps
    return (var_eps >= least) & (var_eps <= most)


@block
def all_in_range(var, eps, itemsize):
    """Return whether `range_scale` is 1 for all of these variances."""
    compact()
    _, most = dtype_range(itemsize)
    return _is_in_range(var.size, pointer(var, 0), eps, 1.0 / most, most)


@plain
def least_rstd(itemsize):
    """Return the smallest rstd for which differences of values surely fit their dtype."""
    _, most = dtype_range(itemsize)
    return reciprocal_std(most, 0.0)


@checking
def _is_near(j, rstd, least):
    value = at(rstd, j)
    return ~((value < least) & ~(value <= 0.0))


@block
def all_near(rstd, itemsize):
    """Return whether all differences x - mean fit x's dtype, of so many bytes, as far as rstd tells."""
    compact()
    return _is_near(rstd.size, pointer(rstd, 0), least_rstd(itemsize))
