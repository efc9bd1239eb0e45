"""The devices that tests run on: the host, an emulated GPU, and a real one, by the arrays of each library.

A test takes the fixture `device` (or `gpu`: all but the host) and calls `device.layer_norm(x, weight)` with NumPy's
arrays. They go to the device as they lie here; what the call returns comes back, and arrays that it writes are written.
So one test is of every device.
"""

import warnings
from contextlib import nullcontext
from functools import wraps
from importlib.util import find_spec
from inspect import signature

import numpy as np

import numbanorm
from numbanorm._operations import OPERATIONS

NUMBERS = {"count"}  # arguments that stay on the host


class Host:
    """Where NumPy's arrays are."""

    name = "host"
    counts_masks = True  # an error says that a mask leaves too few positions; on a GPU, to count them is a transfer

    def lacking(self):
        """Why there is no such device here."""
        return ""

    def running(self):
        """A context in which calls on its arrays run."""
        return nullcontext()

    def __getattr__(self, name):
        return getattr(numbanorm, name)


class Device:
    """A GPU, to which arrays go as a `copy_of` them, an object with `array`, `values()` and `assert_kept()`."""

    counts_masks = False

    def __getattr__(self, name):
        return self.wrap(getattr(numbanorm, name))

    def to_device(self, a):
        """A copy there, or None."""
        return None if a is None else self.copy_of(a).array

    def running(self):
        return nullcontext()

    def assert_like(self, array, other):
        """It is of the same type and on the same device."""
        assert type(array) is type(other)

    def wrap(self, function):
        """A function of the device's arrays, as one of NumPy's. Arrays that it does not write must be as before."""
        bound, operation = signature(function), OPERATIONS.get(function.__name__)
        may_write = {"out", *(operation.updated if operation else ())}

        @wraps(function)
        def call(*args, **kwargs):
            given, copies = bound.bind(*args, **kwargs), {}
            arrays = {name: a for name, a in given.arguments.items() if isinstance(a, np.ndarray)}
            for name in arrays.keys() - NUMBERS:
                a = arrays[name]
                if id(a) not in copies:
                    copies[id(a)] = a, self.copy_of(a)
                given.arguments[name] = copies[id(a)][1].array
            with self.running():
                result = function(*given.args, **given.kwargs)
            written = {id(arrays[name]) for name in may_write & arrays.keys()}
            for a, copy in copies.values():
                if id(a) in written:
                    a[...] = copy.values()
                else:
                    copy.assert_kept()
            sent = {id(copy.array): a for a, copy in copies.values()}
            like = next(copy.array for _, copy in copies.values())

            def back(array):
                self.assert_like(array, like)
                return sent[id(array)] if id(array) in sent else np.array(self.to_host(array))

            return type(result)(*map(back, result)) if isinstance(result, tuple) else back(result)

        return call


class Emulated(Device):
    """A GPU whose memory and compiled kernels `tests.emulator` runs.

    What concerns host memory alone (byte order, addresses that are not aligned) is left out: such arrays are copied.
    """

    name = "emulated"

    def lacking(self):
        return "" if find_spec("numba_cuda") else "numba-cuda is not installed"

    @property
    def _emulator(self):
        from tests import emulator

        return emulator

    def running(self):
        return self._emulator.emulated()

    def copy_of(self, a):
        return _EmulatedCopy(self._emulator, a)

    def to_host(self, array):
        return self._emulator.to_host(array)


class _EmulatedCopy:
    def __init__(self, emulator, a):
        self.a, self.emulator = a, emulator
        usual = a if a.flags.aligned and a.dtype.isnative else np.array(a, a.dtype.newbyteorder("="))
        self.array = emulator.to_device(usual)

    def values(self):
        return self.emulator.to_host(self.array)

    def assert_kept(self):
        np.testing.assert_array_equal(self.values(), self.a)


class Gpu(Device):
    """A real GPU, by the arrays of a library of `tests.gpu_arrays`. Byte order and misalignment are left out, too."""

    def __init__(self, name):
        self.name = name

    def lacking(self):
        if not find_spec("numba_cuda"):
            return "numba-cuda is not installed"
        from bench.gpu_device import no_gpu

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other packages warn while they are imported and first use a GPU
            if reason := no_gpu() or self.library.lacking():
                return reason
            self.to_device(np.zeros((1, 1)))
        return ""

    @property
    def library(self):
        from tests.gpu_arrays import LIBRARIES

        return LIBRARIES[self.name]

    def copy_of(self, a):
        from tests.gpu_arrays import Sent

        return Sent(self.library, a)

    def to_host(self, array):
        return self.library.to_host(array)

    def assert_like(self, array, other):
        super().assert_like(array, other)
        assert self.library.device_of(array) == self.library.device_of(other)


HOST, EMULATED = Host(), Emulated()
REAL = [Gpu("numba"), Gpu("cupy"), Gpu("torch")]
DEVICES = [HOST, EMULATED, *REAL]
