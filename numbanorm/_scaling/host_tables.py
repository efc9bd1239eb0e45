"""Measure and scale the columns of tables on the host, (samples, features), block by block if they must be copied."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from numbanorm._call import arguments, host, recycling
from numbanorm._call.host import HostCall
from numbanorm._call.view import blocks
from numbanorm._scaling import table_arguments
from numbanorm._scaling.estimators import table
from numbanorm._scaling.measured import BLOCK, working_dtype
from numbanorm._states import Extremes, Linear, State, merged, nothing
from numbanorm._types import FLOAT64, FLOATS, Array

__all__ = ["column_extremes", "column_moments", "scaled", "table"]


def column_moments(X: Array, sample_weight: Any) -> State:
    """Measure all values but NaN of each column. With weights, the count of a column is the sum of theirs."""
    weights = None if sample_weight is None else table_arguments.weights(sample_weight, len(X))
    state = None
    for rows, block, call in _blocks(X, working_dtype(X)):
        if weights is not None:
            _extremes(call, block)  # raises if there is an infinity, also of weight 0
        of_rows = None if weights is None else weights[rows]
        found = call.moments.measured(call, call.load_x(block), of_rows, omit_nan=True)
        table_arguments.finite_moments(found, weights)
        state = found if state is None else merged(state, found)
    return nothing(X.shape[1]) if state is None else state


def column_extremes(X: Array) -> Extremes:
    """Return the extremes of each column, in X's dtype."""
    low, high = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for _, block, call in _blocks(X, working_dtype(X)):
        found = _extremes(call, block)
        low, high = np.minimum(low, found.low), np.maximum(high, found.high)
    return Extremes(*(np.where(low > high, np.nan, a).astype(result_dtype(X)) for a in (low, high)))


def scaled(X: Array, linear: Linear, in_place: bool) -> Array:
    """Apply `linear` to a table. With `in_place`, write the result into X if X can hold it, whatever its strides."""
    into_x = in_place and arguments.is_floating(X.dtype) and X.flags.writeable
    if into_x:
        for _, block, call in _blocks(X, working_dtype(X)):
            _extremes(call, block)  # raises if there is an infinity
    result = result_dtype(X)
    dtype = np.promote_types(working_dtype(X), result) if result.type in FLOATS else working_dtype(X)
    dtype = dtype if linear.fits(dtype) else FLOAT64
    low, high = linear.limits(result)
    linear = linear._replace(low=low, high=high)
    if linear.is_plain() and (lies := _where_it_lies(X, dtype)):
        return _scaled(lies, X, linear, X if into_x else None)
    y = X if into_x else recycling.empty(X.shape, result, X)
    if not linear.is_plain():
        return _scaled_in_units(X, linear, y)
    for rows, block, call in _blocks(X, dtype):
        y[rows] = _scaled(call, block, linear, block)
    return y


def result_dtype(X: Array) -> np.dtype[Any]:
    """Return the dtype of the result: that of X if it is one of floating point, or else float64."""
    return X.dtype.newbyteorder("=") if arguments.is_floating(X.dtype) else FLOAT64


def _blocks(X: Array, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array, HostCall]]:
    """Yield X and the call on it if kernels can read it where it lies, as this dtype. If not, yield copies of rows."""
    if call := _where_it_lies(X, dtype):
        yield slice(None), X, call
        return
    yield from _copied_blocks(X, dtype)


def _copied_blocks(X: Array, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array, HostCall]]:
    for (rows,) in blocks(X[:, 0], BLOCK // X.shape[1]):
        block = X[rows].astype(dtype, "C")
        yield rows, block, host.over_channels(block, 1)


def _where_it_lies(X: Array, dtype: np.dtype[Any]) -> HostCall | None:
    """Return the call on X if kernels can read it as this dtype without a copy, or else None."""
    call = host.over_channels(X, 1) if X.dtype == dtype else None
    return call if call is not None and call.lies(X) else None


def _extremes(call: HostCall, X: Array) -> Extremes:
    """Return the least and the greatest value of each column. It is an error if one is infinite.

    They are inf and -inf in a column without values.
    """
    found = Extremes(*call.moments.channel_extremes(call, call.load_x(X)))
    if (np.isinf(found).any(0) & (found.low <= found.high)).any():
        raise table_arguments.infinity("X")
    return found


def _scaled(call: HostCall, X: Array, linear: Linear, out: Array | None) -> Array:
    y = call.target(out, X)
    if _scale(call, X, linear, y):
        raise table_arguments.infinity("X")
    return call.deliver(y, out)


def _scaled_in_units(X: Array, linear: Linear, y: Array) -> Array:
    for rows, block, call in _copied_blocks(X, FLOAT64):
        if np.isinf(block).any():
            raise table_arguments.infinity("X")
        with np.errstate(over="ignore", under="ignore"):
            block /= linear.x_unit
            _scale(call, block, linear._replace(low=-np.inf, high=np.inf), call.target(block, block))
            block *= linear.y_unit
            y[rows] = np.clip(block, linear.low, linear.high)
    return y


def _scale(call: HostCall, X: Array, linear: Linear, y: Array) -> bool:
    """Fill y. Return whether X has an infinity in it."""
    factors = linear.factors(call.storage)
    return call.scalers.scale_channels(call, call.load_x(X), *factors, linear.low, linear.high, y)
