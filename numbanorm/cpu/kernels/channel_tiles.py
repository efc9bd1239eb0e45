"""Normalise a tile of x (N, C, L), and finish the statistics of its channels, in batch normalization.

A *factor* is rstd * weight, as in `numbanorm._math`. A *scale* is a power of two, as in `numbanorm.cpu.kernels.ranges`.
"""

import numpy as np

from numbanorm._math import (
    moving_average,
    range_scale,
    rstd_factor_offset,
    scaled_variance,
    unscaled,
    unscaled_variance,
)
from numbanorm.cpu.compiling.jit import block, compact
from numbanorm.cpu.kernels.tiles import LINE, LONG, cut, line_width, row_of, rows_to
from numbanorm.cpu.vectors.elements import (
    affine_row,
    repeat,
)
from numbanorm.cpu.vectors.loops import checking, each_vector
from numbanorm.cpu.vectors.simd import at, pointer, put
from numbanorm.cpu.vectors.streaming import expect, expect_edges


def applying(row):
    """Make ``apply(streams, x, tile, m, factor, offset, y, *more)``.

    It calls row(streams, size, y, x, m, factor, offset, *more) for the runs of a tile, with the numbers of their
    channels.
    """

    @block
    def apply(streams, x, tile, m, factor, offset, y, *more):
        compact()
        (l0, l1), L = tile.l_range, x.shape[2]
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                expect_edges(streams, pointer(y, row_of(x, tile, i + 1)[0]), l1 - l0)
                row(streams, l1 - l0, pointer(y, start), pointer(x, start), m[j], factor[j], offset[j], *more)
            return
        width = line_width(x, tile, LINE)
        m, factor, offset = repeat(m, L, width), repeat(factor, L, width), repeat(offset, L, width)
        for start, stride, count, size in cut(x, tile, width):
            for k in range(count):
                line = start + k * stride
                if stride > size:
                    expect(pointer(x, line + stride))
                row(streams, size, pointer(y, line), pointer(x, line), m, factor, offset, *more)

    return apply


apply_tile = applying(affine_row)  # y = (x - m) * factor + offset


@block
def apply_scaled_tile(streams, x, tile, scale, m, factor, offset, y):
    """Do what `apply_tile` does for x * scale, which is first written to y."""
    compact()
    zero = np.zeros_like(scale)
    apply_tile(False, x, tile, zero, scale, zero, y)
    apply_tile(streams, y, tile, m, factor, offset, y)


@block
def finish_forward(m, delta, var, weight, bias, eps, mean, rstd):
    """Fill mean and rstd. Return factor and offset."""
    compact()
    factor, offset = np.empty_like(m), np.empty_like(m)
    _finish_forward_row(m.size, mean, m, delta, var, weight, bias, eps, rstd, factor, offset)
    return factor, offset


@each_vector
def _finish_forward_row(j, mean, m, delta, var, weight, bias, eps, rstd, factor, offset):
    terms = rstd_factor_offset(at(delta, j), at(var, j), eps, at(weight, j), at(bias, j))
    exact_rstd, channel_factor, channel_offset = terms
    put(mean, j, at(delta, j) + at(m, j))
    put(rstd, j, exact_rstd)
    put(factor, j, channel_factor)
    put(offset, j, channel_offset)


@block
def finish_scaled(scale, m, delta, var, weight, bias, eps, mean, rstd, factor, offset):
    """Do what `finish_forward` does for the channels with a scale other than 1. Make their var that of x."""
    compact()
    for c in range(m.size):
        s = np.float64(scale[c])
        if s != 1:
            scaled_eps = scaled_variance(eps, s)
            scaled_rstd, factor[c], offset[c] = rstd_factor_offset(delta[c], var[c], scaled_eps, weight[c], bias[c])
            mean[c], rstd[c] = unscaled(m[c], delta[c], scaled_rstd, s)
            var[c] = unscaled_variance(var[c], s)


@each_vector
def average_row(j, running, batch, momentum, correction):
    """Move running statistics towards batch * correction."""
    put(running, j, moving_average(at(running, j), momentum, at(batch, j) * correction))


@checking
def none_negative(j, var):
    """Return whether no variance is negative. A NaN is not."""
    return ~(at(var, j) < 0.0)


@each_vector
def inference_row(j, factor, mean, m, var, weight, bias, eps, offset):
    """Fill factor and offset from a given mean and var."""
    terms = rstd_factor_offset(at(mean, j) - at(m, j), at(var, j), eps, at(weight, j), at(bias, j))
    _, channel_factor, channel_offset = terms
    put(factor, j, channel_factor)
    put(offset, j, channel_offset)


@block
def scaled_inference(scale, mean, var, weight, bias, eps, m, factor, offset):
    """Fill scale.

    Compute m, factor and offset again, for x * scale, of the channels with a scale other than 1.
    """
    compact()
    for c in range(m.size):
        s = range_scale(mean[c], var[c] + eps, m.itemsize)
        scale[c] = s
        if s != 1:
            scaled_mean, scaled_var, scaled_eps = mean[c] * s, scaled_variance(var[c], s), scaled_variance(eps, s)
            m[c] = scaled_mean
            delta = scaled_mean - m[c]
            _, factor[c], offset[c] = rstd_factor_offset(delta, scaled_var, scaled_eps, weight[c], bias[c])
