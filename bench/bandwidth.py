"""The ceiling: how long the machine takes to move the fewest bytes that an operation must move.

One array is written and as many are read as the operation must read (their sum is stored, which costs nothing beside
the memory), by all threads, with ordinary stores and with streaming ones. Ordinary stores first read the line that they
overwrite; streaming stores do not, but put the line into memory even where a cache could have held it. The ceiling is
the faster of the two, on aligned buffers that exist already: nothing that moves as many bytes can do better.
"""

from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from numbanorm.cpu.simd import store_fence

LINE = 16  # float32 values to a cache line
WORTH_A_THREAD = 1024  # lines: below that a launch costs more than it saves
PAGE = 4096

_VECTOR = ir.VectorType(ir.FloatType(), LINE)


def copies(reads: int, size: int) -> dict[str, Callable]:
    """Calls that read `reads` arrays of `size` float32 values and write one, by the kind of store."""
    lines = -(-size // LINE)
    sources = tuple(_buffer(lines, k) for k in range(reads))
    target = _buffer(lines, reads)
    threads = min(numba.get_num_threads(), max(1, lines // WORTH_A_THREAD))
    if threads == 1:
        return {
            "ordinary copy": lambda: _copy_lines(0, lines, sources, target),
            "streaming copy": lambda: _stream_lines(0, lines, sources, target),
        }
    return {
        "ordinary copy": lambda: _copy(threads, lines, sources, target),
        "streaming copy": lambda: _stream(threads, lines, sources, target),
    }


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


@numba.njit(parallel=True, cache=True)
def _copy(threads, lines, sources, target):
    for t in prange(threads):
        _copy_lines(t * lines // threads, (t + 1) * lines // threads, sources, target)


@numba.njit(parallel=True, cache=True)
def _stream(threads, lines, sources, target):
    for t in prange(threads):
        _stream_lines(t * lines // threads, (t + 1) * lines // threads, sources, target)
