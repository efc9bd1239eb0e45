"""What batch normalization does to a tile of x (N, C, L), and to the numbers that each of its channels has."""

import numpy as np

from numbanorm._math import (
    affine_of_d,
    input_gradient_of_sums,
    moving_average,
    range_scale,
    reciprocal_std,
    sum_dy_x_hat,
    unscaled,
)
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels.tiles import LINE, LONG, cut, line_width, row_of, rows_to
from numbanorm.cpu.vectors.elements import (
    GRADIENT_SUMS,
    add_gradient_lines,
    add_wide_gradient_lines,
    affine_row,
    fold,
    input_gradient_row,
    repeat,
    row_gradient_sums,
    wide_row_gradient_sums,
)
from numbanorm.cpu.vectors.loops import checking, each_vector
from numbanorm.cpu.vectors.simd import LANES, at, pointer, put
from numbanorm.cpu.vectors.streaming import expect, expect_edges

TRUE_TO = 16  # a shift of dy at most so many times the mean of dy costs none of the digits that count


def applying(row):
    """``apply(streams, x, tile, m, scale, offset, y, *more)``: row(streams, size, y, x, m, scale, offset, *more) over
    the runs of a tile, with the numbers of their channels.
    """

    @block
    def apply(streams, x, tile, m, scale, offset, y, *more):
        compact()
        (l0, l1), L = tile[2], x.shape[2]
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                expect_edges(streams, pointer(y, row_of(x, tile, i + 1)[0]), l1 - l0)
                row(streams, l1 - l0, pointer(y, start), pointer(x, start), m[j], scale[j], offset[j], *more)
            return
        width = line_width(x, tile, LINE)
        m, scale, offset = repeat(m, L, width), repeat(scale, L, width), repeat(offset, L, width)
        for start, stride, count, size in cut(x, tile, width):
            for k in range(count):
                line = start + k * stride
                if stride > size:
                    expect(pointer(x, line + stride))
                row(streams, size, pointer(y, line), pointer(x, line), m, scale, offset, *more)

    return apply


apply_tile = applying(affine_row)  # y = (x - m) * scale + offset


@block
def apply_scaled_tile(streams, x, tile, scale, m, factor, offset, y):
    """`apply_tile` of x * scale."""
    compact()
    zero = np.zeros_like(scale)
    apply_tile(False, x, tile, zero, scale, zero, y)
    apply_tile(streams, y, tile, m, factor, offset, y)


@block
def finish_forward(m, delta, var, weight, bias, eps, mean, rstd):
    """Fill mean and rstd; scale and offset."""
    compact()
    scale, offset = np.empty_like(m), np.empty_like(m)
    _finish_forward_row(m.size, mean, m, delta, var, weight, bias, eps, rstd, scale, offset)
    return scale, offset


@each_vector
def _finish_forward_row(j, mean, m, delta, var, weight, bias, eps, rstd, scale, offset):
    exact_rstd = reciprocal_std(at(var, j), eps)
    put(mean, j, at(delta, j) + at(m, j))
    put(rstd, j, exact_rstd)
    own_scale, own_offset = affine_of_d(at(delta, j), exact_rstd, at(weight, j), at(bias, j))
    put(scale, j, own_scale)
    put(offset, j, own_offset)


@block
def finish_scaled(scale, m, delta, var, weight, bias, eps, mean, rstd, factor, offset):
    """`finish_forward` of the channels with a scale other than 1; var becomes that of x."""
    compact()
    for c in range(m.size):
        own = np.float64(scale[c])
        if own != 1:
            exact_rstd = reciprocal_std(var[c], eps * own * own)
            mean[c], rstd[c] = unscaled(m[c], delta[c], exact_rstd, own)
            var[c] = var[c] / own / own
            factor[c], offset[c] = affine_of_d(delta[c], exact_rstd, weight[c], bias[c])


@each_vector
def average_row(j, running, batch, momentum, factor):
    put(running, j, moving_average(at(running, j), momentum, at(batch, j) * factor))


@checking
def none_negative(j, var):
    return ~(at(var, j) < 0.0)  # a NaN is none


@each_vector
def inference_row(j, scale, mean, m, var, weight, bias, eps, offset):
    rstd = reciprocal_std(at(var, j), eps)
    own_scale, own_offset = affine_of_d(at(mean, j) - at(m, j), rstd, at(weight, j), at(bias, j))
    put(scale, j, own_scale)
    put(offset, j, own_offset)


@block
def scaled_inference(scale, mean, var, weight, bias, eps, m, factor, offset):
    """Fill scale; m, factor and offset, which `inference_row` filled, of the channels with a scale other than 1."""
    compact()
    for c in range(m.size):
        own = range_scale(mean[c], var[c] + eps, m.itemsize)
        scale[c] = own
        if own != 1:
            own_mean = mean[c] * own
            m[c] = own_mean
            exact_rstd = reciprocal_std(var[c] * own * own, eps * own * own)
            factor[c], offset[c] = affine_of_d(own_mean - m[c], exact_rstd, weight[c], bias[c])


def _adding(sums_of_row, add_lines):
    """``add(dy, x, tile, far, m, rstd, m_dy, sums)``: add to sums (GRADIENT_SUMS float64 arrays) each channel's
    `row_gradient_sums` over a tile, by these loops.
    """

    @block
    def add(dy, x, tile, far, m, rstd, m_dy, sums):
        compact()
        (l0, l1), L, one = tile[2], x.shape[2], x.dtype.type(1)
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                following = row_of(x, tile, i + 1)[0]
                expect(pointer(x, following))
                expect(pointer(dy, following))
                own = sums_of_row(l1 - l0, pointer(x, start), pointer(dy, start), one, m[j], rstd[j], m_dy[j])
                for k in range(GRADIENT_SUMS):
                    sums[k][j] += own[k]
            return
        width = line_width(x, tile, LINE)
        m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
        long = np.zeros((GRADIENT_SUMS, width + LANES))
        short = np.zeros(long.shape, m.dtype)
        for start, stride, count, size in cut(x, tile, width):
            runs = pointer(x, start), stride, far, pointer(dy, start)
            add_lines(long, short, count, size, *runs, one, m, rstd, m_dy)
        fold(long, width, L, sums)

    return add


add_gradient_sums = _adding(row_gradient_sums, add_gradient_lines)  # m, rstd and m_dy of x's dtype
add_gradient_sums_apart = _adding(wide_row_gradient_sums, add_wide_gradient_lines)  # of float64, as all is then


@block
def apply_gradient_tile(streams, dy, x, tile, m, rstd, m_dy, scale, slope, offset, dx):
    """dx = (dy - m_dy) * scale + h * slope + offset."""
    compact()
    (l0, l1), L, one = tile[2], x.shape[2], x.dtype.type(1)
    if L >= LONG:
        for i in range(rows_to(tile)):
            start, j = row_of(x, tile, i)
            expect_edges(streams, pointer(dx, row_of(x, tile, i + 1)[0]), l1 - l0)
            runs = pointer(dx, start), pointer(dy, start), pointer(x, start)
            own = m[j], rstd[j], m_dy[j], scale[j], slope[j], offset[j]
            input_gradient_row(streams, l1 - l0, *runs, one, *own)
        return
    width = line_width(x, tile, LINE)
    m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
    scale, slope, offset = repeat(scale, L, width), repeat(slope, L, width), repeat(offset, L, width)
    for start, stride, count, size in cut(x, tile, width):
        for k in range(count):
            line = start + k * stride
            if stride > size:
                expect(pointer(x, line + stride))
                expect(pointer(dy, line + stride))
            runs = pointer(dx, line), pointer(dy, line), pointer(x, line)
            input_gradient_row(streams, size, *runs, one, m, rstd, m_dy, scale, slope, offset)


@block
def finish_backward(sums, count, rstd, m_dy, weight, dweight, dbias):
    """Fill dweight and dbias; scale, slope and offset."""
    compact()
    scale, slope, offset = np.empty_like(rstd), np.empty_like(rstd), np.empty_like(rstd)
    linear = scale, slope, offset
    _finish_backward_row(rstd.size, dweight, *sums, count, rstd, m_dy, weight, dbias, *linear)
    return linear


@each_vector
def _finish_backward_row(j, dweight, all_h, all_g, all_gh, count, rstd, m_dy, weight, dbias, scale, slope, offset):
    sum_h, sum_g, sum_gh, own_rstd, own_weight = at(all_h, j), at(all_g, j), at(all_gh, j), at(rstd, j), at(weight, j)
    put(dweight, j, sum_dy_x_hat(sum_gh, sum_g, sum_h / count))
    put(dbias, j, sum_g + at(m_dy, j) * at(np.float64(count), j))
    put(scale, j, own_rstd * own_weight)
    own_slope, own_offset = input_gradient_of_sums(sum_h, sum_g, sum_gh, own_rstd, count)
    put(slope, j, own_weight * own_slope)
    put(offset, j, own_weight * own_offset)


@block
def drop_untrue_shifts(sums, count, m_dy):
    """Whether some m_dy was far from its channel's mean of dy and is set to 0: then all sums are to be taken anew."""
    compact()
    if _all_true(m_dy.size, sums[1], m_dy, count):
        return False
    for j in range(m_dy.size):
        if not _shift_is_true(m_dy[j], sums[1][j], count):
            m_dy[j] = 0
    return True


@loop
def _shift_is_true(m_dy, sum_g, count):
    return abs(m_dy) <= abs(m_dy + sum_g / count) * TRUE_TO


@checking
def _all_true(j, sum_g, m_dy, count):
    return _shift_is_true(at(m_dy, j), at(sum_g, j), count)
