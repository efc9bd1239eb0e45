"""How x (N, C, L) is cut into tiles, by its shape and dtype alone, and a tile into runs of memory.

A tile is a triple of ranges ((n0, n1), (c0, c1), (l0, l1)). Channels whose L values fill a run of memory (L >= LONG)
are read as rows, with one number per statistic. Shorter ones are read as lines of many channels, with an array per
statistic that repeats each channel's number over its L values, and over as many n as fit a line.
"""

import numpy as np

from numbanorm.cpu.jit import loop

LONG = 256  # values that make a run worth a row of its own
LINE = 512  # values to a line
TILE = 65536  # values to a tile that holds part of a channel
WHOLE_CHANNELS_BYTES = 1 << 20  # to a tile of whole channels: both passes over it stay in the cache
PIECE = 16384  # values: below this much work a launch costs more than it saves


@loop
def tiling(x):
    """Steps of n, c and l from tile to tile, and the number of tiles along each."""
    N, C, L = x.shape
    c_step = min(C, max(1, LINE // L))
    n_step, l_step = N, L
    if N * c_step * L * x.itemsize > WHOLE_CHANNELS_BYTES:
        l_step = min(L, TILE) if L >= LONG else L
        n_step = min(N, max(1, TILE // (c_step * l_step)))
    return (n_step, c_step, l_step), ((N - 1) // n_step + 1, (C - 1) // c_step + 1, (L - 1) // l_step + 1)


@loop
def tile_of(x, i):
    """Tile i, and the number of its piece: the tiles of one piece have all channels between them."""
    (n_step, c_step, l_step), (_, c_tiles, l_tiles) = tiling(x)
    N, C, L = x.shape
    piece, c = i // c_tiles, i % c_tiles * c_step
    n, start = piece // l_tiles * n_step, piece % l_tiles * l_step
    return ((n, min(n + n_step, N)), (c, min(c + c_step, C)), (start, min(start + l_step, L))), piece


@loop
def work(x):
    """Tiles, tiles to the smallest amount of work that is worth a thread, and pieces."""
    (n_step, c_step, l_step), (n_tiles, c_tiles, l_tiles) = tiling(x)
    return n_tiles * c_tiles * l_tiles, max(1, PIECE // (n_step * c_step * l_step)), n_tiles * l_tiles


@loop
def lines(x, tile):
    """The lines of a tile of short channels: first value, end, step from line to line and width, in x read flat."""
    (n0, n1), (c0, c1), _ = tile
    _, C, L = x.shape
    if c1 - c0 < C:
        return (n0 * C + c0) * L, n1 * C * L, C * L, (c1 - c0) * L
    width = max(1, LINE // (C * L)) * C * L
    return n0 * C * L, n1 * C * L, width, width


@loop
def repeat(values, L, width):
    """A number per channel -> a number per value of a line."""
    if width == values.size:
        return values
    line = np.empty(width, values.dtype)
    period = values.size * L
    for c in range(values.size):
        line[c * L : (c + 1) * L] = values[c]
    for start in range(period, width, period):
        for j in range(period):
            line[start + j] = line[j]
    return line


@loop
def fold(line, L, sums):
    """Add each value of a line to the sum of its channel."""
    period = sums.size * L
    for start in range(period, line.size, period):
        for j in range(period):
            line[j] += line[start + j]
    for c in range(sums.size):
        for j in range(L):
            sums[c] += line[c * L + j]
