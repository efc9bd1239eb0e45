"""Normalise long rows of x (rows, cols), which threads share, by layer or RMS normalization.

Forward, rows are long if they exceed a cache. Pieces of rows are summed, then normalised.

Backward, rows are long if several partial sums of the parameter gradients would take too much memory. Rows are taken a
panel at a time. The panel is summed, row by row or piece by piece, and then written in blocks of columns. Each block
adds up the parameter gradients of its columns.
"""

import numpy as np

from numbanorm._math import (
    input_gradient_of_sums,
    mean_h_of_sum,
    moments,
    rstd_and_mean_h,
    scaled_variance,
    sums_are_exact,
)
from numbanorm.cpu.compiling.jit import block, compact, launcher, loop, plain, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.norms import LAYER_NORM, RMS_NORM
from numbanorm.cpu.kernels.ranges import all_near
from numbanorm.cpu.kernels.statistics import moved
from numbanorm.cpu.kernels.tiles import BLOCK, block_of, blocks_to, edge_of
from numbanorm.cpu.vectors.elements import GRADIENT_SUMS, add_row, scaled_row
from numbanorm.cpu.vectors.loops import TERMS
from numbanorm.cpu.vectors.simd import LANES, item, pointer
from numbanorm.cpu.vectors.streaming import before_a_line, expect_edges, finish_stores

PIECE_VALUES = 65536  # values of a row that are summed at a time
ROW_BYTES = 1 << 20  # longer rows are read from memory twice, even by one thread
PARTIAL_COLUMNS = 2048  # for longer rows, 32 partial sums of the parameter gradients take more than 1 MB
PANEL_BYTES = 1 << 20  # of x, and as many of dy: a panel stays in a cache until it is read the second time


@plain
def long_forward(cols, itemsize):
    """Return whether rows of so many columns are for `layer_norm_long_rows_forward`."""
    return cols * itemsize > ROW_BYTES


@plain
def long_backward(cols):
    """Return whether rows of so many columns are for `layer_norm_long_rows_backward`."""
    return cols > PARTIAL_COLUMNS


@loop
def _pieces_to(cols):
    """Return the number of pieces of a row."""
    return (cols + PIECE_VALUES - 1) // PIECE_VALUES


@block
def _row_total(sums, first, end):
    """Return the sums of d and d * d of the pieces first to end."""
    compact()
    sum_d = sum_dd = 0.0
    for i in range(first, end):
        sum_d, sum_dd = sum_d + sums[i, 0], sum_dd + sums[i, 1]
    return sum_d, sum_dd


def _forward(norm):
    """Make the range kernels and the launcher of a norm."""
    row_shift, row_sums, far_row_moments = norm.row_shift, norm.row_sums, norm.far_row_moments
    store, normalize_row = norm.store, norm.normalize_row

    @range_kernel
    @norm.named("piece_sums")
    def piece_sums(lo, hi, x, m, sums):
        """Write the sums of d and d * d, about m (rows,), of pieces lo to hi of all rows to sums (rows * pieces, 2)."""
        compact()
        cols = x.shape[1]
        pieces = _pieces_to(cols)
        for i in range(lo, hi):
            r, c = i // pieces, i % pieces * PIECE_VALUES
            sums[i, 0], sums[i, 1] = row_sums(min(PIECE_VALUES, cols - c), pointer(x, r * cols + c), m[r])

    @range_kernel
    @norm.named("piece_normalize")
    def piece_normalize(lo, hi, streams, x, weight, bias, m, rstd, mean_h, scale, y):
        """Write blocks lo to hi of all rows of y.

        They are counted from the last one: what was summed last is still in the cache.
        """
        compact()
        rows, cols = x.shape
        edge = edge_of(y, cols)
        blocks = blocks_to(cols, edge)
        for i in range(lo, hi):
            back = rows * blocks - 1 - i
            r = back // blocks
            c, end = block_of(back % blocks, cols, edge)
            start = r * cols + c
            result, row, affine = pointer(y, start), pointer(x, start), (pointer(weight, c), pointer(bias, c))
            expect_edges(streams, result, end - c)
            if scale[r] != 1:
                scaled_row(end - c, result, row, scale[r])
                row = result
            normalize_row(streams, end - c, result, row, m[r], rstd[r], mean_h[r], *affine)
        finish_stores(streams)

    launch_sums, launch_normalize = parallel_for(piece_sums), parallel_for(piece_normalize)

    @launcher
    @norm.named("long_rows_forward")
    def long_rows_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
        """Do what `layer_norm_rows_forward` does, for long rows."""
        compact()
        rows, cols = x.shape
        pieces, m = _pieces_to(cols), np.empty(rows, x.dtype)
        for r in range(rows):
            m[r] = row_shift(cols, pointer(x, r * cols), 1.0)
        sums = np.empty((rows * pieces, 2))
        launch_sums(engine, rows * pieces, 1, (x, m, sums))
        row_rstd, mean_h, scale = np.empty_like(m), np.empty_like(m), np.empty_like(m)
        for r in range(rows):
            sum_d, sum_dd = _row_total(sums, r * pieces, (r + 1) * pieces)
            delta, var = moments(sum_d, sum_dd, cols)
            row_scale = 1.0
            if not sums_are_exact(delta, var, eps):
                m[r] = moved(m[r], delta)
                row, near = pointer(x, r * cols), np.float64(m[r])
                m[r], delta, var, row_scale = far_row_moments(cols, row, near, eps, x.itemsize)
            exact_rstd, mean_h[r] = rstd_and_mean_h(delta, var, scaled_variance(eps, row_scale))
            row_rstd[r], scale[r] = exact_rstd, row_scale
            store(mean, rstd, r, m[r], delta, exact_rstd, row_scale)
        blocks = rows * blocks_to(cols, edge_of(y, cols))
        rest = x, weight, bias, m, row_rstd, mean_h, scale, y
        launch_normalize(engine, blocks, PIECE_VALUES // BLOCK, (streams, *rest))

    return piece_sums, piece_normalize, long_rows_forward


piece_sums, piece_normalize, layer_norm_long_rows_forward = _forward(LAYER_NORM)
rms_piece_sums, rms_piece_normalize, rms_norm_long_rows_forward = _forward(RMS_NORM)


@block
def _finish_sums(sums, first, pieces, cols, rstd, linear):
    """Write mean_h, slope and offset of a row to linear[1:]."""
    compact()
    sum_h = sum_g = sum_gh = 0.0
    for i in range(first, first + pieces):
        sum_h, sum_g, sum_gh = sum_h + sums[i, 0], sum_g + sums[i, 1], sum_gh + sums[i, 2]
    linear[1] = mean_h_of_sum(sum_h, cols)
    linear[2], linear[3] = input_gradient_of_sums(sum_h, sum_g, sum_gh, np.float64(rstd), cols)


def _backward(norm):
    """Make the range kernels and the launcher of a norm."""
    row_shift, row_gradient_sums, gradients_row = norm.row_shift, norm.row_gradient_sums, norm.gradients_row
    parameters, write_parameter_gradients = norm.parameters, norm.write_parameter_gradients

    @range_kernel
    @norm.named("piece_gradient_sums")
    def piece_gradient_sums(lo, hi, first, dy, x, mean, rstd, weight, sums):
        """Write the `row_gradient_sums` of pieces lo to hi to sums (rows * pieces, 3).

        The panel begins at row `first`.
        """
        compact()
        cols, as_x = x.shape[1], x.dtype.type
        pieces = _pieces_to(cols)
        for i in range(lo, hi):
            r, c = first + i // pieces, i % pieces * PIECE_VALUES
            start, shift = r * cols + c, as_x(row_shift(cols, pointer(dy, r * cols), weight))
            runs = pointer(x, start), pointer(dy, start), pointer(weight, c)
            piece = row_gradient_sums(min(PIECE_VALUES, cols - c), *runs, item(mean, r), rstd[r], shift)
            for k in range(GRADIENT_SUMS):
                sums[i, k] = piece[k]

    @range_kernel
    @norm.named("column_gradients")
    def column_gradients(lo, hi, streams, rows, dy, x, mean, rstd, weight, linear, dx, totals, dweight, dbias):
        """Write dx of blocks lo to hi of columns of a panel, and add up the gradients of the parameters.

        They are added to totals (parameters, cols). If there is no other panel, totals is empty, and they are written
        to dweight and dbias. rows: the panel's first row, and the one after its last; linear (rows of the panel, 4):
        m_wdy, mean_h, slope and offset.
        """
        compact()
        (first, stop), cols = rows, x.shape[1]
        run, block_totals = np.empty((parameters, BLOCK + 4 * LANES), x.dtype), np.empty((parameters, BLOCK + LANES))
        edge = edge_of(dx, cols)
        for i in range(lo, hi):
            c, end = block_of(i, cols, edge)
            block_totals[:] = 0
            lead = (
                LANES + (before_a_line(run) - before_a_line(pointer(dx, c))) % LANES
            )  # begins cache lines where dx does
            for start in range(first, stop, TERMS):
                run[:] = 0
                for r in range(start, min(start + TERMS, stop)):
                    place = r * cols + c
                    of_row = linear[r - first]
                    m_wdy, mean_h, slope, offset = of_row[0], of_row[1], of_row[2], of_row[3]
                    expect_edges(streams, pointer(dx, place), end - c)
                    runs = pointer(dx, place), pointer(dy, place), pointer(x, place), pointer(weight, c)
                    statistics = item(mean, r), rstd[r], mean_h, m_wdy, slope, offset
                    gradients_row(streams, end - c, *runs, *statistics, run[:, lead:], run.shape[1])
                for k in range(parameters):
                    add_row(end - c, pointer(run, k * run.shape[1] + lead), block_totals[k])
            if totals.size > 0:
                for k in range(parameters):
                    add_row(end - c, block_totals[k], pointer(totals, k * cols + c))
            else:
                write_parameter_gradients(end - c, c, block_totals, dweight, dbias)
        finish_stores(streams)

    launch_sums, launch_gradients = parallel_for(piece_gradient_sums), parallel_for(column_gradients)

    @launcher
    @norm.named("long_rows_backward")
    def long_rows_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
        """Do what `layer_norm_rows_backward` does, for long rows."""
        compact()
        if not all_near(rstd, x.itemsize):
            return False
        (rows, cols), as_x = x.shape, x.dtype.type
        pieces = _pieces_to(cols)
        panel = max(1, PANEL_BYTES // (TERMS * cols * x.itemsize)) * TERMS
        if cols * x.itemsize > ROW_BYTES // 3:
            panel = rows  # no panel would stay in a cache, and totals would take much memory
        panel = min(panel, rows)
        totals, linear = np.zeros((parameters, cols if panel < rows else 0)), np.empty((panel, 4), x.dtype)
        sums = np.empty((panel * pieces, GRADIENT_SUMS))
        for first in range(0, rows, panel):
            stop = min(first + panel, rows)
            launch_sums(engine, (stop - first) * pieces, 1, (first, dy, x, mean, rstd, weight, sums))
            for r in range(first, stop):
                _finish_sums(sums, (r - first) * pieces, pieces, cols, rstd[r], linear[r - first])
                linear[r - first, 0] = as_x(row_shift(cols, pointer(dy, r * cols), weight))
            blocks = blocks_to(cols, edge_of(dx, cols))
            rest = (first, stop), dy, x, mean, rstd, weight, linear, dx, totals, dweight, dbias
            launch_gradients(engine, blocks, 1, (streams, *rest))
        if totals.size > 0:
            write_parameter_gradients(cols, 0, totals, dweight, dbias)
        return True

    return piece_gradient_sums, column_gradients, long_rows_backward


piece_gradient_sums, column_gradients, layer_norm_long_rows_backward = _backward(LAYER_NORM)
rms_piece_gradient_sums, rms_column_gradients, rms_norm_long_rows_backward = _backward(RMS_NORM)
