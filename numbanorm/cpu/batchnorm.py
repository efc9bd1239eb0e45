"""Batch normalization of x (N, C, L): statistics per channel, over N and L. With L = 1, x is rows x channels.

The work is cut into tiles of x. Where a tile can hold whole channels and stay in the cache (`whole_steps` says so), one
launch reads x once; otherwise one launch sums, tile by tile, and a second applies: launchers `*_whole` and `*_parts`.
"""

import math

import numpy as np

from numbanorm._math import sum_dy_x_hat
from numbanorm.cpu.channels import (
    add_gradient_sums,
    apply_gradient_tile,
    apply_scaled_tile,
    apply_tile,
    average_row,
    drop_untrue_shifts,
    finish_backward,
    finish_forward,
    finish_scaled,
    inference_row,
    none_negative,
    scaled_inference,
)
from numbanorm.cpu.jit import block, compact, launcher, range_kernel
from numbanorm.cpu.loops import GRADIENT_SUMS, copy_row
from numbanorm.cpu.moments import (
    add_channel_sums,
    channel_shift,
    gradient_shift,
    moments_of_sums,
    total,
)
from numbanorm.cpu.parallel import parallel_for
from numbanorm.cpu.ranges import add_wide_sums, all_in_range, all_near, channel_moments, moments_of_wide_sums
from numbanorm.cpu.streaming import finish_stores
from numbanorm.cpu.tiles import apply_steps, sum_steps, tile_of, tiles_to, whole_steps, work


@range_kernel
def whole_forward(lo, hi, streams, steps, x, weight, bias, eps, y, mean, rstd, var):
    """Tiles lo to hi, of whole channels."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, delta, scale = np.empty(c1 - c0, x.dtype), np.empty(c1 - c0), np.empty(c1 - c0, x.dtype)
        scaled = channel_moments(x, tile, streams, eps, m, delta, var[c0:c1], scale)
        own = m, delta, var[c0:c1], weight[c0:c1], bias[c0:c1], eps, mean[c0:c1], rstd[c0:c1]
        affine = finish_forward(*own)
        if scaled:
            finish_scaled(scale, *own, *affine)
            apply_scaled_tile(streams, x, tile, scale, m, *affine, y)
        else:
            apply_tile(streams, x, tile, m, *affine, y)
    finish_stores(streams)


@range_kernel
def sums(lo, hi, far, steps, x, m, partials):
    """Tiles lo to hi: the sums of d and d * d into partials (pieces, 2, C), zero before."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        add_channel_sums(x, tile, far, m[c0:c1], (partials[piece, 0][c0:c1], partials[piece, 1][c0:c1]))


@range_kernel
def wide_sums(lo, hi, steps, x, m, inexact, scale, partials):
    """`sums` in float64, of the channels that need it."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1]
        add_wide_sums(x, tile, m[c0:c1], inexact[c0:c1], scale[c0:c1], own)


@range_kernel
def apply(lo, hi, streams, steps, x, m, scale, offset, y):
    """Tiles lo to hi of y, from the last: what was summed last is still in the cache."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile[1]
        apply_tile(streams, x, tile, m[c0:c1], scale[c0:c1], offset[c0:c1], y)
    finish_stores(streams)


_whole_forward, _apply = parallel_for(whole_forward), parallel_for(apply)
_sums, _wide_sums = parallel_for(sums), parallel_for(wide_sums)


@launcher
def batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """`batch_norm_forward` where tiles of whole channels are small."""
    compact()
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    _whole_forward(engine, tiles, grain, (streams, steps, x, weight, bias, eps, y, mean, rstd, var))


@launcher
def batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """`batch_norm_forward` of any x."""
    compact()
    N, C, L = x.shape
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m, delta, partials = np.empty(C, x.dtype), np.empty(C), np.zeros((pieces, 2, C))
    channel_shift(x, (0, C), m)
    _sums(engine, tiles, grain, (streams, steps, x, m, partials))
    sums, inexact, scale = total(partials), np.empty(C, np.bool_), np.ones(C, x.dtype)
    again, scaled = moments_of_sums((sums[0], sums[1]), N * L, m, delta, var, eps, inexact), False
    while again:
        partials[:] = 0
        _wide_sums(engine, tiles, grain, (steps, x, m, inexact, scale, partials))
        sums = total(partials)
        again = moments_of_wide_sums((sums[0], sums[1]), N * L, eps, inexact, scale, m, delta, var)
        scaled |= again
    own = m, delta, var, weight, bias, eps, mean, rstd
    factor, offset = finish_forward(*own)
    if scaled:
        finish_scaled(scale, *own, factor, offset)
        _apply_all_scaled(engine, streams, x, scale, m, factor, offset, y)
    else:
        _apply_all(engine, streams, x, m, factor, offset, y)


@launcher
def batch_norm_forward(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """x, y: (N, C, L); weight, bias, rstd: (C,); mean, var (biased): (C,), float64."""
    compact()
    if whole_steps(x.shape, x.itemsize)[1]:
        batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var)
    else:
        batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var)


@launcher
def update_running(momentum, mean, running_mean, var, factor, running_var, batches, skip_nonfinite):
    """Move running statistics towards mean and factor * var (float64), and count the batch: all in one call, which no
    signal interrupts. What nobody wants is empty.

    Whether mean and var are finite; if not, with `skip_nonfinite` nothing is moved or counted.
    """
    compact()
    finite = True
    for i in range(mean.size):
        finite = finite and math.isfinite(mean[i]) and math.isfinite(var[i])
    if skip_nonfinite and not finite:
        return False
    average_row(running_mean.size, running_mean, mean, momentum, 1.0)
    average_row(running_var.size, running_var, var, momentum, factor)
    for i in range(batches.size):
        batches[i] += 1
    return finite


@block
def _apply_all(engine, streams, x, m, scale, offset, y):
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply(engine, tiles, grain, (streams, steps, x, m, scale, offset, y))


@block
def _apply_all_scaled(engine, streams, x, scale, m, factor, offset, y):
    """`_apply_all` of x * scale, as `channels.apply_scaled_tile` does it for a tile."""
    compact()
    zero = np.zeros_like(scale)
    _apply_all(engine, False, x, zero, scale, zero, y)
    _apply_all(engine, streams, y, m, factor, offset, y)


@launcher
def batch_norm(engine, streams, x, mean, var, weight, bias, eps, y):
    """Inference. x, y: (N, C, L); mean, var (float64), weight, bias: (C,). False, and y untouched, if a var < 0."""
    compact()
    if not none_negative(var.size, var):
        return False
    m, factor, offset = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    copy_row(m.size, m, mean)
    inference_row(m.size, factor, mean, m, var, weight, bias, eps, offset)
    if all_in_range(var, eps, x.itemsize):
        _apply_all(engine, streams, x, m, factor, offset, y)
    else:
        scale = np.empty_like(weight)
        scaled_inference(scale, mean, var, weight, bias, eps, m, factor, offset)
        _apply_all_scaled(engine, streams, x, scale, m, factor, offset, y)
    return True


@range_kernel
def whole_backward(lo, hi, streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Tiles lo to hi, of whole channels."""
    compact()
    count = x.shape[0] * x.shape[2]
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile[1]
        m, r, m_dy = mean[c0:c1], rstd[c0:c1], np.empty(c1 - c0, x.dtype)
        gradient_shift(dy, tile[1], m_dy)
        all_sums = np.zeros((GRADIENT_SUMS, c1 - c0))
        sums = all_sums[0], all_sums[1], all_sums[2]
        add_gradient_sums(dy, x, tile, streams, m, r, m_dy, sums)
        if drop_untrue_shifts(sums, count, m_dy):
            all_sums[:] = 0
            add_gradient_sums(dy, x, tile, streams, m, r, m_dy, sums)
        linear = finish_backward(sums, count, r, m_dy, weight[c0:c1], dweight[c0:c1], dbias[c0:c1])
        apply_gradient_tile(streams, dy, x, tile, m, r, m_dy, *linear, dx)
    finish_stores(streams)


@range_kernel
def gradient_sums(lo, hi, far, steps, dy, x, m, rstd, m_dy, partials):
    """Tiles lo to hi: the `row_gradient_sums` into partials (pieces, GRADIENT_SUMS, C), zero before."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1], partials[piece, 2][c0:c1]
        add_gradient_sums(dy, x, tile, far, m[c0:c1], rstd[c0:c1], m_dy[c0:c1], own)


@range_kernel
def apply_gradient(lo, hi, streams, steps, dy, x, m, rstd, m_dy, scale, slope, offset, dx):
    """Tiles lo to hi of dx, from the last: what was summed last is still in the cache."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile[1]
        own = m[c0:c1], rstd[c0:c1], m_dy[c0:c1], scale[c0:c1], slope[c0:c1], offset[c0:c1]
        apply_gradient_tile(streams, dy, x, tile, *own, dx)
    finish_stores(streams)


_whole_backward, _gradient_sums, _apply_gradient = (
    parallel_for(whole_backward),
    parallel_for(gradient_sums),
    parallel_for(apply_gradient),
)


@block
def _all_gradient_sums(engine, far, dy, x, m, rstd, m_dy):
    """Each channel's `row_gradient_sums`."""
    compact()
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.zeros((pieces, GRADIENT_SUMS, m.size))
    _gradient_sums(engine, tiles, grain, (far, steps, dy, x, m, rstd, m_dy, partials))
    sums = total(partials)
    return sums[0], sums[1], sums[2]


@launcher
def batch_norm_backward_whole(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """`batch_norm_backward` where tiles of whole channels are small."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    _whole_backward(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias))
    return True


@launcher
def batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """`batch_norm_backward` of any x."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    (N, C, L), m_dy = x.shape, np.empty_like(mean)
    gradient_shift(dy, (0, C), m_dy)
    sums = _all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    if drop_untrue_shifts(sums, N * L, m_dy):
        sums = _all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    linear = finish_backward(sums, N * L, rstd, m_dy, weight, dweight, dbias)
    apply_gradient_to_all(engine, streams, dy, x, mean, rstd, m_dy, *linear, dx)
    return True


@block
def apply_gradient_to_all(engine, streams, dy, x, m, rstd, m_dy, scale, slope, offset, dx):
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply_gradient(engine, tiles, grain, (streams, steps, dy, x, m, rstd, m_dy, scale, slope, offset, dx))


@launcher
def batch_norm_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (N, C, L); all else (C,), and of x's dtype.

    False, and nothing written, if x lies too far apart, as in all launchers of backward passes (`ranges.all_near`).
    """
    compact()
    if whole_steps(x.shape, x.itemsize)[1]:
        return batch_norm_backward_whole(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)
    return batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)


@launcher
def batch_norm_backward_frozen(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """As `batch_norm_backward` where mean (float64) and rstd are constants."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    m = mean.astype(x.dtype)
    zero = np.zeros_like(m)
    _, sum_dy, sum_dy_h = _all_gradient_sums(engine, streams, dy, x, m, rstd, zero)
    for c in range(m.size):
        mean_h = (mean[c] - m[c]) * rstd[c]
        dweight[c], dbias[c] = sum_dy_x_hat(sum_dy_h[c], sum_dy[c], mean_h), sum_dy[c]
    _apply_all(engine, streams, dy, zero, rstd * weight, zero, dx)  # dx = rstd * wdy
    return True
