"""Mean and variance of rows and of channels, by the corrected two-pass of `numbanorm._math`.

float32 values are summed as float32 only in short runs, TERMS values to an accumulator; the runs are summed as float64.
So the sums' error, about 1e-8, depends neither on the number of values nor, thanks to the shift m, on their mean.
"""

import numpy as np

from numbanorm._math import moments, sums_are_exact
from numbanorm.cpu.jit import block, inlined, loop, summing
from numbanorm.cpu.simd import add_to, at, elementwise, item
from numbanorm.cpu.tiles import LONG, fold, line_width, lines, repeat

TERMS = 16
RUN = 32 * TERMS  # four 8-lane accumulators
TOGETHER = 8  # lines to read at once, into accumulators in registers: a divisor of TERMS
SHIFT_SAMPLES = 8  # a mean of 8 is within 2 std of the true one, but for 1 in 1e8


@loop
def difference(x, m):
    return x - m


@summing
def _run_sums(row, m):
    sum_d = sum_dd = row.dtype.type(0)
    for j in range(row.size):
        d = difference(row[j], m)
        sum_d += d
        sum_dd += d * d
    return sum_d, sum_dd


@inlined
def row_sums(row, m):
    """The sums of d and d * d over a row, d = row - m."""
    sum_d = sum_dd = 0.0
    for start in range(0, row.size, RUN):
        run_d, run_dd = _run_sums(row[start : start + RUN], m)
        sum_d += run_d
        sum_dd += run_dd
    return sum_d, sum_dd


@summing
def row_shift(row, weight):
    """The mean of a row's first values times weight, exact when they are equal."""
    first = row[:SHIFT_SAMPLES]
    total = 0.0
    for j in range(first.size):
        total += np.float64(first[j]) * item(weight, j)
    return row.dtype.type(total / first.size)


@inlined
def row_moments(row, eps):
    """m, delta, var of a row."""
    m = row_shift(row, 1)
    sum_d, sum_dd = row_sums(row, m)
    delta, var = moments(sum_d, sum_dd, row.size)
    if not sums_are_exact(delta, var, eps):
        m = row.dtype.type(moved(m, delta))
        sum_d, sum_dd = row_sums(row, np.float64(m))  # float64 also holds the squares that float32 cannot
        delta, var = moments(sum_d, sum_dd, row.size)
    return m, delta, var


@loop
def moved(m, delta):
    """m + delta; m itself where float32 could not hold the sum of d."""
    return m + delta if abs(delta) < np.inf else np.float64(m)


@elementwise
def _add_lines(j, x, m, sum_d, sum_dd):
    m = at(m, j)
    lines_d = lines_dd = at(x.dtype.type(0), j)
    for k in range(x.shape[0]):
        d = at(x[k], j) - m
        lines_d += d
        lines_dd += d * d
    add_to(sum_d, j, lines_d)
    add_to(sum_dd, j, lines_dd)


@loop
def add_lines(x, m, sums):
    """Add to sums (two float64 arrays) those of d and d * d over lines (lines, width)."""
    run = np.empty((2, x.shape[1]), x.dtype)
    for start in range(0, x.shape[0], TERMS):
        run[:] = 0
        for k in range(start, min(start + TERMS, x.shape[0]), TOGETHER):
            _add_lines(x[k : k + TOGETHER], m, run[0], run[1])
        add_run(run, sums)


@elementwise
def _widen(j, short, long):
    add_to(long, j, at(short, j))


@loop
def add_run(run, sums):
    """Add sums of a few terms to float64 sums of many."""
    for k in range(len(sums)):
        _widen(run[k], sums[k])


@loop
def total(partials):
    """The sum over the first axis, in its order."""
    result = np.zeros(partials.shape[1:])
    for i in range(partials.shape[0]):
        for k in range(result.shape[0]):
            for j in range(result.shape[1]):
                result[k, j] += partials[i, k, j]
    return result


@block
def add_channel_sums(x, tile, m, sums):
    """Add to sums (two float64 arrays) each channel's sums of d and d * d over a tile of x (N, C, L)."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    L = x.shape[2]
    if L >= LONG:
        for n in range(n0, n1):
            for c in range(c0, c1):
                sum_d, sum_dd = row_sums(x[n, c][l0:l1], m[c - c0])
                sums[0][c - c0] += sum_d
                sums[1][c - c0] += sum_dd
        return
    width = line_width(x, tile)
    m, long = repeat(m, L, width), np.zeros((2, width))
    for part in lines(x, tile, width):
        add_lines(part, m, (long[0], long[1]))
    for k in range(2):
        fold(long[k], L, sums[k])


@block
def add_float64_sums(x, tile, m, far, sums):
    """`add_channel_sums` of the channels that are far: slower, but float64 also holds squares that float32 cannot."""
    (n0, n1), (c0, c1), (l0, l1) = tile
    for n in range(n0, n1):
        for c in range(c0, c1):
            j = c - c0
            if far[j]:
                sum_d, sum_dd = row_sums(x[n, c][l0:l1], np.float64(m[j]))
                sums[0][j] += sum_d
                sums[1][j] += sum_dd


@block
def channel_shift(x, channels, m):
    """Each channel's mean over a few values, spread over the channel since its neighbours are often alike."""
    c0, c1 = channels
    N, C, L = x.shape
    samples = min(N * L, SHIFT_SAMPLES)
    total = np.zeros(c1 - c0)
    for k in range(samples):
        position = k * N * L // samples
        plane = x[position // L].reshape(C * L)[c0 * L + position % L :]
        if L == 1:
            for j in range(total.size):
                total[j] += plane[j]
        else:
            for j in range(total.size):
                total[j] += plane[j * L]
    for j in range(total.size):
        m[j] = total[j] / samples


@inlined
def channel_moments(x, tile, eps, m, delta, var):
    """m, delta, var of each channel of a tile that holds whole channels of x (N, C, L)."""
    count = x.shape[0] * x.shape[2]
    channel_shift(x, tile[1], m)
    sums = np.zeros(m.size), np.zeros(m.size)
    add_channel_sums(x, tile, m, sums)
    moments_of_sums(sums, count, delta, var)
    far = np.empty(m.size, np.bool_)
    if move_far_shifts(m, delta, var, eps, far):
        sums = np.zeros(m.size), np.zeros(m.size)
        add_float64_sums(x, tile, m, far, sums)
        moments_of_far_sums(sums, count, far, delta, var)


@inlined
def moments_of_sums(sums, count, delta, var):
    """delta, var of each channel."""
    for j in range(delta.size):
        delta[j], var[j] = moments(sums[0][j], sums[1][j], count)


@loop
def move_far_shifts(m, delta, var, eps, far):
    """Move each m whose sums were not exact; mark which, and say whether there are any."""
    some = False
    for j in range(m.size):
        far[j] = not sums_are_exact(delta[j], var[j], eps)
        if far[j]:
            m[j] = moved(m[j], delta[j])
            some = True
    return some


@loop
def moments_of_far_sums(sums, count, far, delta, var):
    """delta, var of the channels that were far, and of no other: what is near does not depend on them."""
    for j in range(far.size):
        if far[j]:
            delta[j], var[j] = moments(sums[0][j], sums[1][j], count)
