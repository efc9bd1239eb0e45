"""Calls that compile each kernel for the common signatures, or load it if it is kept from before."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numbanorm._operations import OPERATIONS, Operation
from numbanorm._types import FLOAT64, Array, Shape
from numbanorm.moments import Moments

_SHAPES: dict[str, dict[str, tuple[Shape, int]]] = {  # of x, and its axis: each takes other kernels
    "axis": {"rows": ((4, 64), -1), "columns": ((2, 64, 8), 1), "long rows": ((1, 300_000), -1)},
    "channel_axis": {"small": ((16, 4), 1), "large": ((400_000, 2), 1)},
}


def calls(dtype: Any) -> dict[str, Callable[[], object]]:
    """Return the calls by what they are for."""
    name = np.dtype(dtype).name
    found: dict[str, Callable[[], object]] = {}
    for operation in OPERATIONS.values():
        for kind, (shape, axis) in _SHAPES[operation.axis_name].items():
            found[f"{name} {operation.name}, {kind}"] = partial(_operation, operation, np.ones(shape, dtype), axis)
    found[f"{name} statistics and scalers"] = partial(_scalers, np.ones((16, 4), dtype))
    return found


def _operation(operation: Operation, x: Array, axis: int) -> None:
    """Call a function with all its arguments.

    Statistics have x's dtype. If the function updates some, it is called again, and these are float64.
    """
    arguments = operation.arguments(x, axis, np.ones) | {"mask": None}
    if "mask" not in operation.optional:
        del arguments["mask"]
    operation.function(**arguments)
    if operation.updated:
        operation.function(**arguments | {name: arguments[name].astype(FLOAT64) for name in operation.updated})
    for switch in operation.switches:
        operation.function(**arguments | {switch: True})


def _scalers(x: Array) -> None:
    from numbanorm.scalers import MinMaxScaler, StandardScaler  # which import scikit-learn

    Moments.of(x)
    MinMaxScaler().fit_transform(x)
    StandardScaler().fit(x, sample_weight=1.0)
