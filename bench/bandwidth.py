"""The ceiling: how long the machine takes to move the fewest bytes that an operation must move.

One array is written and as many are read as the operation must read (their sum is stored, which costs nothing beside
the memory), by all threads, on aligned buffers that exist already. Streaming stores do not read the line that they
overwrite, as ordinary ones do, but put the line into memory even where a cache could have held it. So the ceiling is
the streaming copy, and where all arrays stay in the cache, whichever of the two is faster there.
"""

from collections.abc import Callable
from functools import partial

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from numbanorm import get_num_threads
from numbanorm.cpu.engine.machine import last_level_cache
from numbanorm.cpu.vectors.streaming import store_fence

ORDINARY, STREAMING = "ordinary copy", "streaming copy"
LINE = 16  # float32 values to a cache line, whatever the bytes are
LINE_BYTES = 64
WORTH_A_THREAD = 1024  # lines: below that a launch costs more than it saves
PAGE = 4096

_VECTOR = ir.VectorType(ir.FloatType(), LINE)


def copies(reads: int, nbytes: int) -> dict[str, Callable]:
    """Calls that read `reads` arrays of `nbytes` and write one, by the kind of store; the fastest is the ceiling."""
    lines = -(-nbytes // LINE_BYTES)
    sources = tuple(_buffer(lines, k) for k in range(reads))
    target = _buffer(lines, reads)
    threads = min(get_num_threads(), max(1, lines // WORTH_A_THREAD))
    if threads == 1:
        ordinary, streaming = partial(_copy_lines, 0), partial(_stream_lines, 0)
    else:
        ordinary, streaming = partial(_copy, threads), partial(_stream, threads)
    calls = {STREAMING: partial(streaming, lines, sources, target)}
    if in_cache((reads + 1) * nbytes):
        calls[ORDINARY] = partial(ordinary, lines, sources, target)
    return calls


def in_cache(nbytes: int) -> bool:
    """Whether arrays of so many bytes in all stay in the last-level cache beside what else is there: half of it."""
    return nbytes < last_level_cache() // 2


def _buffer(lines: int, k: int) -> np.ndarray:
    """Whole lines of ones, and no two buffers at the same offset in a page, where loads would wait for stores."""
    memory = np.ones(lines * LINE + 2 * PAGE // 4, np.float32)
    start = (-memory.ctypes.data % PAGE + k * PAGE // 4) // memory.itemsize
    return memory[start : start + lines * LINE]


def _line_mover(nontemporal: bool):
    """``move(sources, i, target)``: store the sum of line i of the sources as line i of the target."""

    @intrinsic
    def move(typing_context, sources, i, target):
        def codegen(context, builder, signature, args):
            def line(array_type, array):
                data = context.make_array(array_type)(context, builder, array).data
                return builder.gep(builder.bitcast(data, _VECTOR.as_pointer()), [args[1]])

            total = None
            for k in range(len(sources)):
                value = builder.load(line(sources.dtype, builder.extract_value(args[0], k)), align=64)
                total = value if total is None else builder.fadd(total, value)
            store = builder.store(total, line(target, args[2]), align=64)
            if nontemporal:
                store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
            return context.get_dummy_value()

        return types.void(sources, types.intp, target), codegen

    return move


_copy_line, _stream_line = _line_mover(nontemporal=False), _line_mover(nontemporal=True)


@numba.njit(cache=True)
def _copy_lines(first, end, sources, target):
    for i in range(first, end):
        _copy_line(sources, i, target)


@numba.njit(cache=True)
def _stream_lines(first, end, sources, target):
    for i in range(first, end):
        _stream_line(sources, i, target)
    store_fence()


def read(nbytes: int) -> Callable:
    """A call that reads one array of `nbytes`: the ceiling of what writes next to nothing."""
    lines = -(-nbytes // LINE_BYTES)
    threads = min(get_num_threads(), max(1, lines // WORTH_A_THREAD))
    return partial(_read, threads, lines, _buffer(lines, 0))


@numba.njit(parallel=True, cache=True)
def _read(threads, lines, source):
    partials = np.empty(threads, np.float32)
    for t in prange(threads):
        partials[t] = _sum_of_lines(source[t * lines // threads * LINE : (t + 1) * lines // threads * LINE])
    return partials.sum()


@numba.njit(fastmath={"reassoc", "nsz"}, cache=True)
def _sum_of_lines(values):
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


@numba.njit(parallel=True, cache=True)
def _copy(threads, lines, sources, target):
    for t in prange(threads):
        _copy_lines(t * lines // threads, (t + 1) * lines // threads, sources, target)


@numba.njit(parallel=True, cache=True)
def _stream(threads, lines, sources, target):
    for t in prange(threads):
        _stream_lines(t * lines // threads, (t + 1) * lines // threads, sources, target)
