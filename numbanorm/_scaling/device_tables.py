"""Tables on a GPU, (samples, features), whose columns the scalers measure and scale: the twin of `host_tables`.

Infinities are found where values are fetched anyway, in fits; what is scaled is not looked at.
"""

from typing import Any

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.device import Call
from numbanorm._scaling import table_arguments
from numbanorm._states import Extremes, Linear, State
from numbanorm._types import Array, Shape
from numbanorm.cuda import moments, scalers
from numbanorm.cuda.batchnorm import NONE
from numbanorm.cuda.grids import FLOAT64, Run
from numbanorm.cuda.libraries import library_of, seen_from_here


def table(scaler: Any, X: Any, reset: bool = False) -> Any:
    """X, of float32 or float64 and two axes, whose columns are those of the scaler, or become so."""
    own = seen_from_here("X", X, library_of("X", X)).array
    arguments.array("X", own)
    table_arguments.set_columns(scaler, table_arguments.filled_table(own), None, reset)
    return X


def column_moments(X: Any, sample_weight: Any) -> State:
    """Of each column, of all values but NaN; with weights, of the host, count is the sum of theirs."""
    weights = None if sample_weight is None else table_arguments.weights(sample_weight, X.shape[0])
    call, x, planes = _run_of(X)
    if weights is not None:
        _extremes(call, x, planes)  # raises if there is an infinity, also of weight 0
    (own,) = [NONE] if weights is None else call.send(FLOAT64, weights)
    state: State = moments.measured(call, x, planes, own, omit_nan=True)
    table_arguments.finite_moments(state, weights)
    return state


def column_extremes(X: Any) -> Extremes:
    """Of each column, in X's dtype, on the host."""
    low, high = _extremes(*_run_of(X))
    return Extremes(*(np.where(low > high, np.nan, a).astype(low.dtype) for a in (low, high)))


def scaled(X: Any, linear: Linear, in_place: bool) -> Any:
    """The table that `linear` makes of X: X itself where it can be, if so asked for."""
    own = in_place and seen_from_here("X", X, library_of("X", X)).array.flags.writeable
    call = Call(X, out=X if own else None)
    lies = call.layout((1,))
    dtype, planes = lies.split.dtype, lies.split.planes
    low, high = linear.limits(dtype)
    y, target = call.target(lies.strides)
    if linear.fits(dtype):
        x, (m, scale, offset) = call.run("x", lies.strides, dtype), call.send(dtype, *linear.factors(dtype))
        given = x, m, scale, offset, low, high, target
        scalers.scale_channels(call, *given, *planes)
    else:
        strides = tuple(step // dtype.itemsize * FLOAT64.itemsize for step in lies.strides)
        call.copy(_in_float64(call, call.run("x", strides, FLOAT64), linear, low, high, planes), target)
    return call.deliver(y, target, lies.strides)


def _in_float64(call: Call, x: Run, linear: Linear, low: float, high: float, planes: Shape) -> Run:
    """What `linear` makes of x, where the dtype of the table does not hold its scale, or its units are not all 1."""
    (y,) = call.scratch(FLOAT64, x.size)
    if not linear.is_plain():
        x = _multiplied(call, x, y, 1 / np.broadcast_to(linear.x_unit, linear.scale.shape), planes)
    m, scale, offset = call.send(FLOAT64, *linear.factors(FLOAT64))
    y_unit = np.broadcast_to(linear.y_unit, linear.scale.shape)
    plain = bool((y_unit == 1).all())
    given = x, m, scale, offset, *((low, high) if plain else (-np.inf, np.inf)), y
    scalers.scale_channels(call, *given, *planes)
    return y if plain else _multiplied(call, y, y, y_unit, planes, low, high)


def _multiplied(
    call: Call, x: Run, y: Run, factor: Array, planes: Shape, low: float = -np.inf, high: float = np.inf
) -> Run:
    """y, float64, filled with x (N, C, L) times a factor (C,), kept between low and high."""
    zeros = np.zeros(factor.size)
    m, scale, offset = call.send(FLOAT64, zeros, factor, zeros)
    given = x, m, scale, offset, low, high, y
    scalers.scale_channels(call, *given, *planes)
    return y


def _run_of(X: Any) -> tuple[Call, Run, Shape]:
    call = Call(X)
    lies = call.layout((1,))
    return call, call.run("x", lies.strides, lies.split.dtype), lies.split.planes


def _extremes(call: Call, x: Run, planes: Shape) -> tuple[Array, Array]:
    """As `_tables` has them; an error if one is infinite."""
    low, high = moments.channel_extremes(call, x, *planes)
    if ((np.isinf(low) | np.isinf(high)) & (low <= high)).any():
        raise table_arguments.infinity("X")
    return low, high
