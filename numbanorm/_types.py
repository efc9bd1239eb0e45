"""The types of arguments and results."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]
FLOATS = (np.float32, np.float64)
FLOAT64 = np.dtype(np.float64)


class Forward(NamedTuple):
    """The normalised array and the statistics that the backward pass needs."""

    y: Array
    mean: Array
    rstd: Array


class Gradients(NamedTuple):
    """The gradients with respect to x, weight and bias."""

    dx: Array
    dweight: Array
    dbias: Array


class Running(NamedTuple):
    """The running statistics that a batch moves. What there is not is None."""

    mean: Any
    var: Any
    momentum: float  # the share of the batch
    batches: Any = None  # how many batches have moved them: an int64 array of one value
    skip_nonfinite: bool = False  # whether a batch with inf or NaN moves nothing
