"""Do batch normalization of x (N, C, L), with statistics per channel, over N and L. With L = 1, x is rows x channels.

One launch makes the states of pieces of each channel, one merges them (`per_channel`), and one applies what comes of
it. No two threads add to the same memory, so the shape fixes the order of all sums. `way` says how x is shared out.
"""

from numbanorm._math import affine, input_gradient, normalize, scaled_difference, shifted_gradient
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.runs import summed_gradients, summed_moments
from numbanorm.cuda.kernels.states import GRADIENT_SUMS, MOMENTS, SLOTS
from numbanorm.cuda.vectors.memory import each, load, registers, store
from numbanorm.cuda.vectors.simd import number
from numbanorm.cuda.vectors.units import halved

TERMS, GRADIENT_TERMS, APPLY_TERMS = 8, 4, 4  # vectors that a thread loads before it uses them


@device
def _one(place, geometry, weight):
    return 1.0


@factory
def piece_moments(dtype, lanes, way, state_dtype):
    """Make a kernel that writes the moments of pieces of x to partials (pieces, FIELDS, C * L or C).

    partials are of the type `state_dtype`.
    """
    share, deliver = way.share, way.deliver(lanes, MOMENTS)
    moments_of = summed_moments(lanes, TERMS * dtype.bitwidth // state_dtype.bitwidth, way.source)

    def kernel(x, mask, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        deliver(moments_of(partials, x, mask, first, end, step, geometry), partials, block, C, L, tiles)

    pointers = types.CPointer(dtype), types.CPointer(types.uint8), types.CPointer(state_dtype)
    return Kernel(kernel, (*pointers, *[types.int64] * 5), 2 * SLOTS if state_dtype == dtype else SLOTS)


@factory
def piece_gradients(dtype, lanes, way, state_dtype):
    """Make a kernel that writes the gradient sums of pieces of dy and x to partials (pieces, FIELDS, C * L or C).

    partials, mean and rstd are of the type `state_dtype`, in which all is computed.
    """
    share, deliver, stat_lanes = way.share, way.deliver(lanes, GRADIENT_SUMS), way.lanes
    gradients_of = summed_gradients(lanes, GRADIENT_TERMS * dtype.bitwidth // state_dtype.bitwidth, way.source, _one)

    def kernel(dy, x, mean, rstd, mask, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        m, r = number(0.0, mean, stat_lanes), number(0.0, mean, stat_lanes)
        if first < end:
            m, r = load(mean, channel, stat_lanes), load(rstd, channel, stat_lanes)
        state = gradients_of(mean, dy, x, m, r, x, mask, first, end, step, geometry)
        deliver(state, partials, block, C, L, tiles)

    values, statistics = types.CPointer(dtype), types.CPointer(state_dtype)
    pointers = values, values, statistics, statistics, types.CPointer(types.uint8), statistics
    return Kernel(kernel, (*pointers, *[types.int64] * 5))


@factory
def apply(dtype, lanes, way):
    """Make a kernel that writes y, given scaled (4, C) as `per_channel.channel_statistics` stores it.

    The weight has `weight_count` values and the bias `bias_count`: C, or 0 where it is not given. The kernel goes from
    the last block to the first, since what was read last is still in the cache.
    """
    share, source, stat_lanes = way.share, way.source, way.lanes
    address, counts = source.address, source.counts

    def kernel(x, scaled, weight, bias, mask, y, N, C, L, chunk, tiles, weight_count, bias_count):
        block = cuda.gridDim.x - 1 - cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        zero, one = number(0.0, x, stat_lanes), number(1.0, x, stat_lanes)
        scale = m = scaled_rstd = mean_h = channel_bias = zero
        channel_weight = one
        if first < end:
            scale, m = load(scaled, channel, stat_lanes), load(scaled, C + channel, stat_lanes)
            scaled_rstd, mean_h = load(scaled, 2 * C + channel, stat_lanes), load(scaled, 3 * C + channel, stat_lanes)
            if channel < weight_count:
                channel_weight = load(weight, channel, stat_lanes)
            if channel < bias_count:
                channel_bias = load(bias, channel, stat_lanes)
        values, start = registers(x, lanes, APPLY_TERMS), first
        while start < end:
            for k in each(APPLY_TERMS):
                if start + k * step < end:
                    values[k] = load(x, address(start + k * step, geometry), lanes)
            for k in each(APPLY_TERMS):
                place = start + k * step
                if place < end:
                    x_hat = normalize(values[k] * scale, m, scaled_rstd, mean_h)
                    result = affine(x_hat, channel_weight, channel_bias)
                    if not counts(place, geometry, mask):
                        result = number(0.0, x, lanes)
                    store(y, address(place, geometry), result)
            start += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 4, types.CPointer(types.uint8), values, *[types.int64] * 7))


@factory
def apply_gradient(dtype, lanes, way):
    """Make a kernel that writes dx, given linear (4, C) as `per_channel.channel_gradients` stores it.

    Like `apply`, it goes from the last block to the first.
    """
    share, source, stat_lanes = way.share, way.source, way.lanes
    address, counts = source.address, source.counts

    def kernel(dy, x, mean, rstd, linear, mask, dx, N, C, L, chunk, tiles):
        block = cuda.gridDim.x - 1 - cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        zero = number(0.0, x, stat_lanes)
        x_scale = m = scaled_rstd = m_dy = factor = slope = offset = zero
        if first < end:
            x_scale, m, scaled_rstd = halved(load(mean, channel, stat_lanes), load(rstd, channel, stat_lanes))
            factor, m_dy = load(linear, channel, stat_lanes), load(linear, C + channel, stat_lanes)
            slope, offset = load(linear, 2 * C + channel, stat_lanes), load(linear, 3 * C + channel, stat_lanes)
        hs, gs, start = registers(x, lanes, APPLY_TERMS), registers(x, lanes, APPLY_TERMS), first
        while start < end:
            for k in each(APPLY_TERMS):
                if start + k * step < end:
                    where = address(start + k * step, geometry)
                    hs[k] = scaled_difference(load(x, where, lanes) * x_scale, m, scaled_rstd)
                    gs[k] = shifted_gradient(load(dy, where, lanes), 1.0, m_dy)
            for k in each(APPLY_TERMS):
                place = start + k * step
                if place < end:
                    result = input_gradient(gs[k], hs[k], factor, slope, offset)
                    if not counts(place, geometry, mask):
                        result = number(0.0, x, lanes)
                    store(dx, address(place, geometry), result)
            start += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 5, types.CPointer(types.uint8), values, *[types.int64] * 5))
