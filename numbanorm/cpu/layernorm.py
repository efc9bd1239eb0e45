"""Layer normalization over the columns of x (rows, cols), and over the middle axis of x (N, count, L)."""

import numpy as np

from numbanorm._math import input_gradient_of_sums, reciprocal_std
from numbanorm.cpu.jit import launcher, loop, range_kernel
from numbanorm.cpu.loops import (
    GRADIENT_SUMS,
    add_gradient_lines,
    gradients_row,
    input_gradient_row,
    normalize_affine_row,
    parameter_gradient_sums,
    row_gradient_sums,
)
from numbanorm.cpu.moments import (
    SHIFT_SAMPLES,
    TERMS,
    add_run,
    channel_moments,
    row_moments,
    row_shift,
    total,
)
from numbanorm.cpu.parallel import parallel_for
from numbanorm.cpu.simd import finish_stores
from numbanorm.cpu.tiles import PIECE

PARTIALS = 64  # at most so many partial sums of the parameter gradients
PARTIAL_BYTES = 1 << 20


@range_kernel
def rows_forward(lo, hi, streams, x, weight, bias, eps, y, mean, rstd):
    """Rows lo to hi."""
    as_x = x.dtype.type
    for r in range(lo, hi):
        m, delta, var = row_moments(x[r], eps)
        exact_rstd = reciprocal_std(var, eps)
        mean[r], rstd[r] = m + delta, exact_rstd
        normalize_affine_row(streams, y[r], x[r], m, rstd[r], as_x(delta * exact_rstd), weight, bias)
    finish_stores(streams)


_rows_forward = parallel_for(rows_forward)


@launcher
def layer_norm_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
    """x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,)."""
    rows, cols = x.shape
    _rows_forward(engine, rows, max(1, PIECE // cols), (streams, x, weight, bias, eps, y, mean, rstd))


@range_kernel
def rows_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Chunks lo to hi of `chunk` rows each; partials[i] (2, cols) takes its sums of dy * x_hat and dy."""
    (rows, cols), as_x = x.shape, x.dtype.type
    run = np.empty((2, cols), x.dtype)
    for i in range(lo, hi):
        end = min((i + 1) * chunk, rows)
        for start in range(i * chunk, end, TERMS):
            run[:] = 0
            for r in range(start, min(start + TERMS, end)):
                m, m_wdy = mean[r], row_shift(dy[r], weight)
                sums = row_gradient_sums(dy[r], x[r], weight, m, rstd[r], m_wdy)
                mean_h = as_x(sums[0] / cols)  # the stored mean is rounded; this is what it lacks
                slope, offset = input_gradient_of_sums(sums[0], sums[1], sums[2], rstd[r], cols)
                own = m, rstd[r], mean_h, m_wdy, as_x(slope), as_x(offset)
                gradients_row(streams, dx[r], dy[r], x[r], weight, *own, run[0], run[1])
            add_run(run, partials[i])
    finish_stores(streams)


_rows_backward = parallel_for(rows_backward)


@launcher
def layer_norm_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (rows, cols); mean, rstd: (rows,); weight, dweight, dbias: (cols,)."""
    rows, cols = x.shape
    chunks = _partials(rows * cols, cols, rows)
    chunk = (rows + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, cols))
    _rows_backward(engine, (rows + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials))
    _store_total(partials, dweight, dbias)


@loop
def _partials(size, count, most):
    """How many partial sums of the parameter gradients, 2 * count float64 values each: fixed by the shape.

    They take 1 MB or an eighth of x at the most, and one of more than two stands for TERMS rows or more.
    """
    rows = size // count
    affordable = min(max(PARTIAL_BYTES // (16 * count), rows // 32), max(2, rows // TERMS))
    return max(1, min(size // (2 * PIECE), PARTIALS, affordable, most))


@loop
def _store_total(partials, dweight, dbias):
    sums = total(partials)
    for j in range(dweight.size):
        dweight[j], dbias[j] = sums[0, j], sums[1, j]


@loop
def _tiling(count, L):
    """Columns to a tile of x (N, count, L), so that a tile stays in the L2 cache, and tiles to an L."""
    width = min(L, 512, max(16, 4 * PIECE // count))
    return width, (L + width - 1) // width


@range_kernel
def columns_forward(lo, hi, streams, x, weight, bias, eps, y, mean, rstd):
    """Tiles lo to hi of x (N, count, L). weight and bias: (count,)."""
    count, L = x.shape[1:]
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        n, l0 = i // tiles, i % tiles * width
        l1 = min(l0 + width, L)
        m, delta = np.empty(l1 - l0, x.dtype), np.empty(l1 - l0)
        var, scale, mean_h = np.empty_like(delta), np.empty_like(m), np.empty_like(m)
        channel_moments(x[n].reshape((count, L, 1)), ((0, count), (l0, l1), (0, 1)), eps, m, delta, var)
        for j in range(m.size):
            exact_rstd = reciprocal_std(var[j], eps)
            mean[n, l0 + j], rstd[n, l0 + j] = m[j] + delta[j], exact_rstd
            scale[j], mean_h[j] = exact_rstd, delta[j] * exact_rstd
        for k in range(count):
            normalize_affine_row(streams, y[n, k][l0:l1], x[n, k][l0:l1], m, scale, mean_h, weight[k], bias[k])
    finish_stores(streams)


_columns_forward = parallel_for(columns_forward)


@launcher
def layer_norm_columns_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
    """x, y: (N, count, L); weight, bias: (count,); mean, rstd: (N, L)."""
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    grain = max(1, PIECE // (count * width))
    _columns_forward(engine, N * tiles, grain, (streams, x, weight, bias, eps, y, mean, rstd))


@range_kernel
def columns_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Chunks lo to hi of `chunk` tiles each; partials[i] (2, count) takes its sums of dy * x_hat and dy."""
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        for tile in range(i * chunk, min((i + 1) * chunk, N * tiles)):
            n, l0 = tile // tiles, tile % tiles * width
            l1 = min(l0 + width, L)
            m, scale, sums = mean[n][l0:l1], rstd[n][l0:l1], np.zeros((GRADIENT_SUMS, l1 - l0))
            m_wdy, mean_h = _column_shift(dy[n], weight, (l0, l1)), np.empty_like(m)
            add_gradient_lines(dy[n][:, l0:l1], x[n][:, l0:l1], weight, m, scale, m_wdy, sums)
            slope, offset = np.empty_like(m), np.empty_like(m)
            for j in range(m.size):
                mean_h[j] = sums[0, j] / count
                slope[j], offset[j] = input_gradient_of_sums(sums[0, j], sums[1, j], sums[2, j], scale[j], count)
            for k in range(count):
                dy_k, x_k = dy[n, k][l0:l1], x[n, k][l0:l1]
                sum_dy_x_hat, sum_dy = parameter_gradient_sums(dy_k, x_k, m, scale, mean_h)
                partials[i, 0, k] += sum_dy_x_hat
                partials[i, 1, k] += sum_dy
                own = weight[k], m, scale, m_wdy, scale, slope, offset
                input_gradient_row(streams, dx[n, k][l0:l1], dy_k, x_k, *own)
    finish_stores(streams)


@loop
def _column_shift(dy, weight, columns):
    """The mean of each column's first values times weight."""
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
    """dy, x, dx: (N, count, L); mean, rstd: (N, L); weight, dweight, dbias: (count,)."""
    N, count, L = x.shape
    tiles = N * _tiling(count, L)[1]
    chunks = _partials(x.size, count, tiles)
    chunk = (tiles + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, count))
    _columns_backward(
        engine, (tiles + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials)
    )
    _store_total(partials, dweight, dbias)
