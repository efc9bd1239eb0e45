"""Tables on the host, (samples, features), whose columns the scalers measure and scale, in blocks where they must."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from numbanorm import _checks, _memory, _table_checks
from numbanorm._arrays import Split, blocks, see, split
from numbanorm._estimators import table
from numbanorm._states import Extremes, Linear, State, merged, nothing
from numbanorm._types import Array
from numbanorm.cpu import scalers as kernels
from numbanorm.cpu.machine import streams
from numbanorm.cpu.parallel import engine
from numbanorm.moments import BLOCK, measured, working_dtype

__all__ = ["column_extremes", "column_moments", "scaled", "table"]

_NO_WEIGHTS = np.empty(0)


def column_moments(X: Array, sample_weight: Any) -> State:
    """Of each column, of all values but NaN; with weights, count is the sum of theirs."""
    weights = None if sample_weight is None else _table_checks.weights(sample_weight, len(X))
    state = nothing(X.shape[1])
    for rows, block, seen in _blocks(X, working_dtype(X)):
        own = measured(seen, block) if weights is None else None
        if own is None or not np.isfinite(own.m2).all():
            own = _weighted(seen, block, _NO_WEIGHTS if weights is None else weights[rows])
        state = merged(state, own)
    return state


def column_extremes(X: Array) -> Extremes:
    """Of each column, in X's dtype."""
    low, high = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for _, block, seen in _blocks(X, working_dtype(X)):
        own = _extremes(seen, block)
        low, high = np.minimum(low, own.low), np.maximum(high, own.high)
    return Extremes(*(np.where(low > high, np.nan, a).astype(result_dtype(X)) for a in (low, high)))


def scaled(X: Array, linear: Linear, in_place: bool) -> Array:
    """The table that `linear` makes of X: X itself where it can be, if so asked for, of whatever strides."""
    own = in_place and _checks.is_floating(X.dtype) and X.flags.writeable
    if own:
        for _, block, seen in _blocks(X, working_dtype(X)):
            _extremes(seen, block)  # raises if there is an infinity
    dtype = working_dtype(X) if linear.fits(working_dtype(X)) else _checks.FLOAT64
    if lies := _where_it_lies(X, dtype):
        return _scaled(lies, X, linear, X if own else None)
    y = X if own else _memory.empty(X.shape, result_dtype(X), X)
    for rows, block, seen in _blocks(X, dtype):
        y[rows] = _scaled(seen, block, linear, block)
    return y


def result_dtype(X: Array) -> np.dtype[Any]:
    """That of floating point which a table has, or float64."""
    return X.dtype.newbyteorder("=") if _checks.is_floating(X.dtype) else _checks.FLOAT64


def _blocks(X: Array, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array, Split]]:
    """X if kernels can read it where it lies, as this dtype, else copies of some rows after others, that they can."""
    if seen := _where_it_lies(X, dtype):
        yield slice(None), X, seen
        return
    for (rows,) in blocks(X[:, 0], BLOCK // X.shape[1]):
        block = X[rows].astype(dtype, "C")
        yield rows, block, split(block, (1,))


def _where_it_lies(X: Array, dtype: np.dtype[Any]) -> Split | None:
    """How kernels see X, if they can read it as this dtype without a copy."""
    seen = see(X, 1, _checks.channel_axes) if X.dtype == dtype else None
    return seen if seen is not None and seen.lies(X) else None


def _weighted(seen: Split, X: Array, weights: Array) -> State:
    """The state of what is not NaN."""
    _extremes(seen, X)  # raises if there is an infinity
    count, mean, low, m2 = np.zeros((4, seen.own))
    kernels.weighted_moments(engine(), seen.load_x(X, seen.planes), weights, count, mean, low, m2)
    return State(count, mean, low, np.where(count > 0, m2, 0), np.zeros_like(m2))


def _extremes(seen: Split, X: Array) -> Extremes:
    """The least and the greatest of each column, inf and -inf where it has no value. An error if one is infinite."""
    found = Extremes(*np.empty((2, seen.own), seen.dtype))
    kernels.channel_extremes(engine(), seen.load_x(X, seen.planes), *found)
    if (np.isinf(found).any(0) & (found.low <= found.high)).any():
        raise _table_checks.infinity("X")
    return found


def _scaled(seen: Split, X: Array, linear: Linear, out: Array | None) -> Array:
    y = seen.target(out, seen.planes, X)
    stream = not seen.small and streams(2 * X.nbytes)
    given = seen.load_x(X, seen.planes), *linear.factors(seen.dtype), linear.low, linear.high
    if kernels.scale_channels(engine(), stream, *given, y):
        raise _table_checks.infinity("X")
    return seen.deliver(y, out)
