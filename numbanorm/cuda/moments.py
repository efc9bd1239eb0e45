"""Compute statistics of each channel of x (N, C, L) that the host keeps and merges.

They are float64, whatever the dtype of x. One launch makes the states of pieces of each channel and one merges them, as
in batch normalization. In float64, sums over any number of values keep their digits, and counts are exact.
"""

import numpy as np

from numbanorm._math import LARGE, SMALL
from numbanorm._states import State, replaced
from numbanorm.cuda import types
from numbanorm.cuda.batchnorm import plan_of
from numbanorm.cuda.grids import FLOAT64, FLOAT64_LANES, NONE, block_for, type_of
from numbanorm.cuda.kernels.channels import piece_moments
from numbanorm.cuda.kernels.moments import piece_extremes, weighted_piece_moments
from numbanorm.cuda.kernels.per_channel import whole_states
from numbanorm.cuda.kernels.states import EXTREMES, FIELDS, MOMENTS, Extremes, Moments


def measured(call, x, weights, omit_nan):
    """Measure x (N, C, L) with weights (N, L), which are float64 or a mask, or none. Return the state on the host.

    With `omit_nan`, which must be given beside weights of float64, NaNs do not count.
    """
    if weights.size and weights.dtype == FLOAT64:
        return weighted_channel_moments(call, x, weights)
    state = channel_moments(call, x, weights)
    if omit_nan and (missing := ~np.isfinite(state.m2)).any():
        state = replaced(state, weighted_channel_moments(call, x, weights), missing)
    return state


# The host's takes no mask: there, masks are weights.
def channel_moments(call, x, mask):
    """Measure all values of x (N, C, L) where the mask (N, L), if there is one, is True."""
    plan = plan_of(*call.planes, mask, x, most_lanes=FLOAT64_LANES)
    kernel = piece_moments(type_of(x.dtype), plan.lanes, plan.way, types.float64)
    return _state_of(Moments(*_wholes(call, kernel, plan, MOMENTS, FLOAT64, (x, mask))))


# The host's also takes channels and a unit, to measure again what float64 may not hold. States here have their unit.
def weighted_channel_moments(call, x, weights):
    """Measure what is not NaN in x (N, C, L), with weights (N, L), which may be a mask, or none."""
    plan = plan_of(*call.planes, NONE, x, most_lanes=1)
    kernel = weighted_piece_moments(type_of(x.dtype), plan.way, type_of(weights.dtype) if weights.size else None)
    return _state_of(Moments(*_wholes(call, kernel, plan, MOMENTS, FLOAT64, (x, weights))))


def channel_extremes(call, x):
    """Find the least and the greatest value of each channel of x (N, C, L). They are inf and -inf where all are NaN."""
    plan = plan_of(*call.planes, NONE, x)
    kernel = piece_extremes(type_of(x.dtype), plan.lanes, plan.way)
    found = Extremes(*_wholes(call, kernel, plan, EXTREMES, x.dtype, (x,)))
    return found.least, found.greatest


def _wholes(call, kernel, plan, kind, dtype, given):
    """Return the states of channels (FIELDS, C) on the host. `kernel` makes the states of pieces."""
    N, C, L = call.planes
    partials, wholes = call.scratch(dtype, plan.pieces * FIELDS * plan.columns, FIELDS * C)
    call.launch(kernel, plan.grid, plan.block, *given, partials, N, C, L, plan.chunk, plan.tiles)
    block = block_for(C)
    kernel = whole_states(type_of(dtype), kind)
    call.launch(kernel, -(-C // block[0]), block, partials, wholes, plan.pieces, C, plan.channel_columns)
    return call.fetch(wholes).reshape(FIELDS, C)


def _state_of(found):
    """Convert moments of the device to a state of the host.

    The state's unit is 1, except where float64 might not hold squares.
    """
    unit = np.where((found.m2 > 0) & ((found.unit > LARGE) | (found.unit < SMALL)), found.unit, 1.0)
    with np.errstate(all="ignore"):
        square = (found.unit / unit) ** 2
        mean, low = found.mean * found.unit, found.low * found.unit
        return State(found.count, mean, low, found.m2 * square, found.m2_low * square, unit)
