"""Channels and tables on a GPU, measured and scaled: the twin of `measured` and `host_tables`.

Infinities are found where values are fetched anyway, in fits; what is scaled is not looked at.
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
    """X, of float32 or float64 and two axes, whose columns are those of the scaler, or become so."""
    seen = seen_from_here("X", X, library_of("X", X)).array
    arguments.array("X", seen)
    table_arguments.set_columns(scaler, table_arguments.filled_table(seen), None, reset)
    return X


def state_of(x: Any, channel_axis: Any, mask: Any, omit_nan: bool) -> State:
    """The state of each channel, on the host; of an array of one axis, of one channel."""
    call = over_channels(x, channel_axis, one_axis_is_one_channel=True)
    counted = call.mask(mask, may_be_empty=True)
    state: State = call.moments.measured(call, call.load_x(x), counted, omit_nan)
    return state


def column_moments(X: Any, sample_weight: Any) -> State:
    """Of each column, of all values but NaN; with weights, of the host, count is the sum of theirs."""
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
    """Of each column, in X's dtype, on the host."""
    call = over_channels(X, 1)
    low, high = _extremes(call, call.load_x(X))
    return Extremes(*(np.where(low > high, np.nan, a).astype(low.dtype) for a in (low, high)))


def scaled(X: Any, linear: Linear, in_place: bool) -> Any:
    """The table that `linear` makes of X: X itself where it can be, if so asked for."""
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
    """What `linear` makes of x, where the dtype of the table does not hold its scale, or its units are not all 1."""
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
    """y, float64, filled with x (N, C, L) times a factor (C,), kept between low and high."""
    zeros = np.zeros(factor.size)
    m, scale, offset = call.send(FLOAT64, zeros, factor, zeros)
    given = x, m, scale, offset, low, high, y
    call.scalers.scale_channels(call, *given)
    return y


def _extremes(call: DeviceCall, x: Run) -> tuple[Array, Array]:
    """As `host_tables` has them; an error if one is infinite."""
    low, high = call.moments.channel_extremes(call, x)
    if ((np.isinf(low) | np.isinf(high)) & (low <= high)).any():
        raise table_arguments.infinity("X")
    return low, high
