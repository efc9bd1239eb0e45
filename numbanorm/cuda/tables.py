"""Tables on a GPU, (samples, features), whose columns the scalers measure and scale: as `numbanorm._tables` elsewhere.

Infinities are found where values are fetched anyway, in fits; what is scaled is not looked at.
"""

from typing import Any

import numpy as np

from numbanorm import _checks, _table_checks
from numbanorm._states import Extremes, Linear, State
from numbanorm._types import Array, Shape
from numbanorm.cuda import scalers, statistics
from numbanorm.cuda.batchnorm import NONE
from numbanorm.cuda.call import Call, Run
from numbanorm.cuda.libraries import library_of, seen_from_here


def table(scaler: Any, X: Any, reset: bool = False) -> Any:
    """X, of float32 or float64 and two axes, whose columns are those of the scaler, or become so."""
    own = seen_from_here("X", X, library_of("X", X)).array
    _checks.array("X", own)
    _table_checks.set_columns(scaler, _table_checks.filled_table(own), None, reset)
    return X


def column_moments(X: Any, sample_weight: Any) -> State:
    """Of each column, of all values but NaN; with weights, of the host, count is the sum of theirs."""
    weights = None if sample_weight is None else _table_checks.weights(sample_weight, X.shape[0])
    call, x, planes = _run_of(X)
    if weights is None:
        found = State(*statistics.channel_moments(call, x, NONE, *planes))
        if np.isfinite(found.m2).all():
            return found
    _extremes(call, x, planes)  # raises if there is an infinity
    (own,) = [NONE] if weights is None else call.send(statistics.FLOAT64, weights)
    return State(*statistics.weighted_channel_moments(call, x, own, *planes))


def column_extremes(X: Any) -> Extremes:
    """Of each column, in X's dtype, on the host."""
    low, high = _extremes(*_run_of(X))
    return Extremes(*(np.where(low > high, np.nan, a).astype(low.dtype) for a in (low, high)))


def scaled(X: Any, linear: Linear, in_place: bool) -> Any:
    """The table that `linear` makes of X: X itself where it can be, if so asked for."""
    own = in_place and seen_from_here("X", X, library_of("X", X)).array.flags.writeable
    call = Call(X, out=X if own else None)
    lies = call.layout((1,))
    dtype = lies.split.dtype
    x, (y, target) = call.run("x", lies.strides, dtype), call.target(lies.strides)
    m, scale, offset = call.send(dtype, *linear.factors(dtype))
    given = x, m, scale, offset, linear.low, linear.high
    scalers.scale_channels(call, *given, target, *lies.split.planes)
    return call.deliver(y, target, lies.strides)


def _run_of(X: Any) -> tuple[Call, Run, Shape]:
    call = Call(X)
    lies = call.layout((1,))
    return call, call.run("x", lies.strides, lies.split.dtype), lies.split.planes


def _extremes(call: Call, x: Run, planes: Shape) -> tuple[Array, Array]:
    """As `_tables` has them; an error if one is infinite."""
    low, high = statistics.channel_extremes(call, x, *planes)
    if ((np.isinf(low) | np.isinf(high)) & (low <= high)).any():
        raise _table_checks.infinity("X")
    return low, high
