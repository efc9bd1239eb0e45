"""Define what launchers work with: runs of values on the device, vectors and blocks of threads for them."""

from typing import Any, NamedTuple

import numpy as np

from numbanorm.cuda import types
from numbanorm.cuda.kernels.states import SLOTS
from numbanorm.cuda.vectors.memory import BYTES
from numbanorm.cuda.vectors.reduce import WARP

_TYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64, np.dtype(np.bool_): types.uint8}
FLOAT64 = np.dtype(np.float64)
FLOAT64_LANES = 2  # at most, where states are float64: a block has no room in shared memory for states of more lanes


class Run(NamedTuple):
    """Describe values that follow each other on the device.

    An array that is not there is a run of no values at address 0.
    """

    address: int
    dtype: np.dtype[Any]
    size: int
    array: Any = None  # of the caller's kind, where one was made for them


NONE = Run(0, np.dtype(np.float32), 0)  # in place of an array that is not given


def type_of(dtype: np.dtype[Any]) -> Any:
    """Return Numba's type for a dtype."""
    return _TYPES[dtype]


def lanes_for(size: int, *runs: Run) -> int:
    """Return how many values a vector has: 128 bits of them, or one.

    Vectors have 128 bits where all runs, and pieces of `size` values, begin at multiples of 128 bits.
    """
    lanes = BYTES // runs[0].dtype.itemsize
    return lanes if size % lanes == 0 and not any(run.address % BYTES for run in runs) else 1


def block_for(columns: int) -> tuple[int, int]:
    """Return the shape of a block for so many columns: a row has at most a warp of threads.

    Each thread of a row takes one of neighbouring columns.
    """
    threads = min(WARP, 1 << max(0, columns - 1).bit_length())
    return threads, SLOTS // threads
