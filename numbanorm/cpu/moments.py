"""Mean and variance of rows and of channels, by the corrected two-pass of `numbanorm._math`.

float32 values are summed as float32 only in short runs, `simd.TERMS` values to an accumulator; those are summed as
float64. So the sums' error, about 1e-8, depends neither on the number of values nor, thanks to the shift m, on their
mean.
"""

import numpy as np

from numbanorm._math import moments, sums_are_exact
from numbanorm.cpu.jit import block, compact, loop
from numbanorm.cpu.loops import add_moment_lines, fold, repeat, row_sums, wide_row_sums
from numbanorm.cpu.simd import LANES, expect, pointer
from numbanorm.cpu.tiles import LONG, cut, line_width, row_of, rows_to

SHIFT_SAMPLES = 8  # a mean of 8 is within 2 std of the true one, but for 1 in 1e8
SPREAD = 2654435769  # 2**32 over the golden ratio: its multiples lie far apart, modulo whatever
OFFSET = 4.0  # times their spread: samples farther from 0 than that have a mean worth taking off


@loop
def moved(m, delta):
    """m + delta; m itself where float32 could not hold the sum of d."""
    return m + delta if abs(delta) < np.inf else np.float64(m)


@block
def far_row_moments(size, row, m):
    """delta and var of a row about a float64 m, where float32 did not do."""
    compact()
    sum_d, sum_dd = wide_row_sums(size, row, m)
    return moments(sum_d, sum_dd, size)


@block
def sample_places(x):
    """Where some values of channel 0 of x (N, C, L) lie; those of channel c lie c * L further on."""
    compact()
    N, C, L = x.shape
    places = np.empty(min(N * L, SHIFT_SAMPLES), np.intp)
    for k in range(places.size):
        position = k if places.size == N * L else k * SPREAD % (N * L)
        places[k] = position // L * C * L + position % L
    return places


@block
def channel_shift(x, channels, m):
    """Each channel's mean over a few values, spread over the channel since its neighbours are often alike."""
    compact()
    (c0, _), L, places = channels, x.shape[2], sample_places(x)
    values = pointer(x, 0)
    for j in range(m.size):
        total = 0.0
        for k in range(places.size):
            total += values[places[k] + (c0 + j) * L]
        m[j] = total / places.size


@block
def gradient_shift(dy, channels, m_dy):
    """`channel_shift` where the values are far from 0 and near each other, else 0."""
    compact()
    channel_shift(dy, channels, m_dy)
    c0, L, places = channels[0], dy.shape[2], sample_places(dy)
    values = pointer(dy, 0)
    for j in range(m_dy.size):
        for k in range(places.size):
            if not OFFSET * abs(values[places[k] + (c0 + j) * L] - m_dy[j]) < abs(m_dy[j]):
                m_dy[j] = 0


@block
def add_channel_sums(x, tile, m, sums):
    """Add to sums (two float64 arrays) each channel's sums of d and d * d over a tile of x (N, C, L)."""
    compact()
    (l0, l1), L = tile[2], x.shape[2]
    if L >= LONG:
        for i in range(rows_to(tile)):
            start, j = row_of(x, tile, i)
            expect(pointer(x, row_of(x, tile, i + 1)[0]))
            sum_d, sum_dd = row_sums(l1 - l0, pointer(x, start), m[j])
            sums[0][j] += sum_d
            sums[1][j] += sum_dd
        return
    width = line_width(x, tile)
    m, long = repeat(m, L, width), np.zeros((2, width + LANES))
    for start, stride, count, size in cut(x, tile, width):
        add_moment_lines(long, count, size, pointer(x, start), stride, m)
    fold(long, width, L, sums)


@block
def add_far_sums(x, tile, m, far, sums):
    """`add_channel_sums` in float64 of the channels that are far: slower, but it holds squares that float32 cannot."""
    compact()
    (n0, n1), (c0, c1), (l0, l1) = tile
    C, L = x.shape[1:]
    for n in range(n0, n1):
        for c in range(c0, c1):
            j = c - c0
            if far[j]:
                sum_d, sum_dd = wide_row_sums(l1 - l0, pointer(x, (n * C + c) * L + l0), np.float64(m[j]))
                sums[0][j] += sum_d
                sums[1][j] += sum_dd


@block
def moments_of_sums(sums, count, m, delta, var, eps, far):
    """delta, var of each channel. Move each m whose sums were not exact; mark which, and say whether there are any."""
    compact()
    for j in range(m.size):
        delta[j], var[j] = moments(sums[0][j], sums[1][j], count)
    some = False
    for j in range(m.size):
        far[j] = not sums_are_exact(delta[j], var[j], eps)
        if far[j]:
            m[j], some = moved(m[j], delta[j]), True
            sums[0][j] = sums[1][j] = 0
    return some


@block
def moments_of_far_sums(sums, count, far, delta, var):
    """delta, var of the channels that were far, and of no other: what is near does not depend on them."""
    compact()
    for j in range(far.size):
        if far[j]:
            delta[j], var[j] = moments(sums[0][j], sums[1][j], count)


@block
def channel_moments(x, tile, eps, m, delta, var):
    """m, delta, var of each channel of a tile that holds whole channels of x (N, C, L)."""
    compact()
    count = x.shape[0] * x.shape[2]
    sums, far = (np.zeros(m.size), np.zeros(m.size)), np.empty(m.size, np.bool_)
    channel_shift(x, tile[1], m)
    add_channel_sums(x, tile, m, sums)
    if moments_of_sums(sums, count, m, delta, var, eps, far):
        add_far_sums(x, tile, m, far, sums)
        moments_of_far_sums(sums, count, far, delta, var)


@loop
def total(partials):
    """The sum over the first axis, in its order."""
    result = np.zeros(partials.shape[1:])
    for i in range(partials.shape[0]):
        for k in range(result.shape[0]):
            for j in range(result.shape[1]):
                result[k, j] += partials[i, k, j]
    return result
