"""Memory for results: large ones take that of earlier results which nobody references any more.

The pages of new memory are zeroed by the system when they are first written, which takes longer than a kernel does. So
the memory of a large result is not given back at once when its last reference goes (views count, of whatever library),
but kept for the next result of the same size, up to a limit over all sizes.
"""

import os
import threading
from collections import OrderedDict
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbanorm import _checks
from numbanorm._types import Array, Shape

LARGE = 1 << 17  # bytes: smaller results have quick memory from NumPy
_LINE, _PAGE = 64, 4096
_KEPT = 256 << 20  # bytes, unless told otherwise


class _Memory(NamedTuple):
    """Bytes that were asked of the system once, and where they lie, which it takes NumPy a microsecond to say."""

    array: Array
    address: int
    nbytes: int


class _Pool:
    """Memory that waits for its next use, by size; the size that came back last is at the end.

    Its lock is only ever tried: memory may come back at any moment, even while this thread holds the lock (garbage
    collection). It goes to the system then.
    """

    def __init__(self) -> None:
        self.limit, self.held = _KEPT, 0
        self.waiting: OrderedDict[int, list[_Memory]] = OrderedDict()
        self.lock = threading.Lock()

    def take(self, nbytes: int) -> _Memory | None:
        """Memory of so many bytes, if there is any."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            return self._pop(nbytes) if nbytes in self.waiting else None
        finally:
            self.lock.release()

    def give(self, memory: _Memory) -> None:
        """Keep memory, and let go of what is then too much."""
        if memory.nbytes > self.limit or not self.lock.acquire(blocking=False):
            return
        try:
            self.waiting.setdefault(memory.nbytes, []).append(memory)
            self.waiting.move_to_end(memory.nbytes)
            self.held += memory.nbytes
            self._trim()
        finally:
            self.lock.release()

    def set_limit(self, limit: int) -> int:
        """The limit until now."""
        previous, self.limit = self.limit, limit
        if self.lock.acquire(timeout=1):
            try:
                self._trim()
            finally:
                self.lock.release()
        return previous

    def forked(self) -> None:
        """In a child, where another thread may have held the lock and will not come back to it."""
        self.lock = threading.Lock()
        self.held = sum(nbytes * len(memories) for nbytes, memories in self.waiting.items())

    def _trim(self) -> None:
        while self.waiting and self.held > self.limit:
            self._pop(next(iter(self.waiting)))

    def _pop(self, nbytes: int) -> _Memory:
        memories = self.waiting[nbytes]
        memory = memories.pop()
        if not memories:
            del self.waiting[nbytes]
        self.held -= nbytes
        return memory


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forked)


class _Loan:
    """The base of a result in recycled memory: it lives as long as an array or a view of it does."""

    def __init__(self, memory: _Memory, shape: Shape, dtype: np.dtype[Any], start: int) -> None:
        self.memory, self.pool = memory, _pool
        data = memory.address + start, False
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": data}

    def __del__(self) -> None:
        self.pool.give(self.memory)


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
    number = _checks.index("limit", limit)
    if number < 0:
        raise ValueError(f"limit: {limit!r}, must be at least 0")
    return _pool.set_limit(number)


def empty(shape: Shape, dtype: np.dtype[Any], beside: Array) -> Array:
    """An array for a result that is computed from `beside`.

    A large one begins a cache line, since NumPy's begin within one, and then each of its lines would; and it lies half
    a page from `beside`, modulo pages: loads wait for stores that are pending at their own offset in a page.
    """
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < LARGE:
        return np.empty(shape, dtype)
    size = (nbytes + 2 * _PAGE - 1) // _PAGE * _PAGE
    memory = _pool.take(size)
    if memory is None:
        array = np.empty(size, np.uint8)
        memory = _Memory(array, _address(array), size)
    start = (_address(beside) + _PAGE // 2 - memory.address) % _PAGE // _LINE * _LINE
    start += -(memory.address + start) % _LINE
    return np.asarray(_Loan(memory, shape, dtype, start))


def _address(a: Array) -> int:
    address: int = a.__array_interface__["data"][0]
    return address
