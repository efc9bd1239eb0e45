"""Arrays beside a page that nobody may touch: one value beyond them, and the process dies."""

import ctypes
import mmap

import llvmlite.binding as llvm
import numpy as np
from numba.core.registry import cpu_target

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
_libc.malloc.argtypes, _libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p


def memory(nbytes, at_end):
    """Pages between two that are closed, and where in them the first or the last `nbytes` lie."""
    pages = -(-nbytes // mmap.PAGESIZE)
    whole = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    first = ctypes.addressof(ctypes.c_char.from_buffer(whole))
    last = first + (pages + 1) * mmap.PAGESIZE
    for page in (first, last):
        if _libc.mprotect(page, mmap.PAGESIZE, 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    return whole, first, (pages + 1) * mmap.PAGESIZE - nbytes if at_end else mmap.PAGESIZE


def copy(a, at_end):
    """A C-ordered copy beside a closed page.

    It belongs to an object of ctypes: of arrays of a mapping the package asks the system which file is mapped.
    """
    whole, _, start = memory(a.nbytes, at_end)
    view = np.frombuffer((ctypes.c_char * a.nbytes).from_buffer(whole, start), a.dtype).reshape(a.shape)
    view[...] = a
    return view


def one_too_many(a, at_end):
    """The same, but its last value, or its first, lies in the closed page."""

    rest = copy(a.ravel()[1:], at_end)
    return np.asarray(_Array(rest, a.shape, rest.ctypes.data - (not at_end) * a.itemsize))


class _Array:
    """An array of any shape at any address."""

    def __init__(self, owner, shape, address):
        self.owner = owner
        self.__array_interface__ = {**owner.__array_interface__, "shape": shape, "data": (address, False)}


class _MemInfo(ctypes.Structure):
    """What Numba knows of the memory that compiled code asks for (numba/core/runtime/nrt.cpp)."""

    _fields_ = (
        ("references", ctypes.c_size_t),
        ("release", ctypes.c_void_p),
        ("release_info", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("allocator", ctypes.c_void_p),
    )


class Scratch:
    """Puts every array that compiled code makes from now on beside a closed page.

    For functions that are compiled, or loaded from a cache, after it.
    """

    def __init__(self, at_end):
        self.at_end, self.lent, self.count = at_end, {}, 0
        self._allocate = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)(self.allocate)
        self._release = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)(self.release)
        cpu_target.target_context.refresh()  # adds Numba's own functions, which ours take the place of
        llvm.add_symbol("NRT_MemInfo_alloc_aligned", ctypes.cast(self._allocate, ctypes.c_void_p).value)

    def allocate(self, nbytes, align):
        whole, first, start = memory(nbytes, self.at_end)
        self.lent[first + start], self.count = whole, self.count + 1
        release = ctypes.cast(self._release, ctypes.c_void_p).value
        info = _libc.malloc(ctypes.sizeof(_MemInfo))  # Numba frees it
        _MemInfo.from_address(info).__init__(1, release, None, first + start, nbytes, None)
        return info

    def release(self, data, nbytes, info):
        del self.lent[data]
