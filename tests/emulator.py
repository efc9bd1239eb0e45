"""Arrays on a device that there is not: memory of `tests.ptx`, and kernels that it runs."""

import ctypes
from contextlib import contextmanager
from math import prod
from unittest.mock import patch

import numpy as np
from numpy.lib.array_utils import byte_bounds

from numbanorm.cuda import launch, libraries
from tests import compiled
from tests.ptx import GlobalMemory, run

MEMORY = GlobalMemory(1 << 30)


class DeviceArray:
    """An array that must not become one of NumPy's on the way."""

    def __init__(self, address, shape, strides, dtype, begin, read_only=False, stream=None, device=0):
        self.address, self.shape, self.strides, self.dtype = address, tuple(shape), tuple(strides), np.dtype(dtype)
        self.begin, self.read_only, self.stream, self.device = begin, read_only, stream, device

    def __del__(self):
        if self.begin is not None:
            MEMORY.release(self.begin)

    @property
    def __cuda_array_interface__(self):
        return {
            "data": (self.address, self.read_only),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "stream": self.stream,
            "version": 3,
        }

    def __array__(self, *args, **options):
        raise TypeError("an array of a device was copied to the host")


def to_device(a, **options):
    """A copy of an array that lies there as it lies here."""
    if a is None or a.size == 0:
        return None if a is None else DeviceArray(0, a.shape, a.strides, a.dtype, None, **options)
    low, high = byte_bounds(a)
    offset = low % 256
    begin = MEMORY.allocate(high - low, offset)
    MEMORY.bytes(begin, high - low)[...] = np.frombuffer(ctypes.string_at(low, high - low), np.uint8)
    address = begin + a.__array_interface__["data"][0] - low
    read_only = not a.flags.writeable
    return DeviceArray(address, a.shape, a.strides, a.dtype, begin, read_only, **options)


def to_host(d):
    """A view of an array's values."""
    if prod(d.shape) == 0:
        return np.empty(d.shape, d.dtype)
    low = d.address + sum(step * (size - 1) for step, size in zip(d.strides, d.shape, strict=True) if step < 0)
    high = d.address + sum(step * (size - 1) for step, size in zip(d.strides, d.shape, strict=True) if step > 0)
    memory = MEMORY.bytes(low, high - low + d.dtype.itemsize)
    return np.ndarray(d.shape, d.dtype, memory, d.address - low, d.strides)


def empty(like, shape, strides, dtype):
    nbytes = prod(shape) * dtype.itemsize
    begin = MEMORY.allocate(nbytes) if nbytes else None
    return DeviceArray(begin or 0, shape, strides, dtype, begin, stream=like.stream, device=like.device)


def ones(shape):
    """At the address of an allocation, as libraries make arrays."""
    dtype = np.dtype(np.float32)
    array = empty(_LIKE, shape, np.empty(shape, dtype).strides, dtype)
    to_host(array)[...] = 1
    return array


_LIKE = DeviceArray(0, (), (), np.float32, None)


def _launch(kernel, grid, block, arguments, stream, device):
    launches.append((kernel, grid, block, stream, device))
    flat = [value for a in arguments for value in (a if isinstance(a, tuple) else (a,))]
    assert {type(value) for value in flat} <= {int, float}  # which `cuda.core` takes for 8 bytes each
    assert 0 < grid < 2**31
    assert block[0] * block[1] <= kernel.threads
    blocks = None if _most_blocks is None else range(0, grid, -(-grid // _most_blocks))
    found = run(compiled.program(kernel), grid, block, flat, MEMORY, order=_order, blocks=blocks)
    sectors = found.loaded_sectors + found.stored_sectors
    moved.append(32 * sectors * grid / (grid if blocks is None else len(blocks)))


def _fetch(address, size, dtype, stream, device):
    return np.frombuffer(MEMORY.bytes(address, size * dtype.itemsize).copy(), dtype).copy()


def _send(array, address, stream, device):
    MEMORY.bytes(address, array.nbytes)[...] = np.frombuffer(array.tobytes(), np.uint8)


launches, moved = [], []  # what was launched since the last time that something was emulated, and the bytes it moved
_order, _most_blocks = None, None


@contextmanager
def emulated(order=None, most_blocks=None):
    """Launches are run here, on the memory here: in some order of blocks and threads, or a sample of the blocks."""
    global _order, _most_blocks
    library = libraries.Library(empty, lambda array: array.stream or 0, lambda array: array.device)
    libraries.register(DeviceArray, library)
    launches.clear()
    moved.clear()
    before, (_order, _most_blocks) = (_order, _most_blocks), (order, most_blocks)
    try:
        with patch.multiple(launch, launch=_launch, fetch=_fetch, send=_send):
            yield
    finally:
        _order, _most_blocks = before
