"""Write dx of a tile of x (N, C, L), and sum the gradients of its channels, in batch normalization."""

from typing import NamedTuple

import numpy as np

from numbanorm._math import mean_h_of_sum, sum_dy, sum_dy_x_hat, weighted_gradient_of_sums
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels.tiles import LINE, LONG, cut, line_width, row_of, rows_to
from numbanorm.cpu.vectors.elements import (
    GRADIENT_SUMS,
    add_float64_gradient_lines,
    add_gradient_lines,
    float64_row_gradient_sums,
    fold,
    input_gradient_row,
    repeat,
    row_gradient_sums,
)
from numbanorm.cpu.vectors.loops import checking, each_vector
from numbanorm.cpu.vectors.simd import LANES, at, pointer, put
from numbanorm.cpu.vectors.streaming import expect, expect_edges

TRUE_TO = 16  # a shift of dy is kept if it is at most so many times the mean of dy: then no digit that counts is lost


class GradientSums(NamedTuple):
    """Hold each channel's sums of h, g and g * h."""

    h: np.ndarray
    g: np.ndarray
    gh: np.ndarray


class GradientTerms(NamedTuple):
    """Hold what dx = factor * g + slope * h + offset is computed from, for each channel.

    g and h are as in `_math`.
    """

    m: np.ndarray
    rstd: np.ndarray
    m_dy: np.ndarray
    factor: np.ndarray
    slope: np.ndarray
    offset: np.ndarray


def _adding(sums_of_row, add_lines):
    """Make ``add(dy, x, tile, streams, m, rstd, m_dy, sums)`` from these loops.

    It adds to `GradientSums` of float64 each channel's sums over a tile of dy and x (N, C, L).
    """

    @block
    def add(dy, x, tile, streams, m, rstd, m_dy, sums):
        compact()
        (l0, l1), L, one = tile.l_range, x.shape[2], x.dtype.type(1)
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                following = row_of(x, tile, i + 1)[0]
                expect(pointer(x, following))
                expect(pointer(dy, following))
                runs = pointer(x, start), pointer(dy, start)
                sum_h, sum_g, sum_gh = sums_of_row(l1 - l0, *runs, one, m[j], rstd[j], m_dy[j])
                sums.h[j] += sum_h
                sums.g[j] += sum_g
                sums.gh[j] += sum_gh
            return
        width = line_width(x, tile, LINE)
        m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
        long_sums = np.zeros((GRADIENT_SUMS, width + LANES))
        short_sums = np.zeros(long_sums.shape, m.dtype)
        for start, stride, count, size in cut(x, tile, width):
            runs = pointer(x, start), stride, streams, pointer(dy, start)
            add_lines(long_sums, short_sums, count, size, *runs, one, m, rstd, m_dy)
        fold(long_sums, width, L, (sums.h, sums.g, sums.gh))

    return add


add_gradient_sums = _adding(row_gradient_sums, add_gradient_lines)  # m, rstd and m_dy of x's dtype
add_float64_gradient_sums = _adding(float64_row_gradient_sums, add_float64_gradient_lines)  # these of float64


@block
def apply_gradient_tile(streams, dy, x, tile, terms, dx):
    """Write dx of a tile, from the `GradientTerms` of its channels."""
    compact()
    (l0, l1), L, one = tile.l_range, x.shape[2], x.dtype.type(1)
    m, rstd, m_dy, factor, slope, offset = terms
    if L >= LONG:
        for i in range(rows_to(tile)):
            start, j = row_of(x, tile, i)
            expect_edges(streams, pointer(dx, row_of(x, tile, i + 1)[0]), l1 - l0)
            runs = pointer(dx, start), pointer(dy, start), pointer(x, start)
            channel_terms = m[j], rstd[j], m_dy[j], factor[j], slope[j], offset[j]
            input_gradient_row(streams, l1 - l0, *runs, one, *channel_terms)
        return
    width = line_width(x, tile, LINE)
    m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
    factor, slope, offset = repeat(factor, L, width), repeat(slope, L, width), repeat(offset, L, width)
    for start, stride, count, size in cut(x, tile, width):
        for k in range(count):
            line = start + k * stride
            if stride > size:
                expect(pointer(x, line + stride))
                expect(pointer(dy, line + stride))
            runs = pointer(dx, line), pointer(dy, line), pointer(x, line)
            input_gradient_row(streams, size, *runs, one, m, rstd, m_dy, factor, slope, offset)


@block
def finish_backward(sums, count, m, rstd, m_dy, weight, dweight, dbias):
    """Fill dweight and dbias. Return the `GradientTerms`."""
    compact()
    factor, slope, offset = np.empty_like(rstd), np.empty_like(rstd), np.empty_like(rstd)
    statistics, results = (count, rstd, m_dy, weight), (dbias, factor, slope, offset)
    _finish_backward_row(rstd.size, dweight, sums.h, sums.g, sums.gh, *statistics, *results)
    return GradientTerms(m, rstd, m_dy, factor, slope, offset)


@each_vector
def _finish_backward_row(j, dweight, all_h, all_g, all_gh, count, rstd, m_dy, weight, dbias, factor, slope, offset):
    sum_h, sum_g, sum_gh = at(all_h, j), at(all_g, j), at(all_gh, j)
    put(dweight, j, sum_dy_x_hat(sum_gh, sum_g, mean_h_of_sum(sum_h, count)))
    put(dbias, j, sum_dy(sum_g, at(m_dy, j), at(np.float64(count), j)))
    terms = weighted_gradient_of_sums(sum_h, sum_g, sum_gh, at(rstd, j), at(weight, j), count)
    channel_factor, channel_slope, channel_offset = terms
    put(factor, j, channel_factor)
    put(slope, j, channel_slope)
    put(offset, j, channel_offset)


@block
def drop_untrue_shifts(sums, count, m_dy):
    """Set each m_dy to 0 that was far from its channel's mean of dy. Return whether there was one.

    If there was one, the caller has to take all sums again.
    """
    compact()
    if _all_true(m_dy.size, sums.g, m_dy, count):
        return False
    for j in range(m_dy.size):
        if not _shift_is_true(m_dy[j], sums.g[j], count):
            m_dy[j] = 0
    return True


@loop
def _shift_is_true(m_dy, sum_g, count):
    return abs(m_dy) <= abs(m_dy + sum_g / count) * TRUE_TO


@checking
def _all_true(j, sum_g, m_dy, count):
    return _shift_is_true(at(m_dy, j), at(sum_g, j), count)
