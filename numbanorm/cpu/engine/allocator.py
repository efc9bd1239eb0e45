"""Allocate the memory of large results, in compiled code.

A pool is a block of words. Memory that NumPy gives back waits in the pool for the next array of the same size. A limit
holds for the memory that waits in all sizes together.

NumPy calls these functions as its `PyDataMemAllocator`. So an array owns its memory as usual, and no Python code runs
when the array is freed: if a signal handler raised there, its exception would be lost.

Python's lock keeps threads apart. In a free-threaded Python, a thread that finds the pool taken does not wait, but asks
the system for memory.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numbanorm.cpu.compiling.jit import block, launcher, python_locked
from numbanorm.cpu.compiling.numba_internals import cgutils
from numbanorm.cpu.engine.atomic import WORD, load, pause, replace, store

# The words of a pool.
CONTEXT, MALLOC, CALLOC, REALLOC, FREE = range(5)  # NumPy's default allocator, from which all memory comes
LIMIT, HELD = 5, 6  # the bytes that may wait; the bytes that wait
OFFSET = 7  # an address whose place in its page is that of the next array: a multiple of LINE
TAKEN, CLOCK = 8, 9  # whether a thread has the pool; how often memory was given back
SIZES = 128  # how many sizes the pool can hold
# For each size: its bytes, or 0; its first block; the CLOCK when a block of it was last given back.
SIZE, FIRST, TIME = (16 + SIZES * i for i in range(3))
WORDS = 16 + 3 * SIZES

# The line before an array's data holds the address and the size of the block that the data lie in. A block that waits
# begins with the address of the next block of its size.
BLOCK, CAPACITY, NEXT = 0, 1, 0

LINE, PAGE = 64, 4096


@intrinsic
def _call(typing_context, function, arguments):
    """Call a C function, given by its address, with a tuple of words. Return what it returns."""

    def codegen(context, builder, signature, args):
        words = cgutils.unpack_tuple(builder, args[1])
        pointer = ir.FunctionType(WORD, [WORD] * len(words)).as_pointer()
        return builder.call(builder.inttoptr(args[0], pointer), words)

    return types.intp(types.intp, arguments), codegen


@launcher
def malloc(pool, nbytes):
    """Return memory that waits in the pool, or else memory of NumPy's allocator."""
    capacity = _capacity(nbytes)
    waiting = _take(pool, capacity)
    if waiting != 0:
        return _place(pool, waiting, capacity)
    return _place(pool, _call(load(pool, MALLOC), (load(pool, CONTEXT), capacity)), capacity)


@launcher
def calloc(pool, count, nbytes):
    """Return zeroed memory, always of NumPy's allocator."""
    capacity = _capacity(count * nbytes)
    return _place(pool, _call(load(pool, CALLOC), (load(pool, CONTEXT), 1, capacity)), capacity)


@launcher
def realloc(pool, data, nbytes):
    """Give data a new size, and move them if need be."""
    begin, capacity = load(data - LINE, BLOCK), _capacity(nbytes)
    moved = _call(load(pool, REALLOC), (load(pool, CONTEXT), begin, capacity))
    if moved == 0:
        return 0
    return _marked(moved + data - begin, moved, capacity)


@launcher
def free(pool, data, nbytes):
    """Keep the memory of an array in the pool, or give it back to NumPy's allocator."""
    begin, capacity = load(data - LINE, BLOCK), load(data - LINE, CAPACITY)
    if not _keep(pool, begin, capacity):
        _release(pool, begin, capacity)


@python_locked
def set_limit(pool, limit):
    """Set how many bytes may wait."""
    while not replace(pool, TAKEN, 0, 1):
        pause()
    store(pool, LIMIT, limit)
    _trim(pool)
    store(pool, TAKEN, 0)


@block
def _capacity(nbytes):
    """Return the bytes of a block for `nbytes` of data.

    The block has whole pages, in which the data may begin at any place in a page.
    """
    return (LINE + PAGE + nbytes + PAGE - 1) // PAGE * PAGE


@block
def _place(pool, begin, capacity):
    """Return the address of an array's data in a block, or 0 if there is no block."""
    if begin == 0:
        return 0
    first = begin + LINE
    return _marked(first + (load(pool, OFFSET) - first) % PAGE, begin, capacity)


@block
def _marked(data, begin, capacity):
    """Write into the line before the data which block they lie in. Return the data's address."""
    store(data - LINE, BLOCK, begin)
    store(data - LINE, CAPACITY, capacity)
    return data


@block
def _release(pool, begin, capacity):
    """Give a block back to NumPy's allocator."""
    _call(load(pool, FREE), (load(pool, CONTEXT), begin, capacity))


@block
def _take(pool, capacity):
    """Take a block of this size out of the pool. Return its address, or 0 if there is none."""
    if load(pool, HELD) == 0 or not replace(pool, TAKEN, 0, 1):
        return 0
    i = _index(pool, capacity)
    found = 0 if i < 0 else _pop(pool, i)
    store(pool, TAKEN, 0)
    return found


@block
def _keep(pool, begin, capacity):
    """Put a block into the pool, and release what exceeds the limit. Return whether the block was accepted."""
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
    """Release blocks of the sizes that were given back longest ago, until the limit holds."""
    while load(pool, HELD) > load(pool, LIMIT):
        _drop(pool, _oldest(pool))


@block
def _index_for(pool, capacity):
    """Return the index at which a size is to be kept.

    A size that is kept already has its index. Another size gets a free index, or the index of the size that was given
    back longest ago, whose blocks are released.
    """
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
    """Return the index of a size, or -1 if the pool has none."""
    for i in range(SIZES):
        if load(pool, SIZE + i) == capacity:
            return i
    return -1


@block
def _oldest(pool):
    """Return the index of the size that was given back longest ago. The pool must not be empty."""
    oldest = -1
    for i in range(SIZES):
        if load(pool, SIZE + i) != 0 and (oldest < 0 or load(pool, TIME + i) < load(pool, TIME + oldest)):
            oldest = i
    return oldest


@block
def _drop(pool, i):
    """Release one block of a size."""
    capacity = load(pool, SIZE + i)
    _release(pool, _pop(pool, i), capacity)


@block
def _pop(pool, i):
    """Take one block of a size out of the pool. Return its address."""
    begin = load(pool, FIRST + i)
    store(pool, FIRST + i, load(begin, NEXT))
    store(pool, HELD, load(pool, HELD) - load(pool, SIZE + i))
    if load(pool, FIRST + i) == 0:
        store(pool, SIZE + i, 0)
    return begin
