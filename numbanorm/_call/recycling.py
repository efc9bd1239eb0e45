"""Memory for large results, taken from earlier results that nobody references any more.

The system zeroes the pages of new memory when they are first written, which takes longer than a kernel does. So the
memory of a large result is kept when its last reference goes, where views of whatever library count, too. It waits for
the next result of the same size, up to a limit over all sizes (`numbanorm.cpu.engine.allocator`).

NumPy takes an array's memory from the allocator that is set in the current context (`contextvars`). This module has a
context of its own with the recycling allocator, and makes only its results there.
"""

import ctypes
import sys
from contextvars import Context
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy._core import multiarray

from numbanorm._call import numbers
from numbanorm._types import Array, Shape
from numbanorm.cpu.compiling.jit import c_address
from numbanorm.cpu.engine import allocator

LARGE = 1 << 17  # bytes: smaller results have quick memory from NumPy

_SET_HANDLER, _DEFAULT_HANDLER = 304, 306  # in the table of NumPy's C functions
_NAME, _VERSION = b"mem_handler", 1  # of handlers, as NumPy wants them
_ALLOCATOR = {  # its functions, in NumPy's order, and their types
    allocator.malloc: types.intp(types.intp, types.intp),
    allocator.calloc: types.intp(types.intp, types.intp, types.intp),
    allocator.realloc: types.intp(types.intp, types.intp, types.intp),
    allocator.free: types.void(types.intp, types.intp, types.intp),
}

_limit = 256 << 20  # bytes that may wait, unless told otherwise


class _Handler(ctypes.Structure):
    """NumPy's `PyDataMem_Handler`. `allocator` is the context of the functions that follow it."""

    _fields_ = (("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("allocator", ctypes.c_ssize_t * 5))


_address_in = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class _Pool(NamedTuple):
    """Memory that waits for its next use, and the context in which arrays are made of it."""

    words: Array
    address: int
    context: Context


_made: dict[str, _Pool] = {}


def _pool() -> _Pool:
    """Return the pool of this process."""
    if not _made:
        _made.setdefault("pool", _new_pool())  # another thread may be here, too
        allocator.set_limit(_made["pool"].address, min(_limit, sys.maxsize))
    return _made["pool"]


def _new_pool() -> _Pool:
    """Make an empty pool. It stays for ever, with its compiled functions: an array may live until the very end."""
    table = (ctypes.c_ssize_t * (_DEFAULT_HANDLER + 1)).from_address(_address_in(multiarray._ARRAY_API, None))
    default = ctypes.py_object.from_address(table[_DEFAULT_HANDLER]).value
    words = np.zeros(allocator.WORDS, np.intp)
    words[: allocator.FREE + 1] = _Handler.from_address(_address_in(default, _NAME)).allocator
    words[allocator.LIMIT] = min(_limit, sys.maxsize)
    functions = [c_address(function, signature) for function, signature in _ALLOCATOR.items()]
    handler = _Handler(b"numbanorm", _VERSION, (words.ctypes.data, *functions))
    for kept in (words, handler, _NAME, *_ALLOCATOR):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    context = Context()
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
    context.run(set_handler, _new_capsule(ctypes.addressof(handler), _NAME, None))
    return _Pool(words, words.ctypes.data, context)


def recycle_memory(limit: int) -> int:
    """Set how many bytes of large results that nobody references any more may wait for the next ones.

    New memory costs more than the normalisation of what fills it, so results of 128 KiB and more are made in the
    memory of earlier ones that are gone, arrays and all views of them. 256 MiB may wait at first; 0 switches this off
    and gives back what waits.

    Parameters
    ----------
    limit : int
        In bytes, over all sizes and threads.

    Returns
    -------
    int
        The limit until now.

    Raises
    ------
    TypeError, ValueError
        `limit` is not an int, or negative.

    Examples
    --------
    >>> from numbanorm import recycle_memory
    >>> before = recycle_memory(0)  # switched off
    >>> recycle_memory(before)
    0
    """
    global _limit
    previous, _limit = _limit, numbers.size("limit", limit, least=0)
    if _made:
        allocator.set_limit(_pool().address, min(_limit, sys.maxsize))
    return previous


def empty(shape: Shape, dtype: np.dtype[Any], beside: Array) -> Array:
    """Make an array for a result that is computed from `beside`.

    A large array begins at a cache line: NumPy's would begin within one, and so would each of its lines. It also lies
    half a page from `beside`, modulo pages, since loads wait for pending stores at the same offset in a page.
    """
    if prod(shape) * dtype.itemsize < LARGE:
        return np.empty(shape, dtype)
    pool = _made.get("pool") or _pool()
    address = beside.__array_interface__["data"][0]
    pool.words[allocator.OFFSET] = (address + allocator.PAGE // 2) // allocator.LINE * allocator.LINE
    return pool.context.copy().run(np.empty, shape, dtype)
