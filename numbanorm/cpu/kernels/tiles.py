"""How x (N, C, L) is cut into tiles, by its shape and dtype alone, and a tile into runs of memory.

A tile is a triple of ranges ((n0, n1), (c0, c1), (l0, l1)). Channels whose L values fill a run of memory are read as
rows, with one number per statistic. Shorter ones are read as lines of many channels, with an array per statistic that
repeats each channel's number over its L values, and over as many n as fit a line. The rows of layer normalization, if
they are long, are written in blocks of columns.
"""

from numbanorm.cpu.compiling.jit import block, compact, loop, plain
from numbanorm.cpu.vectors.simd import LANES, lanes
from numbanorm.cpu.vectors.streaming import before_a_line

LONG = 256  # values that make a run worth reading as a row
LINE = 2048  # bytes to a line: sums of it, and the next of several that are read at once, stay in the first cache
PAGE = 4096  # bytes to a line where nothing but one array is read: each then is a sequence of its own to the processor
SUMS = 40000  # of each kind, over all channels and pieces, while one piece has no more: three kinds take 1 MB
TILE = 65536  # values to a tile that holds part of a channel
PIECE = 16384  # values: below this much work a launch costs more than it saves
FEWEST_TILES = 16
BLOCK = 1024  # columns of long rows to be written at a time: their parameters stay in the first cache
WHOLE_CHANNELS_BYTES = 1 << 20  # to a tile of whole channels: both passes over it stay in the cache


@plain
def _channels_to_a_line(C, L, itemsize):
    """All, or so many that lines have LINE bytes or more, and each as many cache lines: then all of them begin one."""
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
    """Steps of n, c and l to tiles of whole channels; whether those are small enough to be read twice at no cost."""
    N, C, L = shape
    c_step = _channels_to_a_line(C, L, itemsize)
    if L >= LONG:
        c_step = max(1, min(C // FEWEST_TILES, WHOLE_CHANNELS_BYTES // 2 // (N * L * itemsize)))
    return (N, c_step, L), N * c_step * L * itemsize <= WHOLE_CHANNELS_BYTES


@block
def sum_steps(x):
    """Steps to tiles that hold parts of channels, long in memory, and so few that their sums take under 1 MB."""
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
    """Steps to tiles that lie together in memory, unless an array per statistic would then be as long as they are."""
    compact()
    N, C, L = x.shape
    values = min(TILE, max(PIECE, x.size // 64))
    l_step = min(L, values)
    c_step = _channels_to_a_line(C, L, x.itemsize) if 1 < L < LONG else min(C, max(1, values // l_step))
    return min(N, max(1, values // (c_step * l_step))), c_step, l_step


@block
def work(x, steps):
    """Tiles, tiles to the smallest amount of work that is worth a thread, and pieces."""
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    pieces = ((N - 1) // n_step + 1) * ((L - 1) // l_step + 1)
    return pieces * ((C - 1) // c_step + 1), max(1, PIECE // (n_step * c_step * l_step)), pieces


@block
def tiles_to(x, steps):
    """Tiles of x."""
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    return ((N - 1) // n_step + 1) * ((C - 1) // c_step + 1) * ((L - 1) // l_step + 1)


@block
def tile_of(x, steps, i):
    """Tile i, and the number of its piece: the tiles of one piece have all channels between them."""
    compact()
    (N, C, L), (n_step, c_step, l_step) = x.shape, steps
    c_tiles, l_tiles = (C - 1) // c_step + 1, (L - 1) // l_step + 1
    piece, c = i // c_tiles, i % c_tiles * c_step
    n, start = piece // l_tiles * n_step, piece % l_tiles * l_step
    return ((n, min(n + n_step, N)), (c, min(c + c_step, C)), (start, min(start + l_step, L))), piece


@loop
def rows_to(tile):
    """Runs of a tile of long channels."""
    (n0, n1), (c0, c1), _ = tile
    return (n1 - n0) * (c1 - c0)


@loop
def row_of(x, tile, i):
    """Where run i begins, and its channel, counted from the tile's first."""
    (n0, _), (c0, c1), (l0, _) = tile
    n, j = n0 + i // (c1 - c0), i % (c1 - c0)
    return (n * x.shape[1] + c0 + j) * x.shape[2] + l0, j


@block
def line_width(x, tile, least):
    """Values to a line of a tile of short channels: `least` bytes and more where it holds all channels and so much."""
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
    """A tile of short channels as lines, and as a line of what is left over: for each, where the first one begins,
    from one to the next, how many, and their width.
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
    """Columns before the first cache line, if it is the same in every row."""
    return before_a_line(y) if cols % lanes(y) == 0 else 0


@loop
def blocks_to(cols, edge):
    """Blocks of columns of a row."""
    return max(1, (cols - edge + BLOCK - 1) // BLOCK)


@loop
def block_of(i, cols, edge):
    """Where block i begins and ends: with whole cache lines, but for the first and the last."""
    return (edge + i * BLOCK if i > 0 else 0), min(edge + (i + 1) * BLOCK, cols)
