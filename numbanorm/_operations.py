"""This table of the operations says what each public function of arrays takes, returns, writes and must move.

Warm-up, tests, benchmarks and the table of the README read it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbanorm import batchnorm, batchnorm_halves, layernorm, rmsnorm
from numbanorm._call import host
from numbanorm._math import reciprocal_stds
from numbanorm._types import FLOAT64, Array, Shape


class Operation(NamedTuple):
    """Describe a public function of x and of other arrays, which are given by name."""

    function: Callable[..., Any]
    axis_name: str  # "axis": x is normalised over it; "channel_axis": over all others
    given: tuple[str, ...]  # what it must be given, in order
    optional: tuple[str, ...]  # arrays that it may be given
    results: tuple[str, ...]
    updated: tuple[str, ...] = ()  # arrays that it updates in place
    read_twice: tuple[str, ...] = ()  # arrays of x's size of which it sums all before it can use any
    switches: tuple[str, ...] = ()  # flags that it takes

    @property
    def name(self) -> str:
        """Return the name of the function."""
        return self.function.__name__

    @property
    def family(self) -> str:
        """Return the stem of the function's files."""
        return self.function.__module__.rpartition(".")[2]

    @property
    def moves(self) -> int:
        """Return how many arrays of x's size the function must read and write at least."""
        return sum(name in ("x", "dy", "y", "dx") for name in self.given + self.results)

    @property
    def moves_uncached(self) -> int:
        """Return `moves` where no cache keeps the arrays that the function reads twice."""
        return self.moves + len(self.read_twice)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Return the names of the statistics that the function is given. Beside x of float32 they may be float64."""
        return tuple(name for name in self.given if name in ("mean", "var", "rstd", "sum_dy", "sum_dy_xhat"))

    @property
    def takes_out(self) -> bool:
        """Return whether the function takes `out`, for a result of x's size."""
        return self.results[0] in ("y", "dx")

    def arguments(self, x: Array, axis: int, values: Callable[[Shape], Array], optional: bool = True) -> dict[str, Any]:
        """Make arguments that fit together: x, its statistics, and `values` of a shape, in x's dtype, for all others.

        All arrays but `out` are among them, the axis, and a count where one is required; eps, momentum and switches
        are not. Without `optional`, only the required arguments are.
        """
        names = self.given + (self.optional if optional else ())
        return {self.axis_name: axis} | {name: _argument(self, name, x, axis, values) for name in names}


def _argument(operation: Operation, name: str, x: Array, axis: int, values: Callable[[Shape], Array]) -> Any:
    keeps = operation.axis_name == "axis"
    call = (host.over_axes if keeps else host.over_channels)(x, axis)
    over = call.axes.reduced
    if name in ("mean", "var", "rstd"):
        mean, var = x.mean(over, FLOAT64, keepdims=keeps), x.var(over, FLOAT64, keepdims=keeps)
        about_0 = operation.family == "rmsnorm"  # whose mean is taken for 0
        rstd = reciprocal_stds(var + mean * mean, 1e-6) if about_0 else reciprocal_stds(var, 1e-5)
        statistic = {"mean": mean, "var": var, "rstd": rstd}[name]
        return statistic.astype(x.dtype)
    if name == "count":
        return call.count
    if name == "mask":
        return np.ones([n for i, n in enumerate(x.shape) if i in over], np.bool_)
    shapes = {"x": None, "dy": x.shape, "weight": call.parameter_shape, "bias": call.parameter_shape}
    shape = shapes.get(name, call.statistic_shape)
    return x if shape is None else values(shape).astype(x.dtype)


_AFFINE, _GRADIENTS = ("weight", "bias"), ("dx", "dweight", "dbias")
_RUNNING = ("running_mean", "running_var")

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation(layernorm.layer_norm, "axis", ("x",), _AFFINE, ("y",)),
        Operation(layernorm.layer_norm_forward, "axis", ("x",), _AFFINE, ("y", "mean", "rstd")),
        Operation(layernorm.layer_norm_backward, "axis", ("dy", "x", "mean", "rstd"), ("weight",), _GRADIENTS),
        Operation(rmsnorm.rms_norm, "axis", ("x",), ("weight",), ("y",)),
        Operation(rmsnorm.rms_norm_forward, "axis", ("x",), ("weight",), ("y", "rstd")),
        Operation(rmsnorm.rms_norm_backward, "axis", ("dy", "x", "rstd"), ("weight",), ("dx", "dweight")),
        Operation(batchnorm.batch_norm, "channel_axis", ("x", "mean", "var"), _AFFINE, ("y",)),
        Operation(
            batchnorm.batch_norm_forward,
            "channel_axis",
            ("x",),
            (*_AFFINE, *_RUNNING, "mask"),
            ("y", "mean", "rstd"),
            updated=_RUNNING,
            read_twice=("x",),
        ),
        Operation(
            batchnorm.batch_norm_backward,
            "channel_axis",
            ("dy", "x", "mean", "rstd"),
            ("weight", "mask"),
            _GRADIENTS,
            read_twice=("dy", "x"),
            switches=("frozen",),
        ),
        Operation(
            batchnorm_halves.batch_norm_backward_reduce,
            "channel_axis",
            ("dy", "x", "mean", "rstd"),
            ("mask",),
            ("sum_dy", "sum_dy_xhat"),
        ),
        Operation(
            batchnorm_halves.batch_norm_backward_apply,
            "channel_axis",
            ("dy", "x", "mean", "rstd", "weight", "sum_dy", "sum_dy_xhat", "count"),
            ("mask",),
            ("dx",),
        ),
    )
}
