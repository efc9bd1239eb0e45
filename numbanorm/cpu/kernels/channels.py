"""Define the range kernels of batch normalization over tiles of x (N, C, L), and run them over all of x."""

import numpy as np

from numbanorm.cpu.compiling.jit import block, compact, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.channel_tiles import apply_scaled_tile, apply_tile, finish_forward, finish_scaled
from numbanorm.cpu.kernels.gradient_tiles import (
    GradientSums,
    GradientTerms,
    add_gradient_sums,
    apply_gradient_tile,
    drop_untrue_shifts,
    finish_backward,
)
from numbanorm.cpu.kernels.ranges import add_inexact_sums, channel_moments
from numbanorm.cpu.kernels.statistics import MomentSums, add_channel_sums, gradient_shift, total
from numbanorm.cpu.kernels.tiles import apply_steps, sum_steps, tile_of, tiles_to, work
from numbanorm.cpu.vectors.elements import GRADIENT_SUMS
from numbanorm.cpu.vectors.streaming import finish_stores


@range_kernel
def whole_forward(lo, hi, streams, steps, x, weight, bias, eps, y, mean, rstd, var):
    """Normalise tiles lo to hi, which hold whole channels."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        m, delta, scale = np.empty(c1 - c0, x.dtype), np.empty(c1 - c0), np.empty(c1 - c0, x.dtype)
        scaled = channel_moments(x, tile, streams, eps, m, delta, var[c0:c1], scale)
        statistics = m, delta, var[c0:c1], weight[c0:c1], bias[c0:c1], eps, mean[c0:c1], rstd[c0:c1]
        factor, offset = finish_forward(*statistics)
        if scaled:
            finish_scaled(scale, *statistics, factor, offset)
            apply_scaled_tile(streams, x, tile, scale, m, factor, offset, y)
        else:
            apply_tile(streams, x, tile, m, factor, offset, y)
    finish_stores(streams)


@range_kernel
def sums(lo, hi, streams, steps, x, m, partials):
    """Add the sums of d and d * d of tiles lo to hi to partials (pieces, 2, C)."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        tile_sums = MomentSums(partials[piece, 0][c0:c1], partials[piece, 1][c0:c1])
        add_channel_sums(x, tile, streams, m[c0:c1], tile_sums)


@range_kernel
def inexact_sums(lo, hi, steps, x, m, inexact, scale, partials):
    """Do what `sums` does in float64, for the inexact channels alone."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        tile_sums = MomentSums(partials[piece, 0][c0:c1], partials[piece, 1][c0:c1])
        add_inexact_sums(x, tile, m[c0:c1], inexact[c0:c1], scale[c0:c1], tile_sums)


@range_kernel
def apply(lo, hi, streams, steps, x, m, factor, offset, y):
    """Write tiles lo to hi of y, counted from the last one: what was summed last is still in the cache."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile.c_range
        apply_tile(streams, x, tile, m[c0:c1], factor[c0:c1], offset[c0:c1], y)
    finish_stores(streams)


all_whole_forward, _apply = parallel_for(whole_forward), parallel_for(apply)
all_sums, all_inexact_sums = parallel_for(sums), parallel_for(inexact_sums)


@block
def apply_to_all(engine, streams, x, m, factor, offset, y):
    """Write y = (x - m) * factor + offset."""
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    _apply(engine, tiles, grain, (streams, steps, x, m, factor, offset, y))


@block
def apply_scaled_to_all(engine, streams, x, scale, m, factor, offset, y):
    """Do what `apply_to_all` does for x * scale, which is first written to y."""
    compact()
    zero = np.zeros_like(scale)
    apply_to_all(engine, False, x, zero, scale, zero, y)
    apply_to_all(engine, streams, y, m, factor, offset, y)


@range_kernel
def whole_backward(lo, hi, streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Write dx of tiles lo to hi, which hold whole channels, and their dweight and dbias."""
    compact()
    count = x.shape[0] * x.shape[2]
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        m, r, m_dy = mean[c0:c1], rstd[c0:c1], np.empty(c1 - c0, x.dtype)
        gradient_shift(dy, tile.c_range, m_dy)
        all_sums = np.zeros((GRADIENT_SUMS, c1 - c0))
        sums = GradientSums(all_sums[0], all_sums[1], all_sums[2])
        add_gradient_sums(dy, x, tile, streams, m, r, m_dy, sums)
        if drop_untrue_shifts(sums, count, m_dy):
            all_sums[:] = 0
            add_gradient_sums(dy, x, tile, streams, m, r, m_dy, sums)
        terms = finish_backward(sums, count, m, r, m_dy, weight[c0:c1], dweight[c0:c1], dbias[c0:c1])
        apply_gradient_tile(streams, dy, x, tile, terms, dx)
    finish_stores(streams)


@range_kernel
def gradient_sums(lo, hi, streams, steps, dy, x, m, rstd, m_dy, partials):
    """Add the `GradientSums` of tiles lo to hi to partials (pieces, GRADIENT_SUMS, C)."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        tile_sums = GradientSums(partials[piece, 0][c0:c1], partials[piece, 1][c0:c1], partials[piece, 2][c0:c1])
        add_gradient_sums(dy, x, tile, streams, m[c0:c1], rstd[c0:c1], m_dy[c0:c1], tile_sums)


@range_kernel
def apply_gradient(lo, hi, streams, steps, dy, x, m, rstd, m_dy, factor, slope, offset, dx):
    """Write tiles lo to hi of dx, counted from the last one: what was summed last is still in the cache."""
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, tiles_to(x, steps) - 1 - i)
        c0, c1 = tile.c_range
        terms = GradientTerms(m[c0:c1], rstd[c0:c1], m_dy[c0:c1], factor[c0:c1], slope[c0:c1], offset[c0:c1])
        apply_gradient_tile(streams, dy, x, tile, terms, dx)
    finish_stores(streams)


all_whole_backward, _gradient_sums, _apply_gradient = (
    parallel_for(whole_backward),
    parallel_for(gradient_sums),
    parallel_for(apply_gradient),
)


@block
def all_gradient_sums(engine, streams, dy, x, m, rstd, m_dy):
    """Return the `GradientSums` of all channels."""
    compact()
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.zeros((pieces, GRADIENT_SUMS, m.size))
    _gradient_sums(engine, tiles, grain, (streams, steps, dy, x, m, rstd, m_dy, partials))
    sums = total(partials)
    return GradientSums(sums[0], sums[1], sums[2])


@block
def apply_gradient_to_all(engine, streams, dy, x, terms, dx):
    """Write dx, from the `GradientTerms` of all channels."""
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    m, rstd, m_dy, factor, slope, offset = terms  # not as a tuple: `parallel_for` borrows arrays only
    _apply_gradient(engine, tiles, grain, (streams, steps, dy, x, m, rstd, m_dy, factor, slope, offset, dx))
