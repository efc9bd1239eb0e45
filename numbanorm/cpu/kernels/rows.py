"""Normalise the rows of x (rows, cols), where a row stays in a cache, by layer or RMS normalization.

Kernels take a group of rows at a time.
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
from numbanorm.cpu.compiling.jit import block, compact, launcher, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.norms import LAYER_NORM, RMS_NORM
from numbanorm.cpu.kernels.partials import partial_count
from numbanorm.cpu.kernels.ranges import all_near
from numbanorm.cpu.kernels.row_groups import GROUP, GROUP_VALUES, NARROW, rows_to_a_group, summing_row_by_row
from numbanorm.cpu.kernels.statistics import moved, total
from numbanorm.cpu.kernels.tiles import PIECE, block_of, blocks_to, edge_of
from numbanorm.cpu.vectors.arithmetic import eight, every, lane, with_lane
from numbanorm.cpu.vectors.elements import add_row, scaled_row
from numbanorm.cpu.vectors.loops import TERMS
from numbanorm.cpu.vectors.simd import LANES, few, first_few, item, lanes, pointer, put
from numbanorm.cpu.vectors.streaming import (
    before_a_line,
    expect_edges,
    finish_stores,
    needs_stage,
    store_staged,
    stream_staged,
)


def _forward(norm):
    """Make the range kernel and the launcher of a norm."""
    sums_row_by_row = summing_row_by_row(norm.row_shift, norm.row_sums)
    sums_of_narrow_rows, far_row_moments = norm.sums_of_narrow_rows, norm.far_row_moments
    store, store_few, normalize_row = norm.store, norm.store_few, norm.normalize_row

    @range_kernel
    @norm.named("range_of_rows_forward")
    def rows_forward(lo, hi, streams, x, weight, bias, eps, y, mean, rstd):
        """Normalise rows lo to hi, group by group.

        x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,), or (0,) if the caller does not want them. All
        arrays are C-ordered.
        """
        compact()
        cols = x.shape[1]
        group, edge = rows_to_a_group(cols, cols * x.itemsize), edge_of(y, cols)
        staged = needs_stage(streams, y, cols)
        stage = np.empty(GROUP_VALUES + 2 * LANES if staged else 0, x.dtype)
        direct, lead = streams and not staged, -before_a_line(pointer(y, lo * cols)) % lanes(y)
        skip = lead
        lane_sums = np.empty(2 * GROUP * LANES, np.float64)  # room for the sums of each lane of the rows of a group
        statistics = np.empty(4 * GROUP, x.dtype)  # of the rows of a group: all m, all rstd, all mean_h, all scale
        for first in range(lo, hi, group):
            count = min(group, hi - first)
            for k in range(count):
                expect_edges(direct, pointer(y, (first + k) * cols), cols)
            if cols * x.itemsize <= NARROW:
                m, sum_d, sum_dd = sums_of_narrow_rows(first, count, streams, x, lane_sums, statistics)
            else:
                m, sum_d, sum_dd = sums_row_by_row(first, count, x)
            delta, var = moments(sum_d, sum_dd, cols)
            (exact_rstd, mean_h), scaled = rstd_and_mean_h(delta, var, eps), False
            put(statistics, first_few(x), m)
            put(pointer(statistics, GROUP), first_few(x), exact_rstd)
            put(pointer(statistics, 2 * GROUP), first_few(x), mean_h)
            store_few(mean, rstd, first, few(x, count), m + delta, exact_rstd)
            if not every(sums_are_exact(delta, var, eps), few(x, count)):
                scaled = mend_far_rows(first, count, x, eps, m, delta, var, statistics, mean, rstd)
            for i in range(blocks_to(cols, edge)):
                c, end = block_of(i, cols, edge)
                affine = pointer(weight, c), pointer(bias, c)
                for k in range(count):
                    start = (first + k) * cols + c
                    result = pointer(stage, lead + k * cols) if staged else pointer(y, start)
                    row_statistics = statistics[k], statistics[GROUP + k], statistics[2 * GROUP + k]
                    row = pointer(x, start)
                    if scaled:
                        scaled_row(end - c, result, row, statistics[3 * GROUP + k])
                        row = result
                    normalize_row(direct, end - c, result, row, *row_statistics, *affine)
            if staged:
                lead, skip = stream_staged(stage, lead, count * cols, skip, pointer(y, first * cols))
        if staged:
            store_staged(stage, lead, skip, pointer(y, hi * cols))
        finish_stores(streams)

    @block
    def mend_far_rows(first, count, x, eps, m, delta, var, statistics, mean, rstd):
        """Compute the statistics of rows again whose sums were not exact, and the scales of all `count` rows.

        Return whether some scales are not 1.
        """
        compact()
        cols, scaled = x.shape[1], False
        for k in range(count):
            scale = 1.0
            if not sums_are_exact(lane(delta, k), lane(var, k), eps):
                near = np.float64(x.dtype.type(moved(lane(m, k), lane(delta, k))))
                row = pointer(x, (first + k) * cols)
                row_m, row_delta, row_var, scale = far_row_moments(cols, row, near, eps, x.itemsize)
                row_rstd, mean_h = rstd_and_mean_h(row_delta, row_var, scaled_variance(eps, scale))
                statistics[k], statistics[GROUP + k], statistics[2 * GROUP + k] = row_m, row_rstd, mean_h
                store(mean, rstd, first + k, row_m, row_delta, row_rstd, scale)
            statistics[3 * GROUP + k] = scale
            scaled |= scale != 1.0
        return scaled

    launch = parallel_for(rows_forward)

    @launcher
    @norm.named("rows_forward")
    def all_rows_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
        """Write y, mean and rstd.

        x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,), or (0,) if not wanted.
        """
        compact()
        rows, cols = x.shape
        launch(engine, rows, max(1, PIECE // cols), (streams, x, weight, bias, eps, y, mean, rstd))

    return rows_forward, all_rows_forward


rows_forward, layer_norm_rows_forward = _forward(LAYER_NORM)
rms_rows_forward, rms_norm_rows_forward = _forward(RMS_NORM)


def _backward(norm):
    """Make the range kernel and the launcher of a norm."""
    row_shift, row_gradient_sums, gradients_row = norm.row_shift, norm.row_gradient_sums, norm.gradients_row
    parameters, write_parameter_gradients = norm.parameters, norm.write_parameter_gradients

    @range_kernel
    @norm.named("range_of_rows_backward")
    def rows_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
        """Write dx of chunks lo to hi of `chunk` rows each, group by group as in `rows_forward`.

        Add a chunk's gradients of the parameters to partials[i] (parameters, cols).
        """
        compact()
        (rows, cols), as_x = x.shape, x.dtype.type
        group, edge = rows_to_a_group(cols, 2 * cols * x.itemsize), edge_of(dx, cols)
        run = np.empty((parameters, cols // LANES * LANES + 4 * LANES), x.dtype)
        margin = LANES + (before_a_line(run) - before_a_line(dx)) % LANES  # so that it begins cache lines where dx does
        staged = needs_stage(streams, dx, cols)
        stage = np.empty(GROUP_VALUES + 2 * LANES if staged else 0, x.dtype)
        direct, lead = streams and not staged, -before_a_line(pointer(dx, lo * chunk * cols)) % lanes(dx)
        skip = lead
        for i in range(lo, hi):
            end = min((i + 1) * chunk, rows)
            for start in range(i * chunk, end, TERMS):
                run[:] = 0
                stop = min(start + TERMS, end)
                for first in range(start, stop, group):
                    count = min(group, stop - first)
                    m_wdy = sum_h = sum_g = sum_gh = rstd_lanes = eight(0.0)
                    for k in range(count):
                        r = first + k
                        row_dy, row = pointer(dy, r * cols), pointer(x, r * cols)
                        expect_edges(direct, pointer(dx, r * cols), cols)
                        shift = as_x(row_shift(cols, row_dy, weight))
                        row_h, row_g, row_gh = row_gradient_sums(
                            cols, row, row_dy, weight, item(mean, r), rstd[r], shift
                        )
                        m_wdy, rstd_lanes = with_lane(m_wdy, k, shift), with_lane(rstd_lanes, k, rstd[r])
                        sum_h, sum_g = with_lane(sum_h, k, row_h), with_lane(sum_g, k, row_g)
                        sum_gh = with_lane(sum_gh, k, row_gh)
                    slope, offset = input_gradient_of_sums(sum_h, sum_g, sum_gh, rstd_lanes, cols)
                    mean_h = mean_h_of_sum(sum_h, cols)  # the stored mean is rounded, and this is what it lacks
                    for b in range(blocks_to(cols, edge)):
                        c, last = block_of(b, cols, edge)
                        for k in range(count):
                            r, place = first + k, (first + k) * cols + c
                            result = pointer(stage, lead + k * cols) if staged else pointer(dx, place)
                            runs = result, pointer(dy, place), pointer(x, place), pointer(weight, c)
                            linear = as_x(lane(m_wdy, k)), as_x(lane(slope, k)), as_x(lane(offset, k))
                            statistics = item(mean, r), rstd[r], as_x(lane(mean_h, k)), *linear
                            gradients_row(direct, last - c, *runs, *statistics, run[:, margin + c :], run.shape[1])
                    if staged:
                        lead, skip = stream_staged(stage, lead, count * cols, skip, pointer(dx, first * cols))
                for k in range(parameters):
                    add_row(
                        cols, pointer(run, k * run.shape[1] + margin), pointer(partials, (i * parameters + k) * cols)
                    )
        if staged:
            store_staged(stage, lead, skip, pointer(dx, min(hi * chunk, rows) * cols))
        finish_stores(streams)

    launch = parallel_for(rows_backward)

    @launcher
    @norm.named("rows_backward")
    def all_rows_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
        """Write dx, dweight and dbias.

        dy, x, dx: (rows, cols); mean, rstd: (rows,); weight, dweight, dbias: (cols,).

        Like all launchers of backward passes, return False and write nothing if differences of x do not fit its dtype
        (`ranges.all_near`).
        """
        compact()
        if not all_near(rstd, x.itemsize):
            return False
        rows, cols = x.shape
        chunks = partial_count(rows * cols, cols, rows)
        chunk = (rows + chunks - 1) // chunks
        partials = np.zeros((chunks, parameters, cols))
        launch(engine, (rows + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials))
        write_parameter_gradients(cols, 0, total(partials), dweight, dbias)
        return True

    return rows_backward, all_rows_backward


rows_backward, layer_norm_rows_backward = _backward(LAYER_NORM)
rms_rows_backward, rms_norm_rows_backward = _backward(RMS_NORM)
