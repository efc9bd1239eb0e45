"""Compute the statistics of a group of rows together, in the lanes of float64 vectors."""

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.kernels.tiles import BLOCK
from numbanorm.cpu.vectors.arithmetic import across_rows, eight, with_lane
from numbanorm.cpu.vectors.elements import row_lane_sums, shift_samples, shift_terms
from numbanorm.cpu.vectors.rms import square_lane_sums
from numbanorm.cpu.vectors.simd import FEW, at, first_few, lanes, pointer, put, whole
from numbanorm.cpu.vectors.streaming import expect_row

GROUP = FEW  # rows at most to a group
GROUP_VALUES = 1024  # values of a group of short rows: they stay in the first cache
NARROW = 256  # bytes: of shorter rows, the lanes of GROUP rows are added up together
NARROW_AHEAD = 2048  # bytes to prefetch ahead of such rows: the processor does not foresee enough
GROUP_BYTES = 1 << 17  # bytes of a group of long rows: it stays in the second cache, and parameters are read once


@loop
def rows_to_a_group(cols, row_bytes):
    """Return the number of rows of a group: 1, 2, 4 or 8, so that groups make up TERMS rows."""
    group = GROUP
    while group > 1 and (group * cols > GROUP_VALUES if cols <= BLOCK else group * row_bytes > GROUP_BYTES):
        group //= 2
    return group


def summing_row_by_row(row_shift, row_sums):
    """Make ``sums(first, count, x)``.

    It returns each row's shift m and its `row_sums`, as the lanes of vectors.
    """

    @loop
    def sums_row_by_row(first, count, x):
        m = sum_d = sum_dd = eight(0.0)
        cols, as_x = x.shape[1], x.dtype.type
        for k in range(count):
            row = pointer(x, (first + k) * cols)
            shift = as_x(row_shift(cols, row, 1.0))
            row_d, row_dd = row_sums(cols, row, shift)
            m, sum_d, sum_dd = with_lane(m, k, shift), with_lane(sum_d, k, row_d), with_lane(sum_dd, k, row_dd)
        return m, sum_d, sum_dd

    return sums_row_by_row


@loop
def sums_of_narrow_rows(first, count, streams, x, lane_sums, shifts):
    """Return each row's shift m and its `row_sums`, as the lanes of vectors, for narrow rows.

    Adding up the lanes row by row would take most of the time, so the lanes of all rows are added up at once. Lanes
    from `count` on hold what was in lane_sums before.
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


@loop
def squares_of_narrow_rows(first, count, streams, x, lane_sums, shifts):
    """Do what `sums_of_narrow_rows` does about 0: the third vector holds the sums of squares."""
    cols, one_row = x.shape[1], whole(x, 0, 0, 0)
    for k in range(count):
        row = pointer(x, (first + k) * cols)
        if streams:
            expect_row(row, NARROW_AHEAD // x.itemsize, cols)
        put(pointer(lane_sums, k * lanes(x)), one_row, square_lane_sums(cols, row)[0])
    return eight(0.0), eight(0.0), across_rows(lane_sums, one_row)
