"""Compute the states of pieces of x (N, C, L) that only statistics need: weighted moments, and extremes.

NaNs do not count.
"""

import math

from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.runs import summed_moments
from numbanorm.cuda.kernels.states import EXTREMES, MOMENTS, Extremes
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each, is_set, load, registers
from numbanorm.cuda.vectors.simd import number

TERMS = 4  # vectors that a thread loads before it uses them


@factory
def weighted_piece_moments(dtype, way, weights_dtype):
    """Make a kernel that does what the kernel of `channels.piece_moments` does, in float64 and with weights (N, L).

    The weights are float64, or a mask. If `weights_dtype` is None, all weights are 1.
    """
    share, deliver, position = way.share, way.deliver(1, MOMENTS), way.source.position
    weighted, masked = weights_dtype is types.float64, weights_dtype is types.uint8

    @device
    def weight_of(value, place, geometry, weights):
        weight = number(1.0, value, 1)
        if weighted:
            weight = load(weights, position(place, geometry), 1)
        elif masked:
            weight = select(is_set(weights, position(place, geometry)), weight, 0.0)
        return select(value <= value, weight, 0.0)

    moments_of = summed_moments(1, TERMS, way.source, weight_of)

    def kernel(x, weights, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        deliver(moments_of(partials, x, weights, first, end, step, geometry), partials, block, C, L, tiles)

    states = types.CPointer(types.float64)
    pointers = types.CPointer(dtype), types.CPointer(weights_dtype or types.float64), states
    return Kernel(kernel, (*pointers, *[types.int64] * 5))


@factory
def piece_extremes(dtype, lanes, way):
    """Make a kernel that writes the extremes of pieces of x to partials (pieces, FIELDS, C * L or C)."""
    share, deliver, address = way.share, way.deliver(lanes, EXTREMES), way.source.address

    def kernel(x, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        least, greatest = number(math.inf, x, lanes), number(-math.inf, x, lanes)
        values, start = registers(x, lanes, TERMS), first
        while start < end:
            for k in each(TERMS):
                values[k] = number(math.nan, x, lanes)
                if start + k * step < end:
                    values[k] = load(x, address(start + k * step, geometry), lanes)
            for k in each(TERMS):
                least = select(values[k] < least, values[k], least)
                greatest = select(values[k] > greatest, values[k], greatest)
            start += TERMS * step
        count, zero = number(0.0, x, 1), number(0.0, x, lanes)
        if first < end:
            count = number(1.0, x, 1)
        deliver(Extremes(count, least, greatest, zero, zero, zero), partials, block, C, L, tiles)

    values = types.CPointer(dtype)
    return Kernel(kernel, (values, values, *[types.int64] * 5))
