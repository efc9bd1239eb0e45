"""What the functions take and return."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]
Shape = tuple[int, ...]


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
