"""What launchers work with: runs of values on the device, vectors and blocks of threads for them."""

from typing import Any, NamedTuple

import numpy as np

from numbanorm.cuda import types
from numbanorm.cuda.kernels.states import SLOTS
from numbanorm.cuda.vectors.memory import BYTES
from numbanorm.cuda.vectors.reduce import WARP

_TYPES = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64, np.dtype(np.bool_): types.uint8}


class Run(NamedTuple):
    """Values that follow each other on the device; none, at address 0, in the place of an array that is not there."""

    address: int
    dtype: np.dtype[Any]
    size: int
    array: Any = None  # of the caller's kind, where one was made for them


def type_of(dtype: np.dtype[Any]) -> Any:
    """Numba's."""
    return _TYPES[dtype]


def lanes_for(size: int, *runs: Run) -> int:
    """Values to a vector: 128 bits where runs and pieces of `size` values begin at multiples of that."""
    lanes = BYTES // runs[0].dtype.itemsize
    return lanes if size % lanes == 0 and not any(run.address % BYTES for run in runs) else 1


def block_for(columns: int) -> tuple[int, int]:
    """Rows of threads, each for columns next to each other, up to a warp of them."""
    threads = min(WARP, 1 << max(0, columns - 1).bit_length())
    return threads, SLOTS // threads
