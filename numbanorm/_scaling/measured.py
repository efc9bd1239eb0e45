"""The states of arrays on the host: what `Moments` and `StandardScaler` keep of values."""

from typing import Any

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.view import Split
from numbanorm._states import State, nothing, replaced, rescued
from numbanorm._types import Array
from numbanorm.cpu.engine.machine import streams
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import moments, scalers

BLOCK = 1 << 18  # values of an array that is read by way of copies, to each of them
_ONES = np.empty(0)


def working_dtype(x: Array) -> np.dtype[Any]:
    """float32 or float64, to which values convert without loss if to any."""
    dtype = np.result_type(x.dtype, np.float32)
    return dtype if dtype.type in arguments.FLOATS else arguments.FLOAT64


def measured(seen: Split, x: Array, omit_nan: bool = False, weights: Array | None = None) -> State:
    """The state of an array that was seen; with `omit_nan`, or with weights for its rows, of what is not NaN."""
    if x.size == 0:
        return nothing(seen.own)
    planes, every = seen.load(x, seen.planes), np.ones(seen.own, np.bool_)
    if weights is not None:
        state, omit_nan = _weighted(planes, every, 1.0, weights), True
    else:
        state = _plain(planes, streams(x.nbytes))
        if omit_nan and (missing := ~np.isfinite(state.m2)).any():
            state = replaced(state, _weighted(planes, missing, 1.0, _ONES), missing)
    if planes.dtype != arguments.FLOAT64:
        return state  # float64 holds the squares of all that float32 holds
    return rescued(state, lambda which, unit: _weighted(planes, which, unit, _ONES if weights is None else weights))


def _plain(planes: Array, far: bool) -> State:
    N, C, L = planes.shape
    mean, low, m2 = np.zeros((3, C))
    moments.float64_channel_moments(engine(), far, planes, mean, low, m2)
    return State(np.full(C, float(N * L)), mean, low, m2, np.zeros(C))


def _weighted(planes: Array, which: Array, unit: float, weights: Array) -> State:
    """The state of what is not NaN, divided by a unit, of the channels that are marked. Of the others: of nothing."""
    channels = np.flatnonzero(which)
    count, mean, low, m2 = np.zeros((4, channels.size))
    scalers.weighted_moments(engine(), planes, channels, 1 / unit, weights, count, mean, low, m2)
    state = np.zeros((5, which.size))
    state[:4, channels] = count, mean, low, np.where(count > 0, m2, 0)
    return State(*state)
