"""The states of arrays on a GPU, as `numbanorm._measured` makes them of arrays on the host."""

from typing import Any

import numpy as np

from numbanorm._states import State, replaced, rescued
from numbanorm._types import Array, Shape
from numbanorm.cpu.moments import LOST, SMALL
from numbanorm.cuda import scalers, statistics
from numbanorm.cuda.call import Call, Run
from numbanorm.cuda.statistics import FLOAT64

__all__ = ["FLOAT64", "measured", "multiplied"]


def measured(call: Call, x: Run, planes: Shape, weights: Run, omit_nan: bool) -> State:
    """The state of x (N, C, L) with weights (N, L), float64 or a mask, or none; with `omit_nan`, as it must be beside
    weights of float64, of what is not NaN.
    """

    def of(values: Run, omit_nan: bool) -> State:
        moments: Any = statistics.weighted_channel_moments if omit_nan else statistics.channel_moments
        return State(*moments(call, values, weights, *planes))

    state = of(x, omit_nan and weights.dtype == FLOAT64)
    if omit_nan and (missing := ~np.isfinite(state.m2)).any() and weights.dtype != FLOAT64:
        state = replaced(state, of(x, True), missing)
    if x.dtype != FLOAT64:
        return state  # float64 holds the squares of all that float32 holds

    def again(_: Array, unit: float) -> State:
        (values,) = call.scratch(FLOAT64, x.size)
        return of(multiplied(call, x, values, np.full(planes[1], 1 / unit), planes), omit_nan)

    lost = (state.m2 == 0) & (np.abs(state.mean) < SMALL)  # or all values are equal, which is not known from here
    return rescued(state._replace(m2=np.where(lost, LOST, state.m2)), again)


def multiplied(
    call: Call, x: Run, y: Run, factor: Array, planes: Shape, low: float = -np.inf, high: float = np.inf
) -> Run:
    """y, float64, filled with x (N, C, L) times a factor (C,), kept between low and high."""
    zeros = np.zeros(factor.size)
    m, scale, offset = call.send(FLOAT64, zeros, factor, zeros)
    given = x, m, scale, offset, low, high, y
    scalers.scale_channels(call, *given, *planes)
    return y
