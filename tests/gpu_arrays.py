"""Arrays on a real GPU, of each library whose arrays numbanorm takes.

A library is imported when a test first asks for it, so that this module can be imported anywhere.
"""

import ctypes
import warnings
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from unittest.mock import patch

import numpy as np
from numpy.lib.array_utils import byte_bounds

from numbanorm.cuda import cuda

ALIGNMENT = 256  # bytes: an array begins as far from a multiple of it as on the host
BLOCK = 256
PAUSES = 20  # of about a millisecond


class Library:
    def lacking(self):
        """Why it has no arrays here."""
        return ""

    def usual(self, a):
        """One like it that the library's arrays can be."""
        return a

    def no_copies(self):
        """Where a copy to the host raises, by Numba or as far as the library can be told to."""
        return patch("numba.cuda.cudadrv.driver.device_to_host", side_effect=AssertionError("a copy to the host"))


class Numba(Library):
    """Arrays of `numba.cuda`, bound to the stream of the `side_stream` that they are made in."""

    stream = 0

    def usual(self, a):
        """Of several values in one place, its interface would say that they are apart."""
        return np.array(a, order="C") if a.size and 0 in a.strides else a

    def view(self, memory, first, shape, strides, dtype):
        """An array in a copy of these bytes, from the first on; and the copy, as an array of uint8."""
        whole = cuda.to_device(memory)
        address = whole.__cuda_array_interface__["data"][0] + first
        interface = {"data": (address, False), "shape": shape, "strides": strides, "typestr": dtype.str, "version": 3}
        interface["stream"] = self.stream or None
        return cuda.from_cuda_array_interface(interface, owner=whole, sync=False), whole

    def to_host(self, array):
        """By its stream, or by the current one."""
        host = array.copy_to_host()
        if array.stream:
            array.stream.synchronize()
        return host

    def device_of(self, array):
        return array.gpu_data.context.device.id

    def on_device(self, number):
        return cuda.gpus[number]

    @contextmanager
    def side_stream(self):
        """A stream that does not wait for the default one, current while this lasts; its handle."""
        from numba.cuda.cudadrv.driver import binding, driver

        cuda.current_context()
        self.stream = int(driver.cuStreamCreate(binding.CUstream_flags.CU_STREAM_NON_BLOCKING.value))
        try:
            yield self.stream
        finally:
            self.stream = 0


class CuPy(Library):
    def lacking(self):
        if find_spec("cupy") is None:
            return "CuPy is not installed"
        import cupy

        self.cupy = cupy
        return "" if cupy.cuda.is_available() else "CuPy finds no GPU"

    def view(self, memory, first, shape, strides, dtype):
        whole = self.cupy.asarray(memory)
        return self.cupy.ndarray(shape, dtype, whole.data + first, strides), whole

    def to_host(self, array):
        return self.cupy.asnumpy(array)

    def device_of(self, array):
        return array.device.id

    def on_device(self, number):
        return self.cupy.cuda.Device(number)

    @contextmanager
    def side_stream(self):
        with self.cupy.cuda.Stream(non_blocking=True) as stream:
            yield stream.ptr


class PyTorch(Library):
    def lacking(self):
        if find_spec("torch") is None:
            return "PyTorch is not installed"
        import torch

        self.torch = torch
        return "" if torch.cuda.is_available() else "PyTorch finds no GPU: is it a build for CUDA?"

    def usual(self, a):
        """Without negative strides."""
        return np.array(a, order="C") if min(a.strides) < 0 else a

    def view(self, memory, first, shape, strides, dtype):
        whole, steps = self.torch.from_numpy(memory).cuda(), [step // dtype.itemsize for step in strides]
        typed = whole.view(getattr(self.torch, dtype.name))
        return typed.as_strided(shape, steps, first // dtype.itemsize), whole

    def to_host(self, array):
        return array.cpu().numpy()

    def device_of(self, array):
        return array.device.index

    def on_device(self, number):
        return self.torch.cuda.device(number)

    @contextmanager
    def side_stream(self):
        stream = self.torch.cuda.Stream()
        with self.torch.cuda.stream(stream):
            yield stream.cuda_stream

    @contextmanager
    def no_copies(self):
        with super().no_copies(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch says that it does not find them all
            self.torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            self.torch.cuda.set_sync_debug_mode("default")


LIBRARIES = {"numba": Numba(), "cupy": CuPy(), "torch": PyTorch()}


class Sent:
    """A copy of an array, on the device as it lies here: with all that is between its values."""

    def __init__(self, library, a):
        usual = library.usual(np.require(a, a.dtype.newbyteorder("="), "A"))
        low, high = byte_bounds(usual) if usual.size else (0, 0)
        around, end = low % ALIGNMENT, low % ALIGNMENT + high - low
        self.memory = np.zeros(end + ALIGNMENT - end % ALIGNMENT, np.uint8)
        self.memory[around:end] = np.frombuffer(ctypes.string_at(low, high - low), np.uint8)
        self.first = usual.__array_interface__["data"][0] - low + around if usual.size else 0
        self.library, self.shape, self.strides, self.dtype = library, usual.shape, usual.strides, usual.dtype
        self.array, self.whole = library.view(self.memory, self.first, self.shape, self.strides, self.dtype)

    def bytes(self):
        return self.library.to_host(self.whole)

    def values(self):
        return np.ndarray(self.shape, self.dtype, self.bytes(), self.first, self.strides)

    def assert_kept(self):
        """No byte has changed, of values or between them."""
        np.testing.assert_array_equal(self.bytes(), self.memory)


def to_device(library, a):
    return Sent(library, a).array


@cache
def _late_copy():
    @cuda.jit
    def late_copy(source, target):
        for _ in range(PAUSES):
            cuda.nanosleep(1_000_000)
        i = cuda.grid(1)
        if i < target.size:
            target[i] = source[i]

    return late_copy


def fill_late(target, source, stream):
    """Copy an array on a stream after many milliseconds; the event that it is done. Both are dense."""
    flat = [cuda.as_cuda_array(a, sync=False).ravel() for a in (source, target)]
    stream = cuda.external_stream(stream)
    blocks = max(128, -(-flat[0].size // BLOCK))  # of fewer, Numba would warn
    _late_copy()[blocks, BLOCK, stream](*flat)
    event = cuda.event(timing=False)
    event.record(stream)
    return event
