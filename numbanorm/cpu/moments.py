"""Mean and variance of rows and of channels, by the corrected two-pass of `numbanorm._math`.

float32 values are summed as float32 only in short runs, TERMS values to an accumulator; the runs are summed as float64.
So the sums' error, about 1e-8, depends neither on the number of values nor, thanks to the shift m, on their mean.
"""

import numpy as np

from numbanorm._math import moments, shift_is_near
from numbanorm.cpu.jit import block, inlined, loop, summing
from numbanorm.cpu.tiles import LONG, fold, lines, repeat

TERMS = 16
RUN = 32 * TERMS  # four 8-lane accumulators
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
def row_shift(row):
    """The mean of a row's first values, exact when they are equal."""
    first = row[:SHIFT_SAMPLES]
    total = 0.0
    for j in range(first.size):
        total += np.float64(first[j])
    return row.dtype.type(total / first.size)


@inlined
def row_moments(row):
    """m, delta, var of a row."""
    m = row_shift(row)
    sum_d, sum_dd = row_sums(row, m)
    delta, var = moments(sum_d, sum_dd, row.size)
    if not shift_is_near(delta, var):
        m = row.dtype.type(m + delta)
        sum_d, sum_dd = row_sums(row, np.float64(m))  # float64 also holds the squares that float32 cannot
        delta, var = moments(sum_d, sum_dd, row.size)
    return m, delta, var


@summing
def _add_row(row, m, sum_d, sum_dd):
    for j in range(row.size):
        d = difference(row[j], m[j])
        sum_d[j] += d
        sum_dd[j] += d * d


@loop
def add_run(run, sums):
    """Add float32 sums of a few terms to float64 sums of many."""
    for k in range(len(sums)):
        short, long = run[k], sums[k]
        for j in range(long.size):
            long[j] += short[j]


@loop
def total(partials):
    """The sum over the first axis, in its order."""
    result = np.zeros(partials.shape[1:])
    for i in range(partials.shape[0]):
        add_run(partials[i], result)
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
    first, end, step, width = lines(x, tile)
    flat, m = x.reshape(x.size), repeat(m, L, width)
    run, long = np.empty((2, width), m.dtype), np.zeros((2, width))
    for start in range(first, end, TERMS * step):
        run[:] = 0
        for at in range(start, min(start + TERMS * step, end), step):
            _add_row(flat[at : min(at + width, end)], m, run[0], run[1])
        add_run(run, long)
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
def channel_moments(x, tile, m, delta, var):
    """m, delta, var of each channel of a tile that holds whole channels of x (N, C, L)."""
    count = x.shape[0] * x.shape[2]
    channel_shift(x, tile[1], m)
    sums = np.zeros(m.size), np.zeros(m.size)
    add_channel_sums(x, tile, m, sums)
    moments_of_sums(sums, count, delta, var)
    far = np.empty(m.size, np.bool_)
    if move_far_shifts(m, delta, var, far):
        sums = np.zeros(m.size), np.zeros(m.size)
        add_float64_sums(x, tile, m, far, sums)
        moments_of_far_sums(sums, count, far, delta, var)


@inlined
def moments_of_sums(sums, count, delta, var):
    """delta, var of each channel."""
    for j in range(delta.size):
        delta[j], var[j] = moments(sums[0][j], sums[1][j], count)


@loop
def move_far_shifts(m, delta, var, far):
    """Move each m that is too far from its mean; mark which, and say whether there are any."""
    some = False
    for j in range(m.size):
        far[j] = not shift_is_near(delta[j], var[j])
        if far[j]:
            m[j] += delta[j]
            some = True
    return some


@loop
def moments_of_far_sums(sums, count, far, delta, var):
    """delta, var of the channels that were far, and of no other: what is near does not depend on them."""
    for j in range(far.size):
        if far[j]:
            delta[j], var[j] = moments(sums[0][j], sums[1][j], count)
