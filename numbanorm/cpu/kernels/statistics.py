"""Compute mean and variance of channels, by the corrected two-pass of `numbanorm._math`.

To normalise a batch, float32 values are added up as float32, `loops.TERMS` of them, and these sums as float64. The
error of the sums is about 1e-8. It does not depend on the number of values, nor, thanks to the shift m, on their mean.

Statistics that are kept and merged (`float64_channel_moments`) are float64 throughout.
"""

from typing import NamedTuple

import numpy as np

from numbanorm._math import SMALL, choose, moments, sums_are_exact, two_sum
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels.tiles import LINE, LONG, PAGE, cut, line_width, row_of, rows_to
from numbanorm.cpu.vectors.elements import (
    add_float64_moment_lines,
    add_moment_lines,
    add_row,
    copy_row,
    float64_row_sums,
    fold,
    repeat,
    row_sums,
)
from numbanorm.cpu.vectors.loops import checking, each_vector
from numbanorm.cpu.vectors.rms import add_square_lines, row_squares
from numbanorm.cpu.vectors.simd import LANES, at, item, pointer, put
from numbanorm.cpu.vectors.streaming import expect

SHIFT_SAMPLES = 8  # values to a shift: their mean is within 2 std of the true one, except for 1 in 1e8
SPREAD = 2654435769  # 2**32 over the golden ratio: modulo any number, its multiples lie far from each other
LINES = 1024  # lines to a sum of float64, before it is added to the whole sum: so errors do not grow with the count
PASSES = 3  # over the values at most: the second shift is near the mean if the first was not
LOST = 2.0**-1000  # a sum of squares of which no more is known than that it is not 0
OFFSET = 4.0  # a mean is worth subtracting if it is larger than so many times the spread of the samples


class MomentSums(NamedTuple):
    """Hold each channel's sums of d and d * d."""

    d: np.ndarray
    dd: np.ndarray


@loop
def moved(m, delta):
    """Return m + delta, or m itself where float32 could not hold the sum of d."""
    return m + delta if abs(delta) < np.inf else np.float64(m)


@block
def sample_places(x):
    """Return where some values of channel 0 of x (N, C, L) lie. Those of channel c lie c * L further on."""
    compact()
    N, C, L = x.shape
    places = np.empty(min(N * L, SHIFT_SAMPLES), np.intp)
    for k in range(places.size):
        position = k if places.size == N * L else k * SPREAD % (N * L)
        places[k] = position // L * C * L + position % L
    return places


@block
def channel_shift(x, channels, m):
    """Fill m with the mean of a few values of each channel, which are spread out, since neighbours are often alike."""
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


@block
def no_channel_shift(x, channels, m):
    """Fill m with 0, in place of `channel_shift`."""
    compact()
    m[:] = 0


@each_vector
def _add_share(j, total, values, share):
    """Add values * share to a total. Each term is a share of the mean, so that no sum overflows."""
    put(total, j, at(total, j) + at(values, j) * at(share, j))


@block
def gradient_shift(dy, channels, m_dy):
    """Fill m_dy as `channel_shift` does where the values are far from 0 and near each other, and else with 0."""
    compact()
    channel_shift(dy, channels, m_dy)
    c0, L, places = channels[0], dy.shape[2], sample_places(dy)
    values, sample = pointer(dy, c0 * L), np.empty_like(m_dy)
    for k in range(places.size):
        if L == 1:
            keep_near(m_dy.size, m_dy, pointer(values, places[k]))
        else:
            for j in range(m_dy.size):
                sample[j] = values[places[k] + j * L]
            keep_near(m_dy.size, m_dy, sample)


@each_vector
def keep_near(j, m, values):
    """Set m to 0 where abs(m) <= OFFSET * abs(values - m)."""
    shift = at(m, j)
    put(m, j, choose(abs(shift) <= abs(at(values, j) - shift) * OFFSET, 0.0, shift))


@loop
def _both(sums):
    return sums.d, sums.dd


@loop
def _squares_alone(sums):
    return (sums.dd,)


def _adding(sums_of_row, add_lines, line, summed=_both):
    """Make ``add(x, tile, streams, m, sums)`` from these loops, for lines of so many bytes.

    It adds to `MomentSums` of float64 each channel's sums over a tile of x (N, C, L). `add_lines` adds to those that
    `summed` names.
    """

    @block
    def add(x, tile, streams, m, sums):
        compact()
        (l0, l1), L = tile.l_range, x.shape[2]
        if L >= LONG:
            for i in range(rows_to(tile)):
                start, j = row_of(x, tile, i)
                expect(pointer(x, row_of(x, tile, i + 1)[0]))
                sum_d, sum_dd = sums_of_row(l1 - l0, pointer(x, start), m[j])
                sums.d[j] += sum_d
                sums.dd[j] += sum_dd
            return
        width = line_width(x, tile, line)
        m, long_sums = repeat(m, L, width), np.zeros((len(summed(sums)), width + LANES))
        short_sums = np.zeros(long_sums.shape, m.dtype)
        for start, stride, count, size in cut(x, tile, width):
            for first in range(0, count, LINES):
                if first > 0:
                    fold(long_sums, width, L, summed(sums))
                    long_sums[:] = 0
                lines = min(LINES, count - first)
                add_lines(long_sums, short_sums, lines, size, pointer(x, start + first * stride), stride, streams, m)
        fold(long_sums, width, L, summed(sums))

    return add


add_channel_sums = _adding(row_sums, add_moment_lines, LINE)  # m of x's dtype
add_channel_squares = _adding(row_squares, add_square_lines, LINE, _squares_alone)  # about 0
add_float64_channel_sums = _adding(float64_row_sums, add_float64_moment_lines, PAGE)  # m and all terms of float64


@block
def moments_of_sums(sums, count, m, delta, var, eps, inexact):
    """Compute delta and var of each channel.

    Where the sums were not exact, move m and mark the channel in `inexact`. Return whether there are such channels.
    """
    compact()
    _moments_row(m.size, delta, sums.d, sums.dd, count, var)
    if _all_exact(m.size, delta, var, eps):
        return False
    for j in range(m.size):
        inexact[j] = not sums_are_exact(delta[j], var[j], eps)
        if inexact[j]:
            m[j] = moved(m[j], delta[j])
            sums.d[j] = sums.dd[j] = 0
    return True


@each_vector
def _moments_row(j, delta, sum_d, sum_dd, count, var):
    channel_delta, channel_var = moments(at(sum_d, j), at(sum_dd, j), count)
    put(delta, j, channel_delta)
    put(var, j, channel_var)


@checking
def _all_exact(j, delta, var, eps):
    return sums_are_exact(at(delta, j), at(var, j), eps)


@loop
def total(partials):
    """Sum over the first axis, in its order."""
    pieces, kinds, size = partials.shape
    result = np.zeros((kinds, size))
    for i in range(pieces):
        add_row(kinds * size, pointer(partials, i * kinds * size), pointer(result, 0))
    return result


@loop
def _differs(size, row, m):
    """Return whether any value of a row is not m."""
    found = False
    for k in range(size):
        found |= item(row, k) != m
    return found


@block
def keep_lost_squares(x, tile, m, sum_dd):
    """Set sums of squares to LOST where values differ and all squares fell below float64.

    A sum of 0 would say that all values are equal. For nearly all channels the sum or m tells that nothing was lost.
    The values of the others are looked at; they are still in the cache.
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
    """Compute mean, low and m2 from sums about a shift, which `mean` holds before.

    Return False if a shift was far from its mean. Then the caller has to take all sums again, about the new mean.
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
