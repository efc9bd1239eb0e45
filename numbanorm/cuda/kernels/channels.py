"""Batch normalization of x (N, C, L): statistics per channel, over N and L. With L = 1, x is rows x channels.

One launch makes the states of pieces of each channel, one merges them, and one applies what comes of it. Nobody adds
to memory that others add to: the order of all sums is fixed by the shape. `way` says how x is shared out.
"""

import math

from numbanorm._math import (
    affine,
    input_gradient,
    input_gradient_of_means,
    moving_average,
    normalize,
    reciprocal_std,
    scaled_difference,
    shifted_gradient,
)
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.states import (
    FIELDS,
    SLOTS,
    finished,
    merge,
    merge_gradients,
    states,
    summed_gradients,
    summed_moments,
)
from numbanorm.cuda.vectors.memory import each, load, registers, shared, store
from numbanorm.cuda.vectors.simd import holds, number, select
from numbanorm.cuda.vectors.units import halved, rstd_of, scale_of, unit_for

TERMS, GRADIENT_TERMS, APPLY_TERMS = 8, 4, 4  # vectors that a thread loads before it uses them


@device
def _one(place, geometry, weight):
    return 1.0


@factory
def piece_moments(dtype, lanes, way, kept):
    """The states of pieces of x, into partials (pieces, FIELDS, C * L or C), in the type `kept` of these."""
    share, deliver = way.share, way.deliver(lanes, merge)
    moments_of = summed_moments(lanes, TERMS * dtype.bitwidth // kept.bitwidth, way.source)

    def kernel(x, mask, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, _, geometry = share(block, N, C, L, chunk, tiles)
        deliver(moments_of(partials, x, mask, first, end, step, geometry), partials, block, C, L, tiles)

    pointers = types.CPointer(dtype), types.CPointer(types.uint8), types.CPointer(kept)
    return Kernel(kernel, (*pointers, *[types.int64] * 5), 2 * SLOTS if kept == dtype else SLOTS)


@factory
def piece_gradients(dtype, lanes, way, kept):
    """The gradient states of pieces of dy and x, into partials (pieces, FIELDS, C * L or C); these, mean
    and rstd are of the type `kept`, in which all is reckoned.
    """
    share, deliver, stat_lanes = way.share, way.deliver(lanes, merge_gradients), way.lanes
    gradients_of = summed_gradients(lanes, GRADIENT_TERMS * dtype.bitwidth // kept.bitwidth, way.source, _one)

    def kernel(dy, x, mean, rstd, mask, partials, N, C, L, chunk, tiles):
        block = cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        m, r = number(0.0, mean, stat_lanes), number(0.0, mean, stat_lanes)
        if first < end:
            m, r = load(mean, channel, stat_lanes), load(rstd, channel, stat_lanes)
        state = gradients_of(mean, dy, x, m, r, x, mask, first, end, step, geometry)
        deliver(state, partials, block, C, L, tiles)

    values, statistics = types.CPointer(dtype), types.CPointer(kept)
    pointers = values, values, statistics, statistics, types.CPointer(types.uint8), statistics
    return Kernel(kernel, (*pointers, *[types.int64] * 5))


def channel_states(merged):
    """A device function: for the first thread of each column of a block, the state of a channel, of those of pieces."""
    of = states(merged, 1)
    nothing, load_state, of_threads, room = of.nothing, of.load, of.of_threads, FIELDS * SLOTS

    @device
    def state_of(partials, channel, pieces, C, L):
        state = nothing(partials)
        entry = types.int64(cuda.threadIdx.y)
        while entry < pieces * L and channel < C:
            piece = entry // L
            place = piece * FIELDS * C * L + channel * L + (entry - piece * L)
            state = merged(state, load_state(partials, place, C * L))
            entry += cuda.blockDim.y
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        return of_threads(shared(partials, room), state, cuda.threadIdx.y, cuda.blockDim.y, cuda.blockDim.x, slot)

    return state_of


@device
def store_scaled(scaled, channel, C, scale, m, rstd, mean_h):
    """Of a channel, what `apply` makes y of, into scaled (4, C): the statistics m, rstd and mean_h of x * scale."""
    store(scaled, channel, scale)
    store(scaled, C + channel, m)
    store(scaled, 2 * C + channel, rstd)
    store(scaled, 3 * C + channel, mean_h)


@factory
def channel_statistics(dtype, running_mean_dtype, running_var_dtype):
    """mean and rstd of each channel, of partials (pieces, FIELDS, C * L); scaled (4, C), which `apply` takes; and the
    running statistics moved, if `means` and `variances` are C, not 0, by channels of two values and more.
    """
    state_of = channel_states(merge)

    def kernel(partials, eps, momentum, mean, rstd, scaled, running_mean, running_var, pieces, C, L, means, variances):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        state = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            m, delta, var, scale = finished(state, eps)
            own_rstd, whole_rstd = rstd_of(var, eps, scale)
            count, unit = state[0], scale_of(scale)
            store(mean, channel, m * unit)
            store(rstd, channel, whole_rstd)
            store_scaled(scaled, channel, C, scale, m, own_rstd, delta * own_rstd)
            if holds(count > 1.5) and channel < means:
                old, own_unit = load(running_mean, channel, 1), number(unit, running_mean, 1)
                batch = (number(m, old, 1) + number(delta, old, 1)) * own_unit
                store(running_mean, channel, moving_average(old, number(momentum, old, old), batch))
            if holds(count > 1.5) and channel < variances:
                old, own_unit = load(running_var, channel, 1), number(unit, running_var, 1)
                batch = number(var * (count / (count - 1.0)), old, 1) * own_unit * own_unit
                store(running_var, channel, moving_average(old, number(momentum, old, old), batch))

    values, size = types.CPointer(dtype), types.int64
    wide = max(dtype, running_mean_dtype, running_var_dtype, key=lambda t: t.bitwidth)
    running = types.CPointer(running_mean_dtype), types.CPointer(running_var_dtype)
    return Kernel(kernel, (values, dtype, wide, *[values] * 3, *running, *[size] * 5))


@factory
def channel_gradients(dtype, frozen):
    """dweight and dbias of each channel, and what makes dx, linear (4, C): scale, the shift of dy, slope and offset;
    if frozen, what `apply` takes to make scale * dy.
    """
    state_of = channel_states(merge_gradients)

    def kernel(partials, rstd, mean_h, weight, dweight, dbias, linear, pieces, C, L, weights):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        count, own_mean_h, mean_dy, low, c, c_low = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            scale, sum_dy = load(rstd, channel, 1), count * mean_dy + count * low
            if channel < weights:
                scale = scale * load(weight, channel, 1)
            sum_dy_x_hat = c + c_low
            if frozen:
                sum_dy_x_hat += sum_dy * (own_mean_h - load(mean_h, channel, 1))
                store_scaled(linear, channel, C, 1.0, 0.0, scale, 0.0)
            else:
                mean_dy_x_hat = sum_dy_x_hat / count
                slope, offset = input_gradient_of_means(own_mean_h, low, mean_dy_x_hat, scale)
                store(linear, channel, scale)
                store(linear, C + channel, mean_dy)
                store(linear, 2 * C + channel, slope)
                store(linear, 3 * C + channel, offset)
            if holds(count <= 0.0):
                sum_dy = sum_dy_x_hat = number(0.0, rstd, 1)
            store(dweight, channel, sum_dy_x_hat)
            store(dbias, channel, sum_dy)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 4))


@factory
def apply(dtype, lanes, way):
    """y, of scaled (4, C) as `channel_statistics` makes it. From the last block to the first: what was read last is
    still in the cache.

    Of the parameters, as many values are there as `weights` and `biases` say: C or none.
    """
    share, source, stat_lanes = way.share, way.source, way.lanes
    address, weighs = source.address, source.weighs

    def kernel(x, scaled, weight, bias, mask, y, N, C, L, chunk, tiles, weights, biases):
        block = cuda.gridDim.x - 1 - cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        zero, one = number(0.0, x, stat_lanes), number(1.0, x, stat_lanes)
        scale = m = own_rstd = mean_h = own_bias = zero
        own_weight = one
        if first < end:
            scale, m = load(scaled, channel, stat_lanes), load(scaled, C + channel, stat_lanes)
            own_rstd, mean_h = load(scaled, 2 * C + channel, stat_lanes), load(scaled, 3 * C + channel, stat_lanes)
            if channel < weights:
                own_weight = load(weight, channel, stat_lanes)
            if channel < biases:
                own_bias = load(bias, channel, stat_lanes)
        values, place = registers(x, lanes, APPLY_TERMS), first
        while place < end:
            for k in each(APPLY_TERMS):
                if place + k * step < end:
                    values[k] = load(x, address(place + k * step, geometry), lanes)
            for k in each(APPLY_TERMS):
                own = place + k * step
                if own < end:
                    result = affine(normalize(values[k] * scale, m, own_rstd, mean_h), own_weight, own_bias)
                    if not weighs(own, geometry, mask):
                        result = number(0.0, x, lanes)
                    store(y, address(own, geometry), result)
            place += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 4, types.CPointer(types.uint8), values, *[types.int64] * 7))


@factory
def apply_gradient(dtype, lanes, way):
    """dx, of linear (4, C) as `channel_gradients` makes it. From the last block to the first."""
    share, source, stat_lanes = way.share, way.source, way.lanes
    address, weighs = source.address, source.weighs

    def kernel(dy, x, mean, rstd, linear, mask, dx, N, C, L, chunk, tiles):
        block = cuda.gridDim.x - 1 - cuda.blockIdx.x
        first, end, step, channel, geometry = share(block, N, C, L, chunk, tiles)
        zero = number(0.0, x, stat_lanes)
        own_scale = m = r = m_dy = scale = slope = offset = zero
        if first < end:
            own_scale, m, r = halved(load(mean, channel, stat_lanes), load(rstd, channel, stat_lanes))
            scale, m_dy = load(linear, channel, stat_lanes), load(linear, C + channel, stat_lanes)
            slope, offset = load(linear, 2 * C + channel, stat_lanes), load(linear, 3 * C + channel, stat_lanes)
        hs, gs, place = registers(x, lanes, APPLY_TERMS), registers(x, lanes, APPLY_TERMS), first
        while place < end:
            for k in each(APPLY_TERMS):
                if place + k * step < end:
                    where = address(place + k * step, geometry)
                    hs[k] = scaled_difference(load(x, where, lanes) * own_scale, m, r)
                    gs[k] = shifted_gradient(load(dy, where, lanes), 1.0, m_dy)
            for k in each(APPLY_TERMS):
                own = place + k * step
                if own < end:
                    result = input_gradient(gs[k], hs[k], scale, slope, offset)
                    if not weighs(own, geometry, mask):
                        result = number(0.0, x, lanes)
                    store(dx, address(own, geometry), result)
            place += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 5, types.CPointer(types.uint8), values, *[types.int64] * 5))


@device
def _scale_for_rstd(rstd):
    """With which differences from a mean, and rstd / scale, are in the range of float32."""
    one, above = number(1.0, rstd, 1), unit_for(rstd) * 2.0**-126  # at least 1 for an rstd near float32's limit
    scale = select(rstd < 2.0**-100, 2.0**-100, select(rstd < 1.0, 0.5, one))
    scale = select(above > 1.0, select(above > 2.0**100, 2.0**100, above), scale)
    return select(rstd < math.inf, scale, one)


@factory
def given_statistics(dtype, mean_dtype, var_dtype):
    """scaled (4, C), which `apply` takes, of a mean and a variance of any dtypes."""

    def kernel(mean, var, eps, scaled, C):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if channel < C:
            exact_rstd = reciprocal_std(load(var, channel, 1), eps)
            scale = _scale_for_rstd(exact_rstd)
            exact_mean = load(mean, channel, 1) * number(scale, mean, 1)
            m, rstd = number(exact_mean, scaled, 1), number(exact_rstd / scale, scaled, 1)
            mean_h = number(exact_mean - number(m, mean, 1), scaled, 1) * rstd
            store_scaled(scaled, channel, C, scale, m, rstd, mean_h)

    pointers = types.CPointer(mean_dtype), types.CPointer(var_dtype)
    return Kernel(kernel, (*pointers, var_dtype, types.CPointer(dtype), types.int64))


@factory
def given_constants(dtype, mean_dtype, rstd_dtype):
    """m, rstd and mean_h of a mean and an rstd of any dtypes."""

    def kernel(mean, rstd, m, own_rstd, mean_h, C):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if channel < C:
            exact_mean, rounded_rstd = load(mean, channel, 1), number(load(rstd, channel, 1), m, 1)
            rounded = number(exact_mean, m, 1)
            store(m, channel, rounded)
            store(own_rstd, channel, rounded_rstd)
            store(mean_h, channel, number(exact_mean - number(rounded, mean, 1), m, 1) * rounded_rstd)

    pointers = types.CPointer(mean_dtype), types.CPointer(rstd_dtype)
    return Kernel(kernel, (*pointers, *[types.CPointer(dtype)] * 3, types.int64))
