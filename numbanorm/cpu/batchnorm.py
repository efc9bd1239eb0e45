"""Batch normalization of x (N, C, L): statistics per channel, over N and L. With L = 1, x is rows x channels.

The work is cut into tiles of x. When a tile can hold whole channels and stay in the cache, one launch reads x once;
otherwise one launch sums, tile by tile, and a second applies.
"""

import numpy as np

from numbanorm._math import reciprocal_std, sum_of_products
from numbanorm.cpu.jit import block, inlined, launcher, loop, range_kernel
from numbanorm.cpu.loops import add_gradient_row, input_gradient_row, normalize_affine_row, row_gradient_sums
from numbanorm.cpu.moments import (
    TERMS,
    add_channel_sums,
    add_float64_sums,
    add_run,
    channel_moments,
    channel_shift,
    moments_of_far_sums,
    moments_of_sums,
    move_far_shifts,
    total,
)
from numbanorm.cpu.parallel import parallel_for
from numbanorm.cpu.tiles import LONG, SHORT, apply_steps, fold, lines, repeat, sum_steps, tile_of, whole_steps, work


@block
def _apply_tile(x, tile, m, delta, scale, bias, y):
    """y = ((x - m) - delta) * scale + bias, with scale = rstd * weight: one array less for lines to read."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L, one = x.shape[2], x.dtype.type(1)
    if L >= SHORT:
        for n in range(n0, n1):
            for c in range(c0, c1):
                j = c - c0
                normalize_affine_row(x[n, c][l0:l1], m[j], delta[j], scale[j], one, bias[j], y[n, c][l0:l1])
        return
    first, end, step, width = lines(x, tile)
    x, y = x.reshape(x.size), y.reshape(x.size)
    m, delta = repeat(m, L, width), repeat(delta, L, width)
    scale, bias = repeat(scale, L, width), repeat(bias, L, width)
    for start in range(first, end, step):
        line = slice(start, min(start + width, end))
        normalize_affine_row(x[line], m, delta, scale, one, bias, y[line])


@range_kernel
def whole_forward(lo, hi, steps, x, weight, bias, eps, y, mean, rstd, var):
    """Tiles lo to hi, of whole channels."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, delta = np.empty(c1 - c0, x.dtype), np.empty(c1 - c0)
        channel_moments(x, tile, m, delta, var[c0:c1])
        low, scale = _finish(m, delta, var[c0:c1], weight[c0:c1], eps, mean[c0:c1], rstd[c0:c1])
        _apply_tile(x, tile, m, low, scale, bias[c0:c1], y)


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
def apply(lo, hi, steps, x, m, delta, scale, bias, y):
    """Tiles lo to hi of y, from the statistics."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        _apply_tile(x, tile, m[c0:c1], delta[c0:c1], scale[c0:c1], bias[c0:c1], y)


_whole_forward, _apply = parallel_for(whole_forward), parallel_for(apply)
_sums, _float64_sums = parallel_for(sums), parallel_for(float64_sums)


@block
def _finish(m, delta, var, weight, eps, mean, rstd):
    """Fill mean and rstd; delta as x's dtype, and scale."""
    low, scale = np.empty_like(m), np.empty_like(m)
    for j in range(m.size):
        low[j] = delta[j]
        mean[j] = m[j] + delta[j]
        rstd[j] = reciprocal_std(var[j], eps)
        scale[j] = rstd[j] * weight[j]
    return low, scale


@launcher
def batch_norm_forward(engine, x, weight, bias, eps, y, mean, rstd, var):
    """x, y: (N, C, L); weight, bias, rstd: (C,); mean, var (biased): (C,), float64."""
    N, C, L = x.shape
    steps, small = whole_steps(x)
    if small:
        tiles, grain, _ = work(x, steps)
        _whole_forward(engine, tiles, grain, (steps, x, weight, bias, eps, y, mean, rstd, var))
        return
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m, delta, partials = np.empty(C, x.dtype), np.empty(C), np.zeros((pieces, 2, C))
    channel_shift(x, (0, C), m)
    _sums(engine, tiles, grain, (steps, x, m, partials))
    moments_of_sums(total(partials), N * L, delta, var)
    far = np.empty(C, np.bool_)
    if move_far_shifts(m, delta, var, far):
        partials[:] = 0
        _float64_sums(engine, tiles, grain, (steps, x, m, far, partials))
        moments_of_far_sums(total(partials), N * L, far, delta, var)
    low, scale = _finish(m, delta, var, weight, eps, mean, rstd)
    _apply_all(engine, x, m, low, scale, bias, y)


@inlined
def _apply_all(engine, x, m, delta, scale, bias, y):
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply(engine, tiles, grain, (steps, x, m, delta, scale, bias, y))


@launcher
def batch_norm(engine, x, mean, var, weight, bias, eps, y):
    """Inference. x, y: (N, C, L); mean, var (float64), weight, bias: (C,). False, and y untouched, if a var < 0."""
    m, delta = _in_two_parts(mean, weight)
    scale = np.empty_like(weight)
    for c in range(scale.size):
        if var[c] < 0:
            return False
        scale[c] = reciprocal_std(var[c], eps) * weight[c]
    _apply_all(engine, x, m, delta, scale, bias, y)
    return True


@loop
def _in_two_parts(mean, like):
    """m and delta with m + delta the float64 mean, as arrays like another."""
    m, delta = np.empty_like(like), np.empty_like(like)
    for c in range(m.size):
        m[c] = mean[c]
        delta[c] = mean[c] - m[c]
    return m, delta


@block
def _add_gradient_sums(dy, x, tile, m, sums):
    """Add to sums (three float64 arrays) each channel's sums of d, dy and dy * d over a tile."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L, one = x.shape[2], x.dtype.type(1)
    if L >= LONG:
        for n in range(n0, n1):
            for c in range(c0, c1):
                j = c - c0
                sum_d, sum_dy, sum_dy_d = row_gradient_sums(dy[n, c][l0:l1], x[n, c][l0:l1], one, m[j])
                sums[0][j] += sum_d
                sums[1][j] += sum_dy
                sums[2][j] += sum_dy_d
        return
    first, end, step, width = lines(x, tile)
    dy, x, m = dy.reshape(x.size), x.reshape(x.size), repeat(m, L, width)
    run, long = np.empty((3, width), m.dtype), np.zeros((3, width))
    for start in range(first, end, TERMS * step):
        run[:] = 0
        for at in range(start, min(start + TERMS * step, end), step):
            line = slice(at, min(at + width, end))
            add_gradient_row(dy[line], x[line], one, m, run[0], run[1], run[2])
        add_run(run, long)
    for k in range(3):
        fold(long[k], L, sums[k])


@block
def _apply_gradient_tile(dy, x, tile, m, delta, rstd, weight, mean_wdy, mean_wdy_x_hat, dx):
    (n0, n1), (c0, c1), (l0, l1) = tile
    L = x.shape[2]
    if L >= SHORT:
        for n in range(n0, n1):
            for c in range(c0, c1):
                j = c - c0
                own = m[j], delta[j], rstd[j], weight[j], mean_wdy[j], mean_wdy_x_hat[j]
                input_gradient_row(dy[n, c][l0:l1], x[n, c][l0:l1], *own, dx[n, c][l0:l1])
        return
    first, end, step, width = lines(x, tile)
    dy, x, dx = dy.reshape(x.size), x.reshape(x.size), dx.reshape(x.size)
    m, delta, rstd = repeat(m, L, width), repeat(delta, L, width), repeat(rstd, L, width)
    weight, mean_wdy = repeat(weight, L, width), repeat(mean_wdy, L, width)
    mean_wdy_x_hat = repeat(mean_wdy_x_hat, L, width)
    for start in range(first, end, step):
        line = slice(start, min(start + width, end))
        input_gradient_row(dy[line], x[line], m, delta, rstd, weight, mean_wdy, mean_wdy_x_hat, dx[line])


@block
def _finish_backward(sums, count, delta, rstd, weight, dweight, dbias):
    """Fill dweight and dbias; mean(wdy) and mean(wdy * x_hat)."""
    mean_wdy, mean_wdy_x_hat = np.empty_like(rstd), np.empty_like(rstd)
    for j in range(rstd.size):
        sum_dy_x_hat = sum_of_products(sums[2][j], sums[1][j], delta[j], rstd[j])
        dweight[j], dbias[j] = sum_dy_x_hat, sums[1][j]
        mean_wdy[j] = weight[j] * sums[1][j] / count
        mean_wdy_x_hat[j] = weight[j] * sum_dy_x_hat / count
    return mean_wdy, mean_wdy_x_hat


@range_kernel
def whole_backward(lo, hi, steps, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Tiles lo to hi, of whole channels."""
    count = x.shape[0] * x.shape[2]
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, scale, w = mean[c0:c1], rstd[c0:c1], weight[c0:c1]
        sums = np.zeros(c1 - c0), np.zeros(c1 - c0), np.zeros(c1 - c0)
        _add_gradient_sums(dy, x, tile, m, sums)
        delta = sums[0] / count  # the stored mean is rounded; this is what it lacks
        means = _finish_backward(sums, count, delta, scale, w, dweight[c0:c1], dbias[c0:c1])
        _apply_gradient_tile(dy, x, tile, m, delta.astype(x.dtype), scale, w, *means, dx)


@range_kernel
def gradient_sums(lo, hi, steps, dy, x, m, partials):
    """Tiles lo to hi: the sums of d, dy and dy * d into partials (pieces, 3, C), zero before."""
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1], partials[piece, 2][c0:c1]
        _add_gradient_sums(dy, x, tile, m[c0:c1], own)


@range_kernel
def apply_gradient(lo, hi, steps, dy, x, m, delta, rstd, weight, mean_wdy, mean_wdy_x_hat, dx):
    """Tiles lo to hi of dx, from the statistics."""
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = m[c0:c1], delta[c0:c1], rstd[c0:c1], weight[c0:c1], mean_wdy[c0:c1], mean_wdy_x_hat[c0:c1]
        _apply_gradient_tile(dy, x, tile, *own, dx)


_whole_backward, _gradient_sums, _apply_gradient = (
    parallel_for(whole_backward),
    parallel_for(gradient_sums),
    parallel_for(apply_gradient),
)


@inlined
def _all_gradient_sums(engine, dy, x, m):
    """Each channel's sums of d, dy and dy * d."""
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.zeros((pieces, 3, x.shape[1]))
    _gradient_sums(engine, tiles, grain, (steps, dy, x, m, partials))
    return total(partials)


@launcher
def batch_norm_backward(engine, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (N, C, L); all else (C,)."""
    count = x.shape[0] * x.shape[2]
    steps, small = whole_steps(x)
    if small:
        tiles, grain, _ = work(x, steps)
        _whole_backward(engine, tiles, grain, (steps, dy, x, mean, rstd, weight, dx, dweight, dbias))
        return
    sums = _all_gradient_sums(engine, dy, x, mean)
    delta = sums[0] / count
    mean_wdy, mean_wdy_x_hat = _finish_backward(sums, count, delta, rstd, weight, dweight, dbias)
    low = delta.astype(x.dtype)
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply_gradient(engine, tiles, grain, (steps, dy, x, mean, low, rstd, weight, mean_wdy, mean_wdy_x_hat, dx))


@launcher
def batch_norm_backward_frozen(engine, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """As `batch_norm_backward` where mean (float64) and rstd are constants."""
    count = x.shape[0] * x.shape[2]
    m, delta = _in_two_parts(mean, weight)
    sums = _all_gradient_sums(engine, dy, x, m)
    _finish_backward(sums, count, delta.astype(np.float64), rstd, weight, dweight, dbias)
    zero = np.zeros_like(m)
    _apply_all(engine, dy, zero, zero, rstd * weight, zero, dx)  # dx = dy * rstd * weight
