"""Layer normalization over the middle axis of x (N, count, L). Kernels take a tile of columns at a time."""

import numpy as np

from numbanorm._math import input_gradient_of_sums, rstd_and_mean_h, scaled_variance, unscaled
from numbanorm.cpu.compiling.jit import block, compact, launcher, loop, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.partials import partial_count, store_total
from numbanorm.cpu.kernels.ranges import all_near, channel_moments
from numbanorm.cpu.kernels.statistics import LINES, SHIFT_SAMPLES
from numbanorm.cpu.kernels.tiles import PIECE, Tile
from numbanorm.cpu.vectors.elements import (
    GRADIENT_SUMS,
    add_gradient_lines,
    add_row,
    input_gradient_row,
    normalize_affine_row,
    parameter_gradient_sums,
    scaled_row,
)
from numbanorm.cpu.vectors.simd import LANES, pointer
from numbanorm.cpu.vectors.streaming import finish_stores


@loop
def _tiling(count, L):
    """The number of columns of a tile, and of tiles along L. A tile of x (N, count, L) stays in the L2 cache."""
    width = min(L, 512, max(16, 4 * PIECE // count))
    return width, (L + width - 1) // width


@range_kernel
def columns_forward(lo, hi, streams, x, weight, bias, eps, y, mean, rstd):
    """Normalise tiles lo to hi of x (N, count, L). weight and bias: (count,)."""
    compact()
    count, L = x.shape[1:]
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        n, l0 = i // tiles, i % tiles * width
        l1 = min(l0 + width, L)
        m, delta = np.empty(l1 - l0, x.dtype), np.empty(l1 - l0)
        var, tile_rstd, mean_h, scale = np.empty_like(delta), np.empty_like(m), np.empty_like(m), np.empty_like(m)
        tile = Tile((0, count), (l0, l1), (0, 1))
        scaled = channel_moments(x[n].reshape((count, L, 1)), tile, streams, eps, m, delta, var, scale)
        for j in range(m.size):
            s = np.float64(scale[j]) if scaled else 1.0
            exact_rstd, exact_mean_h = rstd_and_mean_h(delta[j], var[j], scaled_variance(eps, s))
            if mean.size > 0:
                mean[n, l0 + j], rstd[n, l0 + j] = unscaled(m[j], delta[j], exact_rstd, s)
            tile_rstd[j], mean_h[j] = exact_rstd, exact_mean_h
        for k in range(count):
            start = (n * count + k) * L + l0
            result, row = pointer(y, start), pointer(x, start)
            if scaled:
                scaled_row(l1 - l0, result, row, scale)
                row = result
            normalize_affine_row(streams, l1 - l0, result, row, m, tile_rstd, mean_h, weight[k], bias[k])
    finish_stores(streams)


_columns_forward = parallel_for(columns_forward)


@launcher
def layer_norm_columns_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
    """Write y, mean, rstd. x, y: (N, count, L); weight, bias: (count,); mean, rstd: (N, L), or (0, 0) if not wanted."""
    compact()
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    grain = max(1, PIECE // (count * width))
    _columns_forward(engine, N * tiles, grain, (streams, x, weight, bias, eps, y, mean, rstd))


@range_kernel
def columns_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Write dx of chunks lo to hi of `chunk` tiles each. Add dy * x_hat and dy to partials[i] (2, count)."""
    compact()
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        for tile in range(i * chunk, min((i + 1) * chunk, N * tiles)):
            n, l0 = tile // tiles, tile % tiles * width
            l1 = min(l0 + width, L)
            m, tile_rstd, sums = mean[n][l0:l1], rstd[n][l0:l1], np.zeros((GRADIENT_SUMS, l1 - l0 + LANES))
            m_wdy, mean_h = _column_shift(dy[n], weight, (l0, l1)), np.empty_like(m)
            part, short = np.empty_like(sums), np.zeros(sums.shape, x.dtype)
            for first in range(0, count, LINES):
                start = (n * count + first) * L + l0
                runs = pointer(x, start), L, streams, pointer(dy, start), pointer(weight, first)
                part[:] = 0
                add_gradient_lines(part, short, min(LINES, count - first), l1 - l0, *runs, m, tile_rstd, m_wdy)
                add_row(sums.size, part, pointer(sums, 0))
            slope, offset = np.empty_like(m), np.empty_like(m)
            for j in range(m.size):
                mean_h[j] = sums[0, j] / count
                slope[j], offset[j] = input_gradient_of_sums(sums[0, j], sums[1, j], sums[2, j], tile_rstd[j], count)
            for k in range(count):
                start = (n * count + k) * L + l0
                row, row_dy = pointer(x, start), pointer(dy, start)
                sum_dy_x_hat, sum_dy = parameter_gradient_sums(l1 - l0, row, row_dy, m, tile_rstd, mean_h)
                partials[i, 0, k] += sum_dy_x_hat
                partials[i, 1, k] += sum_dy
                terms = m, tile_rstd, m_wdy, tile_rstd, slope, offset
                input_gradient_row(streams, l1 - l0, pointer(dx, start), row_dy, row, weight[k], *terms)
    finish_stores(streams)


@block
def _column_shift(dy, weight, columns):
    """The shift of each column: the mean of its first values times weight."""
    compact()
    l0, l1 = columns
    total = np.zeros(l1 - l0)
    samples = min(dy.shape[0], SHIFT_SAMPLES)
    for k in range(samples):
        for j in range(total.size):
            total[j] += np.float64(dy[k, l0 + j]) * weight[k] / samples
    return total.astype(dy.dtype)


_columns_backward = parallel_for(columns_backward)


@launcher
def layer_norm_columns_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Write dx, dweight, dbias. dy, x, dx: (N, count, L); mean, rstd: (N, L); weight, dweight, dbias: (count,)."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    N, count, L = x.shape
    tiles = N * _tiling(count, L)[1]
    chunks = partial_count(x.size, count, tiles)
    chunk = (tiles + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, count))
    _columns_backward(
        engine, (tiles + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials)
    )
    store_total(partials, dweight, dbias)
    return True
