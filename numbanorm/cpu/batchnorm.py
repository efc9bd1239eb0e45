"""Batch normalization of x (N, C, L): statistics per channel, over N and L. With L = 1, x is rows x channels.

The work is cut into tiles of x. When a tile can hold whole channels and stay in the cache, one launch reads x once;
otherwise one launch sums, tile by tile, and a second applies.
"""

import numpy as np

from numbanorm._math import affine_of_d, input_gradient_of_sums, reciprocal_std, sum_dy_x_hat
from numbanorm.cpu.jit import block, inlined, launcher, range_kernel
from numbanorm.cpu.loops import GRADIENT_SUMS, add_gradient_lines, affine_row, input_gradient_row, row_gradient_sums
from numbanorm.cpu.moments import (
    add_channel_sums,
    add_float64_sums,
    channel_moments,
    channel_shift,
    moments_of_far_sums,
    moments_of_sums,
    move_far_shifts,
    total,
)
from numbanorm.cpu.parallel import parallel_for
from numbanorm.cpu.simd import finish_stores
from numbanorm.cpu.tiles import (
    LONG,
    SHORT,
    apply_steps,
    fold,
    line_width,
    lines,
    repeat,
    sum_steps,
    tile_of,
    tiles_to,
    whole_steps,
    work,
)


@block
def _apply_tile(streams, x, tile, m, scale, offset, y):
    """y = (x - m) * scale + offset."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L = x.shape[2]
    if L >= SHORT:
        for n in range(n0, n1):
            for c in range(c0, c1):
                own = m[c - c0], scale[c - c0], offset[c - c0]
                affine_row(streams, y[n, c][l0:l1], x[n, c][l0:l1], *own)
        return
    width = line_width(x, tile)
    m, scale, offset = repeat(m, L, width), repeat(scale, L, width), repeat(offset, L, width)
    for x_lines, y_lines in zip(lines(x, tile, width), lines(y, tile, width)):
        for k in range(x_lines.shape[0]):
            affine_row(streams, y_lines[k], x_lines[k], m, scale, offset)


@range_kernel
def whole_forward(lo, hi, streams, steps, x, weight, bias, eps, y, mean, rstd, var):
    """Tiles lo to hi, of whole channels."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, delta = np.empty(c1 - c0, x.dtype), np.empty(c1 - c0)
        channel_moments(x, tile, eps, m, delta, var[c0:c1])
        affine = _finish(m, delta, var[c0:c1], weight[c0:c1], bias[c0:c1], eps, mean[c0:c1], rstd[c0:c1])
        _apply_tile(streams, x, tile, m, *affine, y)
    finish_stores(streams)


@range_kernel
def sums(lo, hi, steps, x, m, partials):
    """Tiles lo to hi: the sums of d and d * d into partials (pieces, 2, C), zero before."""
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        add_channel_sums(x, tile, m[c0:c1], (partials[piece, 0][c0:c1], partials[piece, 1][c0:c1]))


@range_kernel
def float64_sums(lo, hi, steps, x, m, far, partials):
    """`sums` of the channels that are far."""
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1]
        add_float64_sums(x, tile, m[c0:c1], far[c0:c1], own)


@range_kernel
def apply(lo, hi, streams, steps, x, m, scale, offset, y):
    """Tiles lo to hi of y, from the last: what was summed last is still in the cache."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile[1]
        _apply_tile(streams, x, tile, m[c0:c1], scale[c0:c1], offset[c0:c1], y)
    finish_stores(streams)


_whole_forward, _apply = parallel_for(whole_forward), parallel_for(apply)
_sums, _float64_sums = parallel_for(sums), parallel_for(float64_sums)


@block
def _finish(m, delta, var, weight, bias, eps, mean, rstd):
    """Fill mean and rstd; scale and offset."""
    scale, offset, exact_rstd = np.empty_like(m), np.empty_like(m), _reciprocal_stds(var, eps)
    for j in range(m.size):
        mean[j], rstd[j] = m[j] + delta[j], exact_rstd[j]
        scale[j], offset[j] = affine_of_d(delta[j], exact_rstd[j], weight[j], bias[j])
    return scale, offset


@block
def _reciprocal_stds(var, eps):
    """Apart from all else, since LLVM takes roots and quotients several at once only in a loop with few arrays."""
    rstd = np.empty_like(var)
    for j in range(var.size):
        rstd[j] = reciprocal_std(var[j], eps)
    return rstd


@launcher
def batch_norm_forward(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """x, y: (N, C, L); weight, bias, rstd: (C,); mean, var (biased): (C,), float64."""
    N, C, L = x.shape
    steps, small = whole_steps(x)
    if small:
        tiles, grain, _ = work(x, steps)
        _whole_forward(engine, tiles, grain, (streams, steps, x, weight, bias, eps, y, mean, rstd, var))
        return
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m, delta, partials = np.empty(C, x.dtype), np.empty(C), np.zeros((pieces, 2, C))
    channel_shift(x, (0, C), m)
    _sums(engine, tiles, grain, (steps, x, m, partials))
    moments_of_sums(total(partials), N * L, delta, var)
    far = np.empty(C, np.bool_)
    if move_far_shifts(m, delta, var, eps, far):
        partials[:] = 0
        _float64_sums(engine, tiles, grain, (steps, x, m, far, partials))
        moments_of_far_sums(total(partials), N * L, far, delta, var)
    scale, offset = _finish(m, delta, var, weight, bias, eps, mean, rstd)
    _apply_all(engine, streams, x, m, scale, offset, y)


@inlined
def _apply_all(engine, streams, x, m, scale, offset, y):
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply(engine, tiles, grain, (streams, steps, x, m, scale, offset, y))


@launcher
def batch_norm(engine, streams, x, mean, var, weight, bias, eps, y):
    """Inference. x, y: (N, C, L); mean, var (float64), weight, bias: (C,). False, and y untouched, if a var < 0."""
    negative = False
    for c in range(var.size):
        negative |= var[c] < 0
    if negative:
        return False
    m, scale, offset = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    rstd = _reciprocal_stds(var, eps)
    for c in range(m.size):
        m[c] = mean[c]
        scale[c], offset[c] = affine_of_d(mean[c] - m[c], rstd[c], weight[c], bias[c])
    _apply_all(engine, streams, x, m, scale, offset, y)
    return True


@block
def _add_gradient_sums(dy, x, tile, m, rstd, m_dy, sums):
    """Add to sums (GRADIENT_SUMS float64 arrays) each channel's `row_gradient_sums` over a tile."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L, one = x.shape[2], x.dtype.type(1)
    if L >= LONG:
        for n in range(n0, n1):
            for c in range(c0, c1):
                j = c - c0
                own = row_gradient_sums(dy[n, c][l0:l1], x[n, c][l0:l1], one, m[j], rstd[j], m_dy[j])
                for k in range(GRADIENT_SUMS):
                    sums[k][j] += own[k]
        return
    width = line_width(x, tile)
    m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
    long = np.zeros((GRADIENT_SUMS, width))
    for dy_lines, x_lines in zip(lines(dy, tile, width), lines(x, tile, width)):
        add_gradient_lines(dy_lines, x_lines, one, m, rstd, m_dy, long)
    for k in range(GRADIENT_SUMS):
        fold(long[k], L, sums[k])


@block
def _apply_gradient_tile(streams, dy, x, tile, m, rstd, m_dy, scale, slope, offset, dx):
    """dx = (dy - m_dy) * scale + h * slope + offset."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L, one = x.shape[2], x.dtype.type(1)
    if L >= SHORT:
        for n in range(n0, n1):
            for c in range(c0, c1):
                j = c - c0
                own = m[j], rstd[j], m_dy[j], scale[j], slope[j], offset[j]
                input_gradient_row(streams, dx[n, c][l0:l1], dy[n, c][l0:l1], x[n, c][l0:l1], one, *own)
        return
    width = line_width(x, tile)
    m, rstd, m_dy = repeat(m, L, width), repeat(rstd, L, width), repeat(m_dy, L, width)
    scale, slope, offset = repeat(scale, L, width), repeat(slope, L, width), repeat(offset, L, width)
    for x_lines, dy_lines, dx_lines in zip(lines(x, tile, width), lines(dy, tile, width), lines(dx, tile, width)):
        for k in range(x_lines.shape[0]):
            own = m, rstd, m_dy, scale, slope, offset
            input_gradient_row(streams, dx_lines[k], dy_lines[k], x_lines[k], one, *own)


@block
def _finish_backward(sums, count, rstd, weight, dweight, dbias):
    """Fill dweight and dbias; scale, slope and offset."""
    scale, slope, offset = np.empty_like(rstd), np.empty_like(rstd), np.empty_like(rstd)
    for j in range(rstd.size):
        dweight[j], dbias[j] = sum_dy_x_hat(sums[3, j], sums[4, j], sums[0, j] / count), sums[4, j]
        scale[j] = rstd[j] * weight[j]
        own_slope, own_offset = input_gradient_of_sums(sums[0, j], sums[1, j], sums[2, j], rstd[j], count)
        slope[j], offset[j] = weight[j] * own_slope, weight[j] * own_offset
    return scale, slope, offset


@range_kernel
def whole_backward(lo, hi, streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Tiles lo to hi, of whole channels."""
    count = x.shape[0] * x.shape[2]
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, r, m_dy = mean[c0:c1], rstd[c0:c1], np.empty(c1 - c0, x.dtype)
        channel_shift(dy, tile[1], m_dy)
        sums = np.zeros((GRADIENT_SUMS, c1 - c0))
        _add_gradient_sums(dy, x, tile, m, r, m_dy, sums)
        linear = _finish_backward(sums, count, r, weight[c0:c1], dweight[c0:c1], dbias[c0:c1])
        _apply_gradient_tile(streams, dy, x, tile, m, r, m_dy, *linear, dx)
    finish_stores(streams)


@range_kernel
def gradient_sums(lo, hi, steps, dy, x, m, rstd, m_dy, partials):
    """Tiles lo to hi: the `row_gradient_sums` into partials (pieces, GRADIENT_SUMS, C), zero before."""
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        _add_gradient_sums(dy, x, tile, m[c0:c1], rstd[c0:c1], m_dy[c0:c1], partials[piece][:, c0:c1])


@range_kernel
def apply_gradient(lo, hi, streams, steps, dy, x, m, rstd, m_dy, scale, slope, offset, dx):
    """Tiles lo to hi of dx, from the last: what was summed last is still in the cache."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile[1]
        own = m[c0:c1], rstd[c0:c1], m_dy[c0:c1], scale[c0:c1], slope[c0:c1], offset[c0:c1]
        _apply_gradient_tile(streams, dy, x, tile, *own, dx)
    finish_stores(streams)


_whole_backward, _gradient_sums, _apply_gradient = (
    parallel_for(whole_backward),
    parallel_for(gradient_sums),
    parallel_for(apply_gradient),
)


@inlined
def _all_gradient_sums(engine, dy, x, m, rstd):
    """A value near each channel's mean of dy, and the channel's `row_gradient_sums`."""
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m_dy, partials = np.empty_like(m), np.zeros((pieces, GRADIENT_SUMS, m.size))
    channel_shift(dy, (0, m.size), m_dy)
    _gradient_sums(engine, tiles, grain, (steps, dy, x, m, rstd, m_dy, partials))
    return m_dy, total(partials)


@launcher
def batch_norm_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (N, C, L); all else (C,)."""
    steps, small = whole_steps(x)
    if small:
        tiles, grain, _ = work(x, steps)
        _whole_backward(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias))
        return
    m_dy, sums = _all_gradient_sums(engine, dy, x, mean, rstd)
    linear = _finish_backward(sums, x.shape[0] * x.shape[2], rstd, weight, dweight, dbias)
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply_gradient(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, m_dy, *linear, dx))


@launcher
def batch_norm_backward_frozen(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """As `batch_norm_backward` where mean (float64) and rstd are constants."""
    m = mean.astype(x.dtype)
    _, sums = _all_gradient_sums(engine, dy, x, m, rstd)
    for c in range(m.size):
        mean_h = (mean[c] - m[c]) * rstd[c]
        dweight[c], dbias[c] = sum_dy_x_hat(sums[3, c], sums[4, c], mean_h), sums[4, c]
    zero = np.zeros_like(m)
    _apply_all(engine, streams, dy, zero, rstd * weight, zero, dx)  # dx = rstd * wdy
