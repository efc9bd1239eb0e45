"""Memory for results: large ones take that of earlier results which nobody references any more.

The pages of new memory are zeroed by the system when they are first written, which takes longer than a kernel does. So
the memory of a large result is not given back at once when its last reference goes (views count, of whatever library),
but kept for the next result of the same size, up to a limit over all sizes.
"""

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

    It has no lock, since memory comes back at any moment, even while this thread is in here (garbage collection), and
    a signal handler may raise there. Each step of Python's is whole, and what comes between two of them costs at most
    the memory at hand, which then goes to the system, or its place in the count of bytes until that is made anew.
    """

    def __init__(self) -> None:
        self.limit, self.held = _KEPT, 0
        self.waiting: dict[int, list[_Memory]] = {}

    def take(self, nbytes: int) -> _Memory | None:
        """Memory of so many bytes, if there is any."""
        memories = self.waiting.get(nbytes)
        if not memories:
            return None
        try:
            memory = memories.pop()
        except IndexError:  # another thread was quicker
            return None
        self.held -= nbytes
        if not memories:
            self.waiting.pop(nbytes, None)
        return memory

    def give(self, memory: _Memory) -> None:
        """Keep memory, and let go of what is then too much."""
        if memory.nbytes > self.limit:
            return
        memories = self.waiting.pop(memory.nbytes, [])
        memories.append(memory)
        self.held += memory.nbytes
        self.waiting[memory.nbytes] = memories
        if self.held > self.limit:
            self._trim()

    def set_limit(self, limit: int) -> int:
        """The limit until now."""
        previous, self.limit = self.limit, limit
        self._trim()
        return previous

    def _trim(self) -> None:
        """Count anew, and let go of the sizes that came back longest ago."""
        sizes = list(self.waiting)
        self.held = sum(nbytes * len(self.waiting.get(nbytes, ())) for nbytes in sizes)
        for nbytes in sizes:
            while self.held > self.limit and self.take(nbytes):
                pass


_pool = _Pool()


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
    return _pool.set_limit(_checks.size("limit", limit, least=0))


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
