"""Statistics of each channel of x (N, C, L) that are kept and merged: float64, whatever x is.

One launch makes the states of pieces of each channel and one merges them, as in `numbanorm.cuda.kernels.channels`; in
float64, sums over any number of values keep their digits, and counts are exact. A *state of extremes* has, in the
places of mean and low, the least and the greatest value.
"""

import math

import numpy as np

from numbanorm._math import LARGE, SMALL
from numbanorm._states import State, replaced
from numbanorm.cuda import cuda, types
from numbanorm.cuda.batchnorm import NONE, plan_of
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.grids import block_for, type_of
from numbanorm.cuda.kernels.channels import channel_states, piece_moments
from numbanorm.cuda.kernels.states import FIELDS, merge, states, summed_moments
from numbanorm.cuda.vectors.memory import each, is_set, load, registers
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import holds, number, select

KEPT, LANES = types.float64, 2  # of its states; for those of more lanes a block has no room
FLOAT64 = np.dtype(np.float64)
TERMS = 4  # vectors that a thread loads before it uses them


@factory
def weighted_piece_moments(dtype, way, weights_dtype):
    """`piece_moments` of what is not NaN, with weights (N, L): float64, or a mask; None: ones."""
    share, deliver, position = way.share, way.deliver(1, merge), way.source.position

    @device
    def weight_of(value, place, geometry, weights):
        weight = number(1.0, value, 1)
        if weights_dtype is KEPT:
            weight = load(weights, position(place, geometry), 1)
        elif weights_dtype is not None:
            weight = select(is_set(weights, position(place, geometry)), weight, 0.0)
        return select(value <= value, weight, 0.0)

    moments_of = summed_moments(1, TERMS, way.source, weight_of)

    def kernel(x, weights, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        deliver(moments_of(partials, x, weights, first, end, step, geometry), partials, block, C, L, tiles)

    pointers = types.CPointer(dtype), types.CPointer(weights_dtype or KEPT), types.CPointer(KEPT)
    return Kernel(kernel, (*pointers, *[types.int64] * 5))


@device
def merge_extremes(a, b):
    """The state of extremes of the values of two."""
    count_a, least_a, greatest_a, rest, rest, rest = a
    count_b, least_b, greatest_b, rest, rest, rest = b
    if holds(count_b <= 0.0):
        return a
    if holds(count_a <= 0.0):
        return b
    least = select(least_b < least_a, least_b, least_a)
    return count_a + count_b, least, larger(greatest_a, greatest_b), rest, rest, rest


@factory
def piece_extremes(dtype, lanes, way):
    """The states of extremes of pieces of x, into partials (pieces, FIELDS, C * L or C); a NaN is neither."""
    share, deliver, address = way.share, way.deliver(lanes, merge_extremes), way.source.address

    def kernel(x, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        least, greatest = number(math.inf, x, lanes), number(-math.inf, x, lanes)
        values, place = registers(x, lanes, TERMS), first
        while place < end:
            for k in each(TERMS):
                values[k] = number(math.nan, x, lanes)
                if place + k * step < end:
                    values[k] = load(x, address(place + k * step, geometry), lanes)
            for k in each(TERMS):
                least = select(values[k] < least, values[k], least)
                greatest = select(values[k] > greatest, values[k], greatest)
            place += TERMS * step
        count, zero = number(0.0, x, 1), number(0.0, x, lanes)
        if first < end:
            count = number(1.0, x, 1)
        deliver((count, least, greatest, zero, zero, zero), partials, block, C, L, tiles)

    values = types.CPointer(dtype)
    return Kernel(kernel, (values, values, *[types.int64] * 5))


@factory
def whole_states(dtype, merged):
    """The states of channels (FIELDS, C), of those of pieces."""
    state_of, store_state = channel_states(merged), states(merged, 1).store

    def kernel(partials, wholes, pieces, C, L):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        state = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            store_state(wholes, channel, C, state)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 2, *[types.int64] * 3))


def measured(call, x, planes, weights, omit_nan):
    """The state of x (N, C, L), here, with weights (N, L), float64 or a mask, or none; with `omit_nan`, as it must be
    beside weights of float64, of what is not NaN.
    """
    if weights.size and weights.dtype == FLOAT64:
        return weighted_channel_moments(call, x, weights, *planes)
    state = channel_moments(call, x, weights, *planes)
    if omit_nan and (missing := ~np.isfinite(state.m2)).any():
        state = replaced(state, weighted_channel_moments(call, x, weights, *planes), missing)
    return state


def channel_moments(call, x, mask, N, C, L):
    """The state of x (N, C, L), here; mask: (N, L), or none."""
    plan = plan_of(N, C, L, mask, x, most_lanes=LANES)
    kernel = piece_moments(type_of(x.dtype), plan.lanes, plan.way, KEPT)
    return _moments(_wholes(call, kernel, plan, merge, FLOAT64, (x, mask), N, C, L))


def weighted_channel_moments(call, x, weights, N, C, L):
    """`channel_moments` of what is not NaN, with weights (N, L), which may be a mask, or none: ones."""
    plan = plan_of(N, C, L, NONE, x, most_lanes=1)
    kernel = weighted_piece_moments(type_of(x.dtype), plan.way, type_of(weights.dtype) if weights.size else None)
    return _moments(_wholes(call, kernel, plan, merge, FLOAT64, (x, weights), N, C, L))


def channel_extremes(call, x, N, C, L):
    """The least and the greatest value of each channel of x (N, C, L), here; inf and -inf where all are NaN."""
    plan = plan_of(N, C, L, NONE, x)
    kernel = piece_extremes(type_of(x.dtype), plan.lanes, plan.way)
    return _wholes(call, kernel, plan, merge_extremes, x.dtype, (x,), N, C, L)[1:3]


def _wholes(call, kernel, plan, merged, dtype, given, N, C, L):
    """The states of channels (FIELDS, C), here, by a kernel that makes those of pieces."""
    partials, wholes = call.scratch(dtype, plan.pieces * FIELDS * plan.columns, FIELDS * C)
    call.launch(kernel, plan.grid, plan.block, *given, partials, N, C, L, plan.chunk, plan.tiles)
    block = block_for(C)
    kernel = whole_states(type_of(dtype), merged)
    call.launch(kernel, -(-C // block[0]), block, partials, wholes, plan.pieces, C, plan.own)
    return call.fetch(wholes).reshape(FIELDS, C)


def _moments(wholes):
    """A state, whose unit is other than 1 only where float64 might not hold squares."""
    count, mean, low, m2, m2_low, unit = wholes
    kept = np.where((m2 > 0) & ((unit > LARGE) | (unit < SMALL)), unit, 1.0)
    with np.errstate(all="ignore"):
        square = (unit / kept) ** 2
        return State(count, mean * unit, low * unit, m2 * square, m2_low * square, kept)
