"""Reductions over the threads that share a row, in the emulator."""

from functools import lru_cache

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel
from numbanorm.cuda.vectors.memory import load, shared, store
from numbanorm.cuda.vectors.reduce import MOST_WARPS, group, larger
from numbanorm.cuda.vectors.simd import number
from tests import compiled
from tests.device import MEMORY
from tests.ptx import run


@lru_cache
def kernel_of(threads):
    """The largest magnitude in each group of so many threads, as `rows_forward` finds it: beginning with 0."""
    of_group = group(threads).largest

    def kernel(given, found):
        index = cuda.threadIdx.y * threads + cuda.threadIdx.x
        value = load(given, index, 1)
        store(found, index, of_group(larger(number(0.0, value, 1), abs(value)), shared(given, MOST_WARPS)))

    return Kernel(kernel, (types.CPointer(types.float32),) * 2)


def largest_magnitudes(values):
    """What each thread finds of values (groups, threads)."""
    groups, threads = values.shape
    given, found = (MEMORY.allocate(values.nbytes) for _ in range(2))
    MEMORY.bytes(given, values.nbytes)[...] = np.frombuffer(values.tobytes(), np.uint8)
    run(compiled.program(kernel_of(threads)), 1, (threads, groups), [given, found], MEMORY)
    return np.frombuffer(MEMORY.bytes(found, values.nbytes).copy(), values.dtype).reshape(values.shape)


@pytest.mark.parametrize(("groups", "threads"), [(16, 2), (4, 8), (1, 32), (1, 96)])
@pytest.mark.parametrize("beyond", [np.nan, np.inf])
def test_every_thread_finds_the_largest_magnitude_that_is_a_number(groups, threads, beyond):
    """`larger` leaves out a NaN as its second operand, so that it does not hide the values of other threads."""
    values = np.random.default_rng(threads).normal(size=(groups, threads)).astype(np.float32)
    values[::2, 0] = beyond
    expected = np.nanmax(np.abs(values), axis=1, keepdims=True)
    np.testing.assert_array_equal(largest_magnitudes(values), np.broadcast_to(expected, values.shape))
