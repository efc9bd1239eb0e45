"""Measure arrays on the host: make the states that `Moments` and `StandardScaler` keep."""

from typing import Any

import numpy as np

from numbanorm._call import arguments, axes, host
from numbanorm._call.view import blocks, positions
from numbanorm._states import State, merged, nothing
from numbanorm._types import FLOAT64, FLOATS, Array

BLOCK = 1 << 18  # values of an array that is read by way of copies, to each of them


def working_dtype(x: Array) -> np.dtype[Any]:
    """Return float32 or float64: that to which all values convert without loss, or float64 if there is none."""
    dtype = np.result_type(x.dtype, np.float32)
    return dtype if dtype.type in FLOATS else FLOAT64


def state_of(x: Any, channel_axis: Any, mask: Any, omit_nan: bool) -> State:
    """Measure each channel of an array of real numbers where the mask is True. An array of one axis has one channel."""
    arguments.numbers("x", x)
    x = np.asarray(x)  # not a subclass
    if x.ndim == 0:
        raise ValueError("x: shape (), must have at least 1 axis")
    x = x[:, None] if x.ndim == 1 else x
    axis = axes.channel_axis(channel_axis, x)
    C, rows = x.shape[axis], positions(x, axis)
    if mask is not None:
        arguments.mask_type(mask, rows.shape[:-1])
    dtype = working_dtype(x)
    if mask is None and x.dtype == dtype:
        call = host.over_channels(x, axis)
        if call.lies(x):
            return _measured(call, x, omit_nan)
    state = nothing(C)
    for index in blocks(rows[..., 0], BLOCK // max(1, C)) if x.size else ():
        values = rows[index] if mask is None else rows[index][mask[index]]
        block = values.reshape(-1, C).astype(dtype, "C")
        state = merged(state, _measured(host.over_channels(block, 1), block, omit_nan))
    return state


def _measured(call: host.HostCall, x: Array, omit_nan: bool) -> State:
    state: State = call.moments.measured(call, call.load_x(x), None, omit_nan)
    return state
