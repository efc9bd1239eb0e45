"""How x (N, C, L) is cut into tiles, by its shape and dtype alone, and a tile into runs of memory.

A tile is a triple of ranges ((n0, n1), (c0, c1), (l0, l1)). Channels whose L values fill a run of memory are read as
rows, with one number per statistic. Shorter ones are read as lines of many channels, with an array per statistic that
repeats each channel's number over its L values, and over as many n as fit a line.
"""

import numpy as np

from numbanorm.cpu.jit import block

LONG = 256  # values that make a run worth summing as a row
SHORT = 16  # values that make a run worth writing as a row
LINE = 512  # values to a line: sums of it, and the next of several that are read at once, stay in the first cache
SUMS = 25000  # of each kind, over all channels and pieces, while one piece has no more: five kinds take 1 MB
TILE = 65536  # values to a tile that holds part of a channel
PIECE = 16384  # values: below this much work a launch costs more than it saves
WHOLE_CHANNELS_BYTES = 1 << 20  # to a tile of whole channels: both passes over it stay in the cache


@block
def whole_steps(x):
    """Steps of n, c and l to tiles of whole channels; whether those are small enough to be read twice at no cost."""
    N, C, L = x.shape
    c_step = min(C, max(1, LINE // L))
    return (N, c_step, L), N * c_step * L * x.itemsize <= WHOLE_CHANNELS_BYTES


@block
def sum_steps(x):
    """Steps to tiles that hold parts of channels, long in memory, and so few that their sums take under 1 MB."""
    N, C, L = x.shape
    pieces = max(1, SUMS // C)
    c_step, l_step = min(C, max(1, LINE // L)), L
    if L >= LONG:
        l_step = min(L, max(TILE, (L - 1) // pieces + 1))
        pieces = max(1, pieces // ((L - 1) // l_step + 1))
    return min(N, max(1, TILE // (c_step * l_step), (N - 1) // pieces + 1)), c_step, l_step


@block
def apply_steps(x):
    """Steps to tiles that lie together in memory, unless an array per statistic would then be as long as they are."""
    N, C, L = x.shape
    values = min(TILE, max(PIECE, x.size // 64))
    l_step = min(L, values)
    c_step = min(C, max(1, (LINE if 1 < L < SHORT else values) // l_step))
    return min(N, max(1, values // (c_step * l_step))), c_step, l_step


@block
def work(x, steps):
    """Tiles, tiles to the smallest amount of work that is worth a thread, and pieces."""
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    pieces = ((N - 1) // n_step + 1) * ((L - 1) // l_step + 1)
    return pieces * ((C - 1) // c_step + 1), max(1, PIECE // (n_step * c_step * l_step)), pieces


@block
def tiles_to(x, steps):
    """Tiles of x."""
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    return ((N - 1) // n_step + 1) * ((C - 1) // c_step + 1) * ((L - 1) // l_step + 1)


@block
def tile_of(x, steps, i):
    """Tile i, and the number of its piece: the tiles of one piece have all channels between them."""
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    c_tiles, l_tiles = (C - 1) // c_step + 1, (L - 1) // l_step + 1
    piece, c = i // c_tiles, i % c_tiles * c_step
    n, start = piece // l_tiles * n_step, piece % l_tiles * l_step
    return ((n, min(n + n_step, N)), (c, min(c + c_step, C)), (start, min(start + l_step, L))), piece


@block
def line_width(x, tile):
    """Values to a line of a tile of short channels: at least LINE where it holds all channels and so much."""
    (n0, n1), (c0, c1), _ = tile
    _, C, L = x.shape
    width = (c1 - c0) * L
    several = 1
    if c1 - c0 == C:
        while several * width < LINE and several < n1 - n0:
            several *= 2
    return several * width


@block
def lines(x, tile, width):
    """The lines of a tile of short channels, as an array (lines, width), and as one of what is left over."""
    (n0, n1), (c0, c1), _ = tile
    N, C, L = x.shape
    if c1 - c0 < C:
        rows = x.reshape((N, C * L))[n0:n1]
        return rows[:, c0 * L : c1 * L], rows[:0, :0]
    flat = x.reshape(x.size)[n0 * C * L : n1 * C * L]
    whole = flat.size // width
    rest = flat[whole * width :]
    return flat[: whole * width].reshape((whole, width))[:, :], rest.reshape((1, rest.size))[:, :]


@block
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


@block
def fold(line, L, sums):
    """Add each value of a line to the sum of its channel."""
    period = sums.size * L
    for start in range(period, line.size, period):
        for j in range(period):
            line[j] += line[start + j]
    for c in range(sums.size):
        for j in range(L):
            sums[c] += line[c * L + j]
