"""Compute what the scalers need: extremes, moments with weights and missing values, and scaled values."""

import numpy as np

from numbanorm._math import affine, choose
from numbanorm.cpu.compiling.jit import block, compact, launcher, loop, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.channel_tiles import applying
from numbanorm.cpu.kernels.statistics import LOST, PASSES, channel_shift, finish_moments, total
from numbanorm.cpu.kernels.tiles import (
    LONG,
    PAGE,
    apply_steps,
    cut,
    line_width,
    row_of,
    rows_to,
    sum_steps,
    tile_of,
    work,
)
from numbanorm.cpu.vectors.arithmetic import every, zeros
from numbanorm.cpu.vectors.loops import LINES_AHEAD, elementwise_with_state
from numbanorm.cpu.vectors.simd import LANES, at, item, lanes, part, pointer, put, whole
from numbanorm.cpu.vectors.streaming import expect, expect_at, finish_stores

LINES = 8  # lines that are compared in registers, before memory is written to


@loop
def _extremes_at(j, first, last, low, high, x, stride):
    """Update the least and the greatest values by lines first to last, at index j. A NaN is ignored."""
    least, most = at(low, j), at(high, j)
    for k in range(first, last):
        line = pointer(x, k * stride)
        expect_at(pointer(line, LINES_AHEAD * stride), j)
        value = at(line, j)
        least, most = choose(value < least, value, least), choose(most < value, value, most)
    put(low, j, least)
    put(high, j, most)


@loop
def _extremes_of_lines(low, high, lines, width, x, stride):
    """Update the least and the greatest values, low and high, by all lines."""
    compact()
    step = lanes(low)
    end = width // step * step
    for first in range(0, lines, LINES):
        last = min(first + LINES, lines)
        for start in range(0, end, step):
            _extremes_at(whole(low, start, 0, step), first, last, low, high, x, stride)
        if end < width:
            _extremes_at(part(low, end, 0, width - end), first, last, low, high, x, stride)


@loop
def _extremes_of_row(size, x, least, most):
    """Return the least and the greatest value of a row, and of the vectors in `least` and `most`.

    These vectors are overwritten.
    """
    compact()
    step, first = lanes(x), whole(x, 0, 0, lanes(x))
    end = size // step * step
    low, high = at(least, first), at(most, first)
    for start in range(0, end, step):
        value = at(x, whole(x, start, 0, step))
        low, high = choose(value < low, value, low), choose(high < value, value, high)
    put(least, first, low)
    put(most, first, high)
    low, high = item(least, 0), item(most, 0)
    for k in range(1, step):
        low, high = min(low, item(least, k)), max(high, item(most, k))
    for k in range(end, size):
        value = item(x, k)
        low, high = (value if value < low else low), (value if high < value else high)
    return low, high


@block
def add_extremes(x, tile, low, high):
    """Update low and high, the extremes of each channel, by the values of a tile."""
    compact()
    (l0, l1), L = tile.l_range, x.shape[2]
    width = LANES if L >= LONG else line_width(x, tile, PAGE)
    least, most = np.empty(width, x.dtype), np.empty(width, x.dtype)
    least[:], most[:] = np.inf, -np.inf
    if L >= LONG:
        for i in range(rows_to(tile)):
            start, j = row_of(x, tile, i)
            expect(pointer(x, row_of(x, tile, i + 1)[0]))
            least[:], most[:] = low[j], high[j]
            low[j], high[j] = _extremes_of_row(l1 - l0, pointer(x, start), least, most)
        return
    for start, stride, count, size in cut(x, tile, width):
        _extremes_of_lines(least, most, count, size, pointer(x, start), stride)
    for start in range(0, width, low.size * L):
        for j in range(low.size):
            for k in range(start + j * L, start + (j + 1) * L):
                low[j], high[j] = min(low[j], least[k]), max(high[j], most[k])


@range_kernel
def extremes_of_tiles(lo, hi, steps, x, partials):
    """Update partials (pieces, 2, C), which are infinities before, by tiles lo to hi."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        add_extremes(x, tile, partials[piece, 0][c0:c1], partials[piece, 1][c0:c1])


_extremes_of_tiles = parallel_for(extremes_of_tiles)


@launcher
def channel_extremes(engine, x, low, high):
    """Write the least and the greatest value of each channel of x (N, C, L) that is not NaN.

    They are inf and -inf where there is none.
    """
    compact()
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials = np.empty((pieces, 2, low.size), x.dtype)
    partials[:, 0], partials[:, 1] = np.inf, -np.inf
    _extremes_of_tiles(engine, tiles, grain, (steps, x, partials))
    low[:], high[:] = partials[0]
    for i in range(1, pieces):
        for c in range(low.size):
            low[c], high[c] = min(low[c], partials[i, 0, c]), max(high[c], partials[i, 1, c])


@loop
def _below(channels, c):
    """Return how many of these channels come before channel c."""
    count = 0
    while count < channels.size and channels[count] < c:
        count += 1
    return count


@range_kernel
def weighted_sums(lo, hi, steps, x, channels, scale, weights, m, partials):
    """Add the sums of w, w * d and w * d * d of tiles lo to hi to partials (pieces, 3, channels).

    Here d = x * scale - m, and values that are NaN are left out. `channels` are ascending; m has a number for each.
    `weights` has a number for each of the N * L positions; if it is empty, they are 1.
    """
    compact()
    L = x.shape[2]
    for i in range(lo, hi):
        ((n0, n1), (c0, c1), (l0, l1)), piece = tile_of(x, steps, i)
        first, last, sums = _below(channels, c0), _below(channels, c1), partials[piece]
        for n in range(n0, n1):
            for j in range(first, last):
                for k in range(l0, l1):
                    value = x[n, channels[j], k] * scale
                    d, w = value - m[j], weights[n * L + k] if weights.size > 0 else 1.0
                    if value == value and w > 0.0:
                        sums[0, j] += w
                        sums[1, j] += w * d
                        dd = w * d * d
                        sums[2, j] += dd if dd > 0.0 or d == 0.0 else LOST


_weighted_sums = parallel_for(weighted_sums)


@launcher
def weighted_moments(engine, x, channels, scale, weights, count, mean, low, m2):
    """Do what `moments.float64_channel_moments` does for the values times a scale, with weights.

    Values that are NaN do not count. Only `channels` of x are looked at, in ascending order. `count` receives the sum
    of the weights of their values.
    """
    compact()
    C = x.shape[1]
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials, shift = np.empty((pieces, 3, channels.size)), np.empty(C)
    channel_shift(x, (0, C), shift)
    for j in range(channels.size):
        m = shift[channels[j]] * scale
        mean[j] = m if abs(m) < np.inf else 0.0
    for _ in range(PASSES):
        partials[:] = 0
        _weighted_sums(engine, tiles, grain, (steps, x, channels, scale, weights, mean, partials))
        sums = total(partials)
        count[:] = sums[0]
        if finish_moments(sums[1], sums[2], count, mean, low, m2):
            break


@elementwise_with_state
def _limited_row(j, y, largest, row, m, factor, offset, low, high):
    """Write y = (row - m) * factor + offset, limited to low and high. A NaN stays.

    Return the largest magnitudes in row.
    """
    value = at(row, j)
    result = affine(value - at(m, j), at(factor, j), at(offset, j))
    raised = choose(result < low, low, result)
    put(y, j, choose(high < raised, high, raised))
    return choose(largest < abs(value), abs(value), largest)


@loop
def _checked_row(streams, size, y, x, m, factor, offset, low, high, infinite):
    """Do what `_limited_row` does. Write 1 to `infinite` if there is an infinity in x."""
    largest = _limited_row(streams, size, y, zeros(x, 1)[0], x, m, factor, offset, low, high)
    if not every(largest < np.inf, whole(x, 0, 0, lanes(x))):
        first = part(x, 0, 0, 1)
        put(infinite, first, at(1.0, first))


_scale_tile = applying(_checked_row)


@range_kernel
def scale_tiles(lo, hi, streams, steps, x, m, factor, offset, low, high, infinite, y):
    """Write tiles lo to hi of y. `infinite` has a number for each tile, which is 0 before.

    A tile's number is passed as a pointer, since an array would count references.
    """
    compact()
    for i in range(lo, hi):
        tile, _ = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        terms = m[c0:c1], factor[c0:c1], offset[c0:c1]
        _scale_tile(streams, x, tile, *terms, y, low, high, pointer(infinite, i))
    finish_stores(streams)


_scale_tiles = parallel_for(scale_tiles)


@launcher
def scale_channels(engine, streams, x, m, factor, offset, low, high, y):
    """Write y = (x - m) * factor + offset, limited to low and high. Return whether x has an infinity.

    x, y: (N, C, L).
    """
    compact()
    steps = apply_steps(x)
    tiles, grain, _ = work(x, steps)
    infinite = np.zeros(tiles, x.dtype)
    _scale_tiles(engine, tiles, grain, (streams, steps, x, m, factor, offset, low, high, infinite, y))
    return infinite.max() > 0
