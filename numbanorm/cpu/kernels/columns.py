"""Normalise x (N, count, L) over its middle axis, by layer or RMS normalization.

Kernels take a tile of columns at a time.
"""

import numpy as np

from numbanorm._math import input_gradient_of_sums, mean_h_of_sum, rstd_and_mean_h, scaled_variance
from numbanorm.cpu.compiling.jit import compact, launcher, loop, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.norms import LAYER_NORM, RMS_NORM
from numbanorm.cpu.kernels.partials import partial_count
from numbanorm.cpu.kernels.ranges import all_near
from numbanorm.cpu.kernels.statistics import LINES, total
from numbanorm.cpu.kernels.tiles import PIECE, Tile
from numbanorm.cpu.vectors.elements import add_row, scaled_row
from numbanorm.cpu.vectors.simd import LANES, item, pointer
from numbanorm.cpu.vectors.streaming import finish_stores


@loop
def _tiling(count, L):
    """Return the number of columns of a tile, and the number of tiles along L.

    A tile of x (N, count, L) stays in the L2 cache.
    """
    width = min(L, 512, max(16, 4 * PIECE // count))
    return width, (L + width - 1) // width


def _forward(norm):
    """Make the range kernel and the launcher of a norm."""
    column_moments, store, normalize_row = norm.column_moments, norm.store, norm.normalize_row

    @range_kernel
    @norm.named("range_of_columns_forward")
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
            scaled = column_moments(x[n].reshape((count, L, 1)), tile, streams, eps, m, delta, var, scale)
            for j in range(m.size):
                s = np.float64(scale[j]) if scaled else 1.0
                exact_rstd, exact_mean_h = rstd_and_mean_h(delta[j], var[j], scaled_variance(eps, s))
                store(mean, rstd, n * L + l0 + j, m[j], delta[j], exact_rstd, s)
                tile_rstd[j], mean_h[j] = exact_rstd, exact_mean_h
            for k in range(count):
                start = (n * count + k) * L + l0
                result, row = pointer(y, start), pointer(x, start)
                if scaled:
                    scaled_row(l1 - l0, result, row, scale)
                    row = result
                normalize_row(streams, l1 - l0, result, row, m, tile_rstd, mean_h, weight[k], item(bias, k))
        finish_stores(streams)

    launch = parallel_for(columns_forward)

    @launcher
    @norm.named("columns_forward")
    def all_columns_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
        """Write y, mean and rstd.

        x, y: (N, count, L); weight, bias: (count,); mean, rstd: (N, L), or (0, 0) if not wanted.
        """
        compact()
        N, count, L = x.shape
        width, tiles = _tiling(count, L)
        grain = max(1, PIECE // (count * width))
        launch(engine, N * tiles, grain, (streams, x, weight, bias, eps, y, mean, rstd))

    return columns_forward, all_columns_forward


columns_forward, layer_norm_columns_forward = _forward(LAYER_NORM)
rms_columns_forward, rms_norm_columns_forward = _forward(RMS_NORM)


def _backward(norm):
    """Make the range kernel and the launcher of a norm."""
    column_shift, add_gradient_lines, input_gradient_row = (
        norm.column_shift,
        norm.add_gradient_lines,
        norm.input_gradient_row,
    )
    line_sums, gradient_sums_at, parameter_gradient_sums = (
        norm.line_sums,
        norm.gradient_sums_at,
        norm.parameter_gradient_sums,
    )
    parameters, write_parameter_gradients = norm.parameters, norm.write_parameter_gradients

    @range_kernel
    @norm.named("range_of_columns_backward")
    def columns_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
        """Write dx of chunks lo to hi of `chunk` tiles each.

        Add the gradients of the parameters to partials[i] (parameters, count).
        """
        compact()
        N, count, L = x.shape
        width, tiles = _tiling(count, L)
        for i in range(lo, hi):
            for tile in range(i * chunk, min((i + 1) * chunk, N * tiles)):
                n, l0 = tile // tiles, tile % tiles * width
                l1 = min(l0 + width, L)
                m, tile_rstd, sums = pointer(mean, n * L + l0), rstd[n][l0:l1], np.zeros((line_sums, l1 - l0 + LANES))
                m_wdy, mean_h = column_shift(dy[n], weight, (l0, l1)), np.empty_like(tile_rstd)
                part, short = np.empty_like(sums), np.zeros(sums.shape, x.dtype)
                for first in range(0, count, LINES):
                    start = (n * count + first) * L + l0
                    runs = pointer(x, start), L, streams, pointer(dy, start), pointer(weight, first)
                    part[:] = 0
                    add_gradient_lines(part, short, min(LINES, count - first), l1 - l0, *runs, m, tile_rstd, m_wdy)
                    add_row(sums.size, part, pointer(sums, 0))
                slope, offset = np.empty_like(tile_rstd), np.empty_like(tile_rstd)
                for j in range(tile_rstd.size):
                    sum_h, sum_g, sum_gh = gradient_sums_at(sums, j)
                    mean_h[j] = mean_h_of_sum(sum_h, count)
                    slope[j], offset[j] = input_gradient_of_sums(sum_h, sum_g, sum_gh, tile_rstd[j], count)
                for k in range(count):
                    start = (n * count + k) * L + l0
                    row, row_dy = pointer(x, start), pointer(dy, start)
                    added = parameter_gradient_sums(l1 - l0, row, row_dy, m, tile_rstd, mean_h)
                    for p in range(parameters):
                        partials[i, p, k] += added[p]
                    terms = m, tile_rstd, m_wdy, tile_rstd, slope, offset
                    input_gradient_row(streams, l1 - l0, pointer(dx, start), row_dy, row, weight[k], *terms)
        finish_stores(streams)

    launch = parallel_for(columns_backward)

    @launcher
    @norm.named("columns_backward")
    def all_columns_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
        """Write dx, dweight and dbias.

        dy, x, dx: (N, count, L); mean, rstd: (N, L); weight, dweight, dbias: (count,).
        """
        compact()
        if not all_near(rstd, x.itemsize):
            return False
        N, count, L = x.shape
        tiles = N * _tiling(count, L)[1]
        chunks = partial_count(x.size, count, tiles)
        chunk = (tiles + chunks - 1) // chunks
        partials = np.zeros((chunks, parameters, count))
        launch(engine, (tiles + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials))
        write_parameter_gradients(count, 0, total(partials), dweight, dbias)
        return True

    return columns_backward, all_columns_backward


columns_backward, layer_norm_columns_backward = _backward(LAYER_NORM)
rms_columns_backward, rms_norm_columns_backward = _backward(RMS_NORM)
