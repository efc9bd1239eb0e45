"""Compute statistics of each channel of x (N, C, L) that are kept and merged.

They are float64, whatever the dtype of x. weights are (N * L,), or None if all are 1.
"""

from typing import Any

import numpy as np

from numbanorm._states import State, nothing, replaced, rescued
from numbanorm._types import FLOAT64, Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import moments, scalers

_ONES = np.empty(0)


def measured(call: Any, x: Array, weights: Array | None, omit_nan: bool) -> State:
    """Measure each channel. With `omit_nan`, which must be given beside weights, NaNs do not count."""
    if x.size == 0:
        return nothing(x.shape[1])
    every = np.ones(x.shape[1], np.bool_)
    if weights is not None:
        state = weighted_channel_moments(call, x, weights, every, 1.0)
    else:
        state = channel_moments(call, x)
        if omit_nan and (missing := ~np.isfinite(state.m2)).any():
            state = replaced(state, weighted_channel_moments(call, x, weights, missing, 1.0), missing)
    if x.dtype != FLOAT64:
        return state  # float64 holds the squares of all that float32 holds
    return rescued(state, lambda which, unit: weighted_channel_moments(call, x, weights, which, unit))


def channel_moments(call: Any, x: Array) -> State:
    """Measure all values of each channel."""
    N, C, L = x.shape
    mean, low, m2 = np.zeros((3, C))
    moments.float64_channel_moments(engine(), call.streams(1), x, mean, low, m2)
    return State(np.full(C, float(N * L)), mean, low, m2, np.zeros(C))


def weighted_channel_moments(call: Any, x: Array, weights: Array | None, which: Array, unit: float) -> State:
    """Measure what is not NaN, divided by a unit, in marked channels. Give the others the state of no values."""
    channels = np.flatnonzero(which)
    count, mean, low, m2 = np.zeros((4, channels.size))
    given = _ONES if weights is None else weights
    scalers.weighted_moments(engine(), x, channels, 1 / unit, given, count, mean, low, m2)
    state = np.zeros((5, which.size))
    state[:4, channels] = count, mean, low, np.where(count > 0, m2, 0)
    return State(*state)


def channel_extremes(call: Any, x: Array) -> tuple[Array, Array]:
    """Find the least and the greatest value of each channel. They are inf and -inf where all are NaN."""
    low, high = np.empty((2, x.shape[1]), x.dtype)
    scalers.channel_extremes(engine(), x, low, high)
    return low, high
