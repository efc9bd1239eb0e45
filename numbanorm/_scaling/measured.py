"""The states of arrays on the host: what `Moments` and `StandardScaler` keep of values."""

from typing import Any

import numpy as np

from numbanorm._call import arguments, axes, host
from numbanorm._call.host import HostCall
from numbanorm._call.view import blocks, positions
from numbanorm._states import State, merged, nothing, replaced, rescued
from numbanorm._types import FLOAT64, FLOATS, Array
from numbanorm.cpu.engine.machine import streams
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import moments, scalers

BLOCK = 1 << 18  # values of an array that is read by way of copies, to each of them
_ONES = np.empty(0)


def working_dtype(x: Array) -> np.dtype[Any]:
    """float32 or float64, to which values convert without loss if to any."""
    dtype = np.result_type(x.dtype, np.float32)
    return dtype if dtype.type in FLOATS else FLOAT64


def state_of(x: Any, channel_axis: Any, mask: Any, omit_nan: bool) -> State:
    """The state of each channel of an array of real numbers, where the mask is True; of one axis, of one channel."""
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
            return measured(call, x, omit_nan)
    state = nothing(C)
    for index in blocks(rows[..., 0], BLOCK // max(1, C)) if x.size else ():
        values = rows[index] if mask is None else rows[index][mask[index]]
        block = values.reshape(-1, C).astype(dtype, "C")
        state = merged(state, measured(host.over_channels(block, 1), block, omit_nan))
    return state


def measured(call: HostCall, x: Array, omit_nan: bool = False, weights: Array | None = None) -> State:
    """The state of the channels of x; with `omit_nan`, or with weights for its rows, of what is not NaN."""
    if x.size == 0:
        return nothing(call.planes.middle)
    planes, every = call.load_x(x), np.ones(call.planes.middle, np.bool_)
    if weights is not None:
        state, omit_nan = _weighted(planes, every, 1.0, weights), True
    else:
        state = _plain(planes, streams(x.nbytes))
        if omit_nan and (missing := ~np.isfinite(state.m2)).any():
            state = replaced(state, _weighted(planes, missing, 1.0, _ONES), missing)
    if planes.dtype != FLOAT64:
        return state  # float64 holds the squares of all that float32 holds
    return rescued(state, lambda which, unit: _weighted(planes, which, unit, _ONES if weights is None else weights))


def _plain(planes: Array, streamed: bool) -> State:
    N, C, L = planes.shape
    mean, low, m2 = np.zeros((3, C))
    moments.float64_channel_moments(engine(), streamed, planes, mean, low, m2)
    return State(np.full(C, float(N * L)), mean, low, m2, np.zeros(C))


def _weighted(planes: Array, which: Array, unit: float, weights: Array) -> State:
    """The state of what is not NaN, divided by a unit, of the channels that are marked. Of the others: of nothing."""
    channels = np.flatnonzero(which)
    count, mean, low, m2 = np.zeros((4, channels.size))
    scalers.weighted_moments(engine(), planes, channels, 1 / unit, weights, count, mean, low, m2)
    state = np.zeros((5, which.size))
    state[:4, channels] = count, mean, low, np.where(count > 0, m2, 0)
    return State(*state)
