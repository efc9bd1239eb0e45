"""Layer normalization over the columns of x (rows, cols), and over the middle axis of x (N, count, L)."""

import numpy as np

from numbanorm._math import reciprocal_std, sum_of_products
from numbanorm.cpu.jit import launcher, loop, range_kernel
from numbanorm.cpu.loops import (
    add_column_gradient_sums,
    gradients_row,
    input_gradient_row,
    normalize_affine_row,
    normalize_row,
    parameter_gradient_sums,
    row_gradient_sums,
)
from numbanorm.cpu.moments import TERMS, add_run, channel_moments, row_moments, total
from numbanorm.cpu.parallel import parallel_for
from numbanorm.cpu.tiles import PIECE

PARTIALS = 64  # at most so many partial sums of the parameter gradients
PARTIAL_BYTES = 1 << 20


@range_kernel
def rows_forward(lo, hi, x, weight, bias, eps, y, mean, rstd):
    """Rows lo to hi. weight and bias: (cols,), or both empty for none."""
    as_x = x.dtype.type
    for r in range(lo, hi):
        m, delta, var = row_moments(x[r])
        scale = reciprocal_std(var, eps)
        mean[r] = m + delta
        rstd[r] = scale
        if weight.size == 0:
            normalize_row(x[r], m, as_x(delta), as_x(scale), y[r])
        else:
            normalize_affine_row(x[r], m, as_x(delta), as_x(scale), weight, bias, y[r])


_rows_forward = parallel_for(rows_forward)


@launcher
def layer_norm_forward(engine, x, weight, bias, eps, y, mean, rstd):
    """x, y: (rows, cols); weight, bias: (cols,) or both empty; mean, rstd: (rows,)."""
    rows, cols = x.shape
    _rows_forward(engine, rows, max(1, PIECE // cols), (x, weight, bias, eps, y, mean, rstd))


@range_kernel
def rows_backward(lo, hi, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Chunks lo to hi of `chunk` rows each; partials[i] (2, cols) takes its sums of dy * x_hat and dy."""
    as_x = x.dtype.type
    rows, cols = x.shape
    run = np.empty((2, cols), x.dtype)
    for i in range(lo, hi):
        end = min((i + 1) * chunk, rows)
        for start in range(i * chunk, end, TERMS):
            run[:] = 0
            for r in range(start, min(start + TERMS, end)):
                m = mean[r]
                sum_d, sum_wdy, sum_wdy_d = row_gradient_sums(dy[r], x[r], weight, m)
                delta = sum_d / cols  # the stored mean is rounded; this is what it lacks
                mean_wdy = as_x(sum_wdy / cols)
                mean_wdy_x_hat = as_x(sum_of_products(sum_wdy_d, sum_wdy, delta, rstd[r]) / cols)
                gradients_row(
                    dy[r], x[r], m, as_x(delta), rstd[r], weight, mean_wdy, mean_wdy_x_hat, dx[r], run[0], run[1]
                )
            add_run(run, partials[i])


_rows_backward = parallel_for(rows_backward)


@launcher
def layer_norm_backward(engine, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (rows, cols); mean, rstd: (rows,); weight, dweight, dbias: (cols,)."""
    rows, cols = x.shape
    chunks = _partials(rows * cols, cols, rows)
    chunk = (rows + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, cols))
    _rows_backward(engine, (rows + chunk - 1) // chunk, 1, (chunk, dy, x, mean, rstd, weight, dx, partials))
    _store_total(partials, dweight, dbias)


@loop
def _partials(size, count, most):
    """How many partial sums of the parameter gradients, 2 * count float64 values each: fixed by the shape."""
    affordable = max(8, PARTIAL_BYTES // (16 * count))
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
def columns_forward(lo, hi, x, weight, bias, eps, y, mean, rstd):
    """Tiles lo to hi of x (N, count, L). weight and bias: (count,)."""
    count, L = x.shape[1:]
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        n, l0 = i // tiles, i % tiles * width
        l1 = min(l0 + width, L)
        m, delta = np.empty(l1 - l0, x.dtype), np.empty(l1 - l0)
        var, low, scale = np.empty_like(delta), np.empty_like(m), np.empty_like(m)
        channel_moments(x[n].reshape((count, L, 1)), ((0, count), (l0, l1), (0, 1)), m, delta, var)
        for j in range(m.size):
            low[j] = delta[j]
            scale[j] = reciprocal_std(var[j], eps)
            mean[n, l0 + j] = m[j] + delta[j]
            rstd[n, l0 + j] = scale[j]
        for k in range(count):
            normalize_affine_row(x[n, k][l0:l1], m, low, scale, weight[k], bias[k], y[n, k][l0:l1])


_columns_forward = parallel_for(columns_forward)


@launcher
def layer_norm_columns_forward(engine, x, weight, bias, eps, y, mean, rstd):
    """x, y: (N, count, L); weight, bias: (count,); mean, rstd: (N, L)."""
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    grain = max(1, PIECE // (count * width))
    _columns_forward(engine, N * tiles, grain, (x, weight, bias, eps, y, mean, rstd))


@range_kernel
def columns_backward(lo, hi, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Chunks lo to hi of `chunk` tiles each; partials[i] (2, count) takes its sums of dy * x_hat and dy."""
    N, count, L = x.shape
    width, tiles = _tiling(count, L)
    for i in range(lo, hi):
        for tile in range(i * chunk, min((i + 1) * chunk, N * tiles)):
            n, l0 = tile // tiles, tile % tiles * width
            l1 = min(l0 + width, L)
            m, scale = mean[n][l0:l1], rstd[n][l0:l1]
            delta, mean_wdy, mean_wdy_x_hat = np.empty_like(m), np.empty_like(m), np.empty_like(m)
            sums = np.zeros(m.size), np.zeros(m.size), np.zeros(m.size)
            add_column_gradient_sums(dy[n], x[n], (0, count), (l0, l1), weight, m, sums)
            for j in range(m.size):
                exact_delta = sums[0][j] / count
                delta[j] = exact_delta
                mean_wdy[j] = sums[1][j] / count
                mean_wdy_x_hat[j] = sum_of_products(sums[2][j], sums[1][j], exact_delta, scale[j]) / count
            for k in range(count):
                dy_k, x_k = dy[n, k][l0:l1], x[n, k][l0:l1]
                sum_dy_x_hat, sum_dy = parameter_gradient_sums(dy_k, x_k, m, delta, scale)
                partials[i, 0, k] += sum_dy_x_hat
                partials[i, 1, k] += sum_dy
                input_gradient_row(dy_k, x_k, m, delta, scale, weight[k], mean_wdy, mean_wdy_x_hat, dx[n, k][l0:l1])


_columns_backward = parallel_for(columns_backward)


@launcher
def layer_norm_columns_backward(engine, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (N, count, L); mean, rstd: (N, L); weight, dweight, dbias: (count,)."""
    N, count, L = x.shape
    tiles = N * _tiling(count, L)[1]
    chunks = _partials(x.size, count, tiles)
    chunk = (tiles + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, count))
    _columns_backward(engine, (tiles + chunk - 1) // chunk, 1, (chunk, dy, x, mean, rstd, weight, dx, partials))
    _store_total(partials, dweight, dbias)
