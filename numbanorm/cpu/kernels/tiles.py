"""Cut x (N, C, L) into tiles, by its shape and dtype alone, and a tile into runs of memory.

A channel of a tile with LONG values or more next to each other is read as rows, with one number for each statistic.
Shorter channels are read as lines of many channels. Then a statistic is an array, in which each channel's number is
repeated over its L values, and over as many n as fit a line.

The rows of layer normalization, if they are long, are written in blocks of columns.
"""

from typing import NamedTuple

from numbanorm.cpu.compiling.jit import block, compact, loop, plain
from numbanorm.cpu.vectors.simd import LANES, lanes
from numbanorm.cpu.vectors.streaming import before_a_line

LONG = 256  # values: channels with so many next to each other are read as rows
LINE = 2048  # bytes of a line: its sums stay in the first cache, with the next lines of several arrays
PAGE = 4096  # bytes of a line where one array alone is read: the processor then prefetches each line by itself
SUMS = 40000  # sums of a kind, over all channels and pieces, if one piece has no more: three kinds take 1 MB
TILE = 65536  # values of a tile that holds part of a channel
PIECE = 16384  # values: for less work, a second thread costs more than it saves
FEWEST_TILES = 16
BLOCK = 1024  # columns of long rows that are written at a time: their parameters stay in the first cache
WHOLE_CHANNELS_BYTES = 1 << 20  # of a tile of whole channels: both passes over it stay in the cache


class Tile(NamedTuple):
    """Describe the part x[n0:n1, c0:c1, l0:l1] of x, as the pairs (n0, n1), (c0, c1) and (l0, l1)."""

    n_range: tuple[int, int]
    c_range: tuple[int, int]
    l_range: tuple[int, int]


@plain
def _channels_to_a_line(C, L, itemsize):
    """Return how many channels a line holds.

    A line holds all channels, or so many that lines have LINE bytes or more and begin a cache line.
    """
    if L >= LONG:
        return 1
    if C * L * itemsize <= 2 * LINE:
        return C
    multiple, odd = LANES, L
    while multiple > 1 and odd % 2 == 0:
        multiple, odd = multiple // 2, odd // 2
    return min(C, (LINE // (L * itemsize) + multiple - 1) // multiple * multiple)


@plain
def whole_steps(shape, itemsize):
    """Return the size of tiles of whole channels, along n, c and l.

    Return also whether a tile that is read twice stays in the cache.
    """
    N, C, L = shape
    c_step = _channels_to_a_line(C, L, itemsize)
    if L >= LONG:
        c_step = max(1, min(C // FEWEST_TILES, WHOLE_CHANNELS_BYTES // 2 // (N * L * itemsize)))
    return (N, c_step, L), N * c_step * L * itemsize <= WHOLE_CHANNELS_BYTES


@plain
def whole_channels(shape, itemsize):
    """Return whether an x of this shape is for the kernels that read tiles of whole channels.

    Such tiles stay in the cache.
    """
    return whole_steps(shape, itemsize)[1]


@block
def sum_steps(x):
    """Return the size of tiles that hold parts of channels.

    The tiles are long in memory, and few: their sums take < 1 MB.
    """
    compact()
    N, C, L = x.shape
    pieces = max(1, SUMS // C)
    c_step, l_step = _channels_to_a_line(C, L, x.itemsize), L
    if L >= LONG:
        l_step = min(L, max(TILE, (L - 1) // pieces + 1))
        pieces = max(1, pieces // ((L - 1) // l_step + 1))
    return min(N, max(1, TILE // (c_step * l_step), (N - 1) // pieces + 1)), c_step, l_step


@block
def apply_steps(x):
    """Return the size of tiles to be written.

    A tile is contiguous, unless the arrays of its statistics would be as long.
    """
    compact()
    N, C, L = x.shape
    values = min(TILE, max(PIECE, x.size // 64))
    l_step = min(L, values)
    c_step = _channels_to_a_line(C, L, x.itemsize) if 1 < L < LONG else min(C, max(1, values // l_step))
    return min(N, max(1, values // (c_step * l_step))), c_step, l_step


@block
def work(x, steps):
    """Return the number of tiles, the number of tiles that are worth a thread, and the number of pieces.

    `tile_of` says what a piece is.
    """
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    pieces = ((N - 1) // n_step + 1) * ((L - 1) // l_step + 1)
    return pieces * ((C - 1) // c_step + 1), max(1, PIECE // (n_step * c_step * l_step)), pieces


@block
def tiles_to(x, steps):
    """Return the number of tiles of x."""
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    return ((N - 1) // n_step + 1) * ((C - 1) // c_step + 1) * ((L - 1) // l_step + 1)


@block
def tile_of(x, steps, i):
    """Return tile i and the number of its piece. A piece is a row of tiles that together hold all channels."""
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    c_tiles, l_tiles = (C - 1) // c_step + 1, (L - 1) // l_step + 1
    piece, c = i // c_tiles, i % c_tiles * c_step
    n, start = piece // l_tiles * n_step, piece % l_tiles * l_step
    return Tile((n, min(n + n_step, N)), (c, min(c + c_step, C)), (start, min(start + l_step, L))), piece


@loop
def rows_to(tile):
    """Return the number of rows of a tile of long channels."""
    (n0, n1), (c0, c1), _ = tile
    return (n1 - n0) * (c1 - c0)


@loop
def row_of(x, tile, i):
    """Return where row i of a tile begins, and its channel, counted from the tile's first."""
    (n0, _), (c0, c1), (l0, _) = tile
    n, j = n0 + i // (c1 - c0), i % (c1 - c0)
    return (n * x.shape[1] + c0 + j) * x.shape[2] + l0, j


@block
def line_width(x, tile, least):
    """Return the number of values of a line of a tile of short channels.

    If the tile holds all channels, a line has `least` bytes or more, as far as the tile has.
    """
    compact()
    (n0, n1), (c0, c1), _ = tile
    _, C, L = x.shape
    width = (c1 - c0) * L
    several = 1
    if c1 - c0 == C:
        while several * width * x.itemsize < least and several < n1 - n0:
            several *= 2
    return several * width


@block
def cut(x, tile, width):
    """Cut a tile of short channels into lines of one width, and a shorter line of what is left over.

    Return for both: where the first line begins, the stride from line to line, the number of lines, and their width.
    """
    compact()
    (n0, n1), (c0, c1), _ = tile
    C, L = x.shape[1:]
    start = (n0 * C + c0) * L
    if width == (c1 - c0) * L:
        return (start, C * L, n1 - n0, width), (start, 0, 0, 0)
    values = (n1 - n0) * C * L
    return (start, width, values // width, width), (start + values // width * width, 0, 1, values % width)


@loop
def edge_of(y, cols):
    """Return the number of columns before the first cache line, if it is the same in every row, or else 0."""
    return before_a_line(y) if cols % lanes(y) == 0 else 0


@loop
def blocks_to(cols, edge):
    """Return the number of blocks of columns of a row."""
    return max(1, (cols - edge + BLOCK - 1) // BLOCK)


@loop
def block_of(i, cols, edge):
    """Return where block i begins and ends. Blocks are whole cache lines, except the first and the last."""
    return (edge + i * BLOCK if i > 0 else 0), min(edge + (i + 1) * BLOCK, cols)
