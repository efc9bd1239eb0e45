"""Measure and scale channels and tables on a GPU: the twin of `measured` and `host_tables`.

A fit finds infinities in the values that it fetches anyway. Nothing looks for them in what is scaled.
"""

from typing import Any

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.device import DeviceCall, over_channels
from numbanorm._scaling import table_arguments
from numbanorm._states import Extremes, Linear, State
from numbanorm._types import Array
from numbanorm.cuda.grids import FLOAT64, NONE, Run
from numbanorm.cuda.libraries import library_of, seen_from_here


def table(scaler: Any, X: Any, reset: bool = False) -> Any:
    """Check X, which has two axes and is float32 or float64, and return it. Its columns must be those of the scaler.

    With `reset`, the columns of the scaler become those of X.
    """
    seen = seen_from_here("X", X, library_of("X", X)).array
    arguments.array("X", seen)
    table_arguments.set_columns(scaler, table_arguments.filled_table(seen), None, reset)
    return X


def state_of(x: Any, channel_axis: Any, mask: Any, omit_nan: bool) -> State:
    """Measure each channel, and return its state on the host. An array of one axis has one channel."""
    call = over_channels(x, channel_axis, one_axis_is_one_channel=True)
    counted = call.mask(mask, may_be_empty=True)
    state: State = call.moments.measured(call, call.load_x(x), counted, omit_nan)
    return state


def column_moments(X: Any, sample_weight: Any) -> State:
    """Measure all values but NaN of each column, and return the state on the host.

    With weights, which lie on the host, the count of a column is the sum of the weights of its values.
    """
    weights = None if sample_weight is None else table_arguments.weights(sample_weight, X.shape[0])
    call = over_channels(X, 1)
    x = call.load_x(X)
    if weights is not None:
        _extremes(call, x)  # raises if there is an infinity, also of weight 0
    (sent,) = [NONE] if weights is None else call.send(FLOAT64, weights)
    state: State = call.moments.measured(call, x, sent, omit_nan=True)
    table_arguments.finite_moments(state, weights)
    return state


def column_extremes(X: Any) -> Extremes:
    """Return the extremes of each column on the host, in X's dtype."""
    call = over_channels(X, 1)
    low, high = _extremes(call, call.load_x(X))
    return Extremes(*(np.where(low > high, np.nan, a).astype(low.dtype) for a in (low, high)))


def scaled(X: Any, linear: Linear, in_place: bool) -> Any:
    """Apply `linear` to a table. Write the result into X with `in_place`, if X is writable."""
    call = over_channels(X, 1)
    out, dtype = X if in_place and call.x.flags.writeable else None, call.view.storage
    low, high = linear.limits(dtype)
    y = call.target(out, X)
    if linear.fits(dtype):
        m, scale, offset = call.send(dtype, *linear.factors(dtype))
        call.scalers.scale_channels(call, call.load_x(X), m, scale, offset, low, high, y)
    else:
        call.copy(_in_float64(call, call.load_x(X, FLOAT64), linear, low, high), y)
    return call.deliver(y, out)


def _in_float64(call: DeviceCall, x: Run, linear: Linear, low: float, high: float) -> Run:
    """Apply `linear` to x in float64, since the dtype of the table does not hold its scale, or a unit is not 1."""
    (y,) = call.scratch(FLOAT64, x.size)
    if not linear.is_plain():
        x = _multiplied(call, x, y, 1 / np.broadcast_to(linear.x_unit, linear.scale.shape))
    m, scale, offset = call.send(FLOAT64, *linear.factors(FLOAT64))
    y_unit = np.broadcast_to(linear.y_unit, linear.scale.shape)
    plain = bool((y_unit == 1).all())
    given = x, m, scale, offset, *((low, high) if plain else (-np.inf, np.inf)), y
    call.scalers.scale_channels(call, *given)
    return y if plain else _multiplied(call, y, y, y_unit, low, high)


def _multiplied(call: DeviceCall, x: Run, y: Run, factor: Array, low: float = -np.inf, high: float = np.inf) -> Run:
    """Fill y, which is float64, with x (N, C, L) times a factor (C,), limited to low and high. Return y."""
    zeros = np.zeros(factor.size)
    m, scale, offset = call.send(FLOAT64, zeros, factor, zeros)
    given = x, m, scale, offset, low, high, y
    call.scalers.scale_channels(call, *given)
    return y


def _extremes(call: DeviceCall, x: Run) -> tuple[Array, Array]:
    """Return the least and the greatest values as `host_tables` does. It is an error if one is infinite."""
    low, high = call.moments.channel_extremes(call, x)
    if ((np.isinf(low) | np.isinf(high)) & (low <= high)).any():
        raise table_arguments.infinity("X")
    return low, high
