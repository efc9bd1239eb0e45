"""Mean and variance of rows and of channels, by the corrected two-pass of `numbanorm._math`.

For a batch's own statistics, float32 values are summed as float32 in short runs, `simd.TERMS` values to an accumulator;
those are summed as float64. So the sums' error, about 1e-8, depends neither on the number of values nor, thanks to the
shift m, on their mean. For statistics that are kept and merged (`channel_moments_apart`), all is float64.
"""

import numpy as np

from numbanorm._math import SMALL, choose, moments, sums_are_exact, two_sum
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels.tiles import LINE, LONG, PAGE, cut, line_width, row_of, rows_to
from numbanorm.cpu.vectors.elements import (
    add_moment_lines,
    add_row,
    add_wide_moment_lines,
    copy_row,
    fold,
    repeat,
    row_sums,
    wide_row_sums,
)
from numbanorm.cpu.vectors.loops import checking, each_vector
from numbanorm.cpu.vectors.simd import LANES, at, item, pointer, put
from numbanorm.cpu.vectors.streaming import expect

SHIFT_SAMPLES = 8  # a mean of 8 is within 2 std of the true one, but for 1 in 1e8
SPREAD = 2654435769  # 2**32 over the golden ratio: its multiples lie far apart, modulo whatever
LINES = 1024  # to one sum of float64, before it is added to the sum of all: so that errors do not grow with the count
PASSES = 3  # over values whose first shifts are far from the mean; the second is near it
LOST = 2.0**-1000  # a sum of squares that is not 0
OFFSET = 4.0  # times their spread: samples farther from 0 than that have a mean worth taking off


@loop
def moved(m, delta):
    """m + delta; m itself where float32 could not hold the sum of d."""
    return m + delta if abs(delta) < np.inf else np.float64(m)


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
    values, total, share = pointer(x, c0 * L), np.zeros(m.size), 1.0 / places.size
    for k in range(places.size):
        if L == 1:
            _add_share(m.size, total, pointer(values, places[k]), share)
        else:
            for j in range(m.size):
                total[j] += values[places[k] + j * L] * share
    copy_row(m.size, m, total)


@each_vector
def _add_share(j, total, values, share):
    """So that no sum overflows."""
    put(total, j, at(total, j) + at(values, j) * at(share, j))


@block
def gradient_shift(dy, channels, m_dy):
    """`channel_shift` where the values are far from 0 and near each other, else 0."""
    compact()
    channel_shift(dy, channels, m_dy)
    c0, L, places = channels[0], dy.shape[2], sample_places(dy)
    values, own = pointer(dy, c0 * L), np.empty_like(m_dy)
    for k in range(places.size):
        if L == 1:
            keep_near(m_dy.size, m_dy, pointer(values, places[k]))
        else:
            for j in range(m_dy.size):
                own[j] = values[places[k] + j * L]
            keep_near(m_dy.size, m_dy, own)


@each_vector
def keep_near(j, m, values):
    """0 where abs(m) <= OFFSET * abs(values - m)."""
    own = at(m, j)
    put(m, j, choose(abs(own) <= abs(at(values, j) - own) * OFFSET, 0.0, own))


def _adding(sums_of_row, add_lines, line):
    """``add(x, tile, far, m, sums)``: add to sums (two float64 arrays) each channel's sums of d and d * d over a tile
    of x (N, C, L), by these loops, in lines of so many bytes.

    far: whether x lies in memory, not in a cache.
    """

    @block
    def add(x, tile, far, m, sums):
        compact()
        (l0, l1), L = tile[2], x.shape[2]
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                expect(pointer(x, row_of(x, tile, i + 1)[0]))
                sum_d, sum_dd = sums_of_row(l1 - l0, pointer(x, start), m[j])
                sums[0][j] += sum_d
                sums[1][j] += sum_dd
            return
        width = line_width(x, tile, line)
        m, long = repeat(m, L, width), np.zeros((2, width + LANES))
        short = np.zeros(long.shape, m.dtype)
        for start, stride, count, size in cut(x, tile, width):
            for first in range(0, count, LINES):
                if first > 0:
                    fold(long, width, L, sums)
                    long[:] = 0
                lines = min(LINES, count - first)
                add_lines(long, short, lines, size, pointer(x, start + first * stride), stride, far, m)
        fold(long, width, L, sums)

    return add


add_channel_sums = _adding(row_sums, add_moment_lines, LINE)  # m of x's dtype
add_channel_sums_apart = _adding(wide_row_sums, add_wide_moment_lines, PAGE)  # m of float64, in which all is reckoned


@block
def moments_of_sums(sums, count, m, delta, var, eps, inexact):
    """delta, var of each channel. Move each m whose sums were not exact; mark which, and say whether there are any."""
    compact()
    _moments_row(m.size, delta, sums[0], sums[1], count, var)
    if _all_exact(m.size, delta, var, eps):
        return False
    for j in range(m.size):
        inexact[j] = not sums_are_exact(delta[j], var[j], eps)
        if inexact[j]:
            m[j] = moved(m[j], delta[j])
            sums[0][j] = sums[1][j] = 0
    return True


@each_vector
def _moments_row(j, delta, sum_d, sum_dd, count, var):
    own_delta, own_var = moments(at(sum_d, j), at(sum_dd, j), count)
    put(delta, j, own_delta)
    put(var, j, own_var)


@checking
def _all_exact(j, delta, var, eps):
    return sums_are_exact(at(delta, j), at(var, j), eps)


@loop
def total(partials):
    """The sum over the first axis, in its order."""
    pieces, kinds, size = partials.shape
    result = np.zeros((kinds, size))
    for i in range(pieces):
        add_row(kinds * size, pointer(partials, i * kinds * size), pointer(result, 0))
    return result


@loop
def _differs(size, row, m):
    """Whether a value is not m."""
    found = False
    for k in range(size):
        found |= item(row, k) != m
    return found


@block
def keep_lost_squares(x, tile, m, sum_dd):
    """Make sums of squares LOST where all squares fell below float64, so that they are not taken for those of equal
    values. Nearly all channels are told by their sum or m; the values of the others are in the cache.
    """
    compact()
    (n0, n1), (c0, _), (l0, l1) = tile
    C, L = x.shape[1:]
    suspects, count = np.empty(m.size, np.intp), 0
    for j in range(m.size):
        suspects[count] = j
        count += sum_dd[j] == 0.0 and abs(m[j]) < SMALL
    if count == 0:
        return
    for n in range(n0, n1):
        for i in range(count):
            j = suspects[i]
            if _differs(l1 - l0, pointer(x, (n * C + c0 + j) * L + l0), m[j]):
                sum_dd[j] = LOST


@block
def finish_moments(sum_d, sum_dd, counts, mean, low, m2):
    """low and m2 of sums about a shift in the place of each mean. False if a shift was far from the mean, and is the
    mean now: then all sums are to be taken anew.
    """
    all_near = True
    for c in range(mean.size):
        count = item(counts, c)
        delta, var = moments(sum_d[c], sum_dd[c], count)
        if not delta * delta <= 4.0 * var and abs(delta) < np.inf:  # also where squares overflowed
            all_near = False
        mean[c], low[c] = two_sum(mean[c], delta)
        m2[c] = var * count
    return all_near
