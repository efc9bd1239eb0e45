"""The memory of large results, in compiled code: NumPy asks for it here, and gives it back as an array goes.

A pool is a block of words. Memory that came back waits in it, by size, for the next array of that size, up to a limit
over all sizes. NumPy calls these functions (its `PyDataMemAllocator`), so an array owns its memory like any other, and
no Python code runs as it goes: an exception of a signal handler would be lost there.

Python's lock keeps threads apart. Without it (a free-threaded Python), a thread that finds the pool taken goes to the
system, and waits for nobody.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbanorm.cpu.compiling.jit import block, launcher, python_locked
from numbanorm.cpu.engine.atomic import WORD, load, pause, replace, store

# The words of a pool.
CONTEXT, MALLOC, CALLOC, REALLOC, FREE = range(5)  # NumPy's own allocator, which memory comes from and goes to
LIMIT, HELD = 5, 6  # bytes that may wait, and that do
OFFSET = 7  # where in a page the next array begins: a multiple of LINE, which may lie pages away
TAKEN, CLOCK = 8, 9  # by a thread; how often memory came back
SIZES = 128  # that memory waits of
SIZE, FIRST, TIME = (16 + SIZES * i for i in range(3))  # of each: bytes, 0 for none; the first block; when one came
WORDS = 16 + 3 * SIZES

# What lies in the line before an array's data: the block that the data are in, and the block's size. A block that waits
# begins with the address of the next one of its size.
BLOCK, CAPACITY, NEXT = 0, 1, 0

LINE, PAGE = 64, 4096


@intrinsic
def _call(typing_context, function, arguments):
    """What a C function, given by its address, returns for a tuple of words."""

    def codegen(context, builder, signature, args):
        words = cgutils.unpack_tuple(builder, args[1])
        pointer = ir.FunctionType(WORD, [WORD] * len(words)).as_pointer()
        return builder.call(builder.inttoptr(args[0], pointer), words)

    return types.intp(types.intp, arguments), codegen


@launcher
def malloc(pool, nbytes):
    """Memory that waits, or else NumPy's."""
    capacity = _capacity(nbytes)
    waiting = _take(pool, capacity)
    if waiting != 0:
        return _place(pool, waiting, capacity)
    return _place(pool, _call(load(pool, MALLOC), (load(pool, CONTEXT), capacity)), capacity)


@launcher
def calloc(pool, count, nbytes):
    """Zeroed memory, which is always NumPy's."""
    capacity = _capacity(count * nbytes)
    return _place(pool, _call(load(pool, CALLOC), (load(pool, CONTEXT), 1, capacity)), capacity)


@launcher
def realloc(pool, data, nbytes):
    """The data in as many bytes as are wanted now, moved where they must be."""
    begin, capacity = load(data - LINE, BLOCK), _capacity(nbytes)
    moved = _call(load(pool, REALLOC), (load(pool, CONTEXT), begin, capacity))
    if moved == 0:
        return 0
    return _marked(moved + data - begin, moved, capacity)


@launcher
def free(pool, data, nbytes):
    """Keep what an array had, or give it back to NumPy."""
    begin, capacity = load(data - LINE, BLOCK), load(data - LINE, CAPACITY)
    if not _keep(pool, begin, capacity):
        _release(pool, begin, capacity)


@python_locked
def set_limit(pool, limit):
    """Let so many bytes wait from now on."""
    while not replace(pool, TAKEN, 0, 1):
        pause()
    store(pool, LIMIT, limit)
    _trim(pool)
    store(pool, TAKEN, 0)


@block
def _capacity(nbytes):
    """Of a block, in whole pages, for data that begin anywhere in its first page, behind a line."""
    return (LINE + PAGE + nbytes + PAGE - 1) // PAGE * PAGE


@block
def _place(pool, begin, capacity):
    """Where an array's data lie in a block, if there is one."""
    if begin == 0:
        return 0
    first = begin + LINE
    return _marked(first + (load(pool, OFFSET) - first) % PAGE, begin, capacity)


@block
def _marked(data, begin, capacity):
    store(data - LINE, BLOCK, begin)
    store(data - LINE, CAPACITY, capacity)
    return data


@block
def _release(pool, begin, capacity):
    _call(load(pool, FREE), (load(pool, CONTEXT), begin, capacity))


@block
def _take(pool, capacity):
    """A block that waits, or 0."""
    if load(pool, HELD) == 0 or not replace(pool, TAKEN, 0, 1):
        return 0
    i = _index(pool, capacity)
    found = 0 if i < 0 else _pop(pool, i)
    store(pool, TAKEN, 0)
    return found


@block
def _keep(pool, begin, capacity):
    """Let a block wait, and let go of what is then too much; whether the block may."""
    if capacity > load(pool, LIMIT) or not replace(pool, TAKEN, 0, 1):
        return False
    i = _index_for(pool, capacity)
    store(pool, SIZE + i, capacity)
    store(begin, NEXT, load(pool, FIRST + i))
    store(pool, FIRST + i, begin)
    store(pool, CLOCK, load(pool, CLOCK) + 1)
    store(pool, TIME + i, load(pool, CLOCK))
    store(pool, HELD, load(pool, HELD) + capacity)
    _trim(pool)
    store(pool, TAKEN, 0)
    return True


@block
def _trim(pool):
    """Let go of the sizes that came back longest ago, as far as there is too much."""
    while load(pool, HELD) > load(pool, LIMIT):
        _drop(pool, _oldest(pool))


@block
def _index_for(pool, capacity):
    """The place of a size: its own, a free one, or that of the size that came back longest ago, whose blocks go."""
    i = _index(pool, capacity)
    if i < 0:
        i = _index(pool, 0)
    if i < 0:
        i = _oldest(pool)
        while load(pool, SIZE + i) != 0:
            _drop(pool, i)
    return i


@block
def _index(pool, capacity):
    """The index of a size, or -1."""
    for i in range(SIZES):
        if load(pool, SIZE + i) == capacity:
            return i
    return -1


@block
def _oldest(pool):
    """The index of the size that came back longest ago; there is one."""
    oldest = -1
    for i in range(SIZES):
        if load(pool, SIZE + i) != 0 and (oldest < 0 or load(pool, TIME + i) < load(pool, TIME + oldest)):
            oldest = i
    return oldest


@block
def _drop(pool, i):
    capacity = load(pool, SIZE + i)
    _release(pool, _pop(pool, i), capacity)


@block
def _pop(pool, i):
    """A block of a size that waits no more."""
    begin = load(pool, FIRST + i)
    store(pool, FIRST + i, load(begin, NEXT))
    store(pool, HELD, load(pool, HELD) - load(pool, SIZE + i))
    if load(pool, FIRST + i) == 0:
        store(pool, SIZE + i, 0)
    return begin
