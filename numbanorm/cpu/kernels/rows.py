"""Layer normalization of the rows of x (rows, cols), where a row stays in a cache. Kernels take a group at a time."""

import numpy as np

from numbanorm._math import (
    input_gradient_of_sums,
    moments,
    rstd_and_mean_h,
    scaled_variance,
    sums_are_exact,
    unscaled,
)
from numbanorm.cpu.compiling.jit import block, compact, launcher, loop, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.partials import partial_count, store_total
from numbanorm.cpu.kernels.ranges import all_near, far_row_moments
from numbanorm.cpu.kernels.statistics import moved
from numbanorm.cpu.kernels.tiles import BLOCK, PIECE, block_of, blocks_to, edge_of
from numbanorm.cpu.vectors.arithmetic import across_rows, eight, every, lane, with_lane
from numbanorm.cpu.vectors.elements import (
    add_row,
    gradients_row,
    normalize_affine_row,
    row_gradient_sums,
    row_lane_sums,
    row_shift,
    row_sums,
    scaled_row,
    shift_samples,
    shift_terms,
)
from numbanorm.cpu.vectors.loops import TERMS
from numbanorm.cpu.vectors.simd import FEW, LANES, at, few, first_few, lanes, pointer, put, whole
from numbanorm.cpu.vectors.streaming import (
    before_a_line,
    expect_edges,
    expect_row,
    finish_stores,
    needs_stage,
    store_staged,
    stream_staged,
)

GROUP = FEW  # rows at most whose statistics are computed together, in the lanes of float64 vectors
GROUP_VALUES = 1024  # values of a group of short rows: they stay in the first cache
NARROW = 256  # bytes: of shorter rows, the lanes of GROUP rows are added up together
NARROW_AHEAD = 2048  # bytes to prefetch ahead of such rows: the processor does not foresee enough
GROUP_BYTES = 1 << 17  # bytes of a group of long rows: it stays in the second cache, and parameters are read once


@loop
def _rows_to_a_group(cols, row_bytes):
    """The number of rows of a group: 1, 2, 4 or 8, so that groups make up TERMS rows."""
    group = GROUP
    while group > 1 and (group * cols > GROUP_VALUES if cols <= BLOCK else group * row_bytes > GROUP_BYTES):
        group //= 2
    return group


@range_kernel
def rows_forward(lo, hi, streams, x, weight, bias, eps, y, mean, rstd):
    """Normalise rows lo to hi, group by group.

    x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,), or (0,) if the caller does not want them. All arrays
    are C-ordered.
    """
    compact()
    cols = x.shape[1]
    group, edge = _rows_to_a_group(cols, cols * x.itemsize), edge_of(y, cols)
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
            m, sum_d, sum_dd = _sums_of_narrow_rows(first, count, streams, x, lane_sums, statistics)
        else:
            m, sum_d, sum_dd = _sums_row_by_row(first, count, x)
        delta, var = moments(sum_d, sum_dd, cols)
        (exact_rstd, mean_h), scaled = rstd_and_mean_h(delta, var, eps), False
        put(statistics, first_few(x), m)
        put(pointer(statistics, GROUP), first_few(x), exact_rstd)
        put(pointer(statistics, 2 * GROUP), first_few(x), mean_h)
        if mean.size > 0:
            put(pointer(mean, first), few(x, count), m + delta)
            put(pointer(rstd, first), few(x, count), exact_rstd)
        if not every(sums_are_exact(delta, var, eps), few(x, count)):
            scaled = _mend_far_rows(first, count, x, eps, m, delta, var, statistics, mean, rstd)
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
                normalize_affine_row(direct, end - c, result, row, *row_statistics, *affine)
        if staged:
            lead, skip = stream_staged(stage, lead, count * cols, skip, pointer(y, first * cols))
    if staged:
        store_staged(stage, lead, skip, pointer(y, hi * cols))
    finish_stores(streams)


@loop
def _sums_row_by_row(first, count, x):
    """The shift m of each of `count` rows, and its `row_sums`, as the lanes of vectors."""
    m = sum_d = sum_dd = eight(0.0)
    cols, as_x = x.shape[1], x.dtype.type
    for k in range(count):
        row = pointer(x, (first + k) * cols)
        shift = as_x(row_shift(cols, row, 1.0))
        row_d, row_dd = row_sums(cols, row, shift)
        m, sum_d, sum_dd = with_lane(m, k, shift), with_lane(sum_d, k, row_d), with_lane(sum_dd, k, row_dd)
    return m, sum_d, sum_dd


@loop
def _sums_of_narrow_rows(first, count, streams, x, lane_sums, shifts):
    """`_sums_row_by_row` of rows so short that adding up the lanes of each would take most of the time.

    The lanes of all rows are added up at once. Lanes from `count` on hold what was in lane_sums before.
    """
    cols = x.shape[1]
    one_row, one_each, samples = whole(x, 0, 0, 0), first_few(x), shift_samples(cols)
    for k in range(count):
        row = pointer(x, (first + k) * cols)
        if streams:
            expect_row(row, NARROW_AHEAD // x.itemsize, cols)
        put(pointer(lane_sums, k * GROUP), one_each, shift_terms(samples, row, 1.0))
    put(shifts, one_each, across_rows(lane_sums, one_each))
    for k in range(count):
        row_d, row_dd = row_lane_sums(cols, pointer(x, (first + k) * cols), shifts[k])
        put(pointer(lane_sums, k * lanes(x)), one_row, row_d)
        put(pointer(lane_sums, (GROUP + k) * lanes(x)), one_row, row_dd)
    sum_d, sum_dd = across_rows(lane_sums, one_row), across_rows(pointer(lane_sums, GROUP * lanes(x)), one_row)
    return eight(0.0) + at(shifts, one_each), sum_d, sum_dd  # all are float64, as those of longer rows


@block
def _mend_far_rows(first, count, x, eps, m, delta, var, statistics, mean, rstd):
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
            if mean.size > 0:
                mean[first + k], rstd[first + k] = unscaled(row_m, row_delta, row_rstd, scale)
        statistics[3 * GROUP + k] = scale
        scaled |= scale != 1.0
    return scaled


_rows_forward = parallel_for(rows_forward)


@launcher
def layer_norm_rows_forward(engine, streams, x, weight, bias, eps, y, mean, rstd):
    """Write y, mean and rstd. x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,), or (0,) if not wanted."""
    compact()
    rows, cols = x.shape
    _rows_forward(engine, rows, max(1, PIECE // cols), (streams, x, weight, bias, eps, y, mean, rstd))


@range_kernel
def rows_backward(lo, hi, streams, chunk, dy, x, mean, rstd, weight, dx, partials):
    """Write dx of chunks lo to hi of `chunk` rows each, group by group as in `rows_forward`.

    Add a chunk's sums of dy * x_hat and dy to partials[i] (2, cols).
    """
    compact()
    (rows, cols), as_x = x.shape, x.dtype.type
    group, edge = _rows_to_a_group(cols, 2 * cols * x.itemsize), edge_of(dx, cols)
    run = np.empty((2, cols // LANES * LANES + 4 * LANES), x.dtype)
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
                    row_h, row_g, row_gh = row_gradient_sums(cols, row, row_dy, weight, mean[r], rstd[r], shift)
                    m_wdy, rstd_lanes = with_lane(m_wdy, k, shift), with_lane(rstd_lanes, k, rstd[r])
                    sum_h, sum_g = with_lane(sum_h, k, row_h), with_lane(sum_g, k, row_g)
                    sum_gh = with_lane(sum_gh, k, row_gh)
                slope, offset = input_gradient_of_sums(sum_h, sum_g, sum_gh, rstd_lanes, cols)
                mean_h = sum_h / cols  # the stored mean is rounded, and this is what it lacks
                for b in range(blocks_to(cols, edge)):
                    c, last = block_of(b, cols, edge)
                    for k in range(count):
                        r, place = first + k, (first + k) * cols + c
                        result = pointer(stage, lead + k * cols) if staged else pointer(dx, place)
                        runs = result, pointer(dy, place), pointer(x, place), pointer(weight, c)
                        linear = as_x(lane(m_wdy, k)), as_x(lane(slope, k)), as_x(lane(offset, k))
                        statistics = mean[r], rstd[r], as_x(lane(mean_h, k)), *linear
                        gradients_row(direct, last - c, *runs, *statistics, run[:, margin + c :], run.shape[1])
                if staged:
                    lead, skip = stream_staged(stage, lead, count * cols, skip, pointer(dx, first * cols))
            for k in range(2):
                add_row(cols, pointer(run, k * run.shape[1] + margin), pointer(partials, (i * 2 + k) * cols))
    if staged:
        store_staged(stage, lead, skip, pointer(dx, min(hi * chunk, rows) * cols))
    finish_stores(streams)


_rows_backward = parallel_for(rows_backward)


@launcher
def layer_norm_rows_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Write dx, dweight and dbias. dy, x, dx: (rows, cols); mean, rstd: (rows,); weight, dweight, dbias: (cols,).

    Like all launchers of backward passes, return False and write nothing if differences of x do not fit its dtype
    (`ranges.all_near`).
    """
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    rows, cols = x.shape
    chunks = partial_count(rows * cols, cols, rows)
    chunk = (rows + chunks - 1) // chunks
    partials = np.zeros((chunks, 2, cols))
    _rows_backward(engine, (rows + chunk - 1) // chunk, 1, (streams, chunk, dy, x, mean, rstd, weight, dx, partials))
    store_total(partials, dweight, dbias)
    return True
