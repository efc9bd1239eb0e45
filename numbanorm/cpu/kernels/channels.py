"""The range kernels of batch normalization over tiles of x (N, C, L), and what runs them over all of x."""

import numpy as np

from numbanorm.cpu.compiling.jit import block, compact, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.channel_tiles import (
    add_gradient_sums,
    apply_gradient_tile,
    apply_scaled_tile,
    apply_tile,
    drop_untrue_shifts,
    finish_backward,
    finish_forward,
    finish_scaled,
)
from numbanorm.cpu.kernels.ranges import add_wide_sums, channel_moments
from numbanorm.cpu.kernels.statistics import (
    add_channel_sums,
    gradient_shift,
    total,
)
from numbanorm.cpu.kernels.tiles import apply_steps, sum_steps, tile_of, tiles_to, work
from numbanorm.cpu.vectors.elements import GRADIENT_SUMS
from numbanorm.cpu.vectors.streaming import finish_stores


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


all_whole_forward, _apply = parallel_for(whole_forward), parallel_for(apply)
all_sums, all_wide_sums = parallel_for(sums), parallel_for(wide_sums)


@block
def apply_to_all(engine, streams, x, m, scale, offset, y):
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply(engine, tiles, grain, (streams, steps, x, m, scale, offset, y))


@block
def apply_scaled_to_all(engine, streams, x, scale, m, factor, offset, y):
    """`apply_to_all` of x * scale, as `channels.apply_scaled_tile` does it for a tile."""
    compact()
    zero = np.zeros_like(scale)
    apply_to_all(engine, False, x, zero, scale, zero, y)
    apply_to_all(engine, streams, y, m, factor, offset, y)


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


all_whole_backward, _gradient_sums, _apply_gradient = (
    parallel_for(whole_backward),
    parallel_for(gradient_sums),
    parallel_for(apply_gradient),
)


@block
def all_gradient_sums(engine, far, dy, x, m, rstd, m_dy):
    """Each channel's `row_gradient_sums`."""
    compact()
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.zeros((pieces, GRADIENT_SUMS, m.size))
    _gradient_sums(engine, tiles, grain, (far, steps, dy, x, m, rstd, m_dy, partials))
    sums = total(partials)
    return sums[0], sums[1], sums[2]


@block
def apply_gradient_to_all(engine, streams, dy, x, m, rstd, m_dy, scale, slope, offset, dx):
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply_gradient(engine, tiles, grain, (streams, steps, dy, x, m, rstd, m_dy, scale, slope, offset, dx))
