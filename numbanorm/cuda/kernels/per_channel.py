"""Compute one result for each channel: merge the states of its pieces, and prepare what `channels` applies.

Where states are merged, the threads of a block's column share a channel, and the first of them stores the result.
"""

import math

from numbanorm._math import (
    input_gradient_of_means,
    mean_h_of_delta,
    moving_average,
    reciprocal_std,
    scaled_difference,
    scaled_variance,
    unbiased_factor,
    weighted_gradient_of_means,
    weighted_rstd,
)
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.states import FIELDS, GRADIENT_SUMS, MOMENTS, SLOTS, finished, states
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import load, shared, store
from numbanorm.cuda.vectors.simd import holds, number
from numbanorm.cuda.vectors.units import rstd_of, scale_of, unit_for


@device
def _channel():
    """Return the channel of this thread."""
    return types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x


def _channel_states(kind):
    """Make a device function that returns to the first thread of a column the merged state of a channel's pieces."""
    of_kind, merge = states(kind, 1), kind.merge
    nothing, load_state, of_threads, room = of_kind.nothing, of_kind.load, of_kind.of_threads, FIELDS * SLOTS

    @device
    def state_of(partials, channel, pieces, C, L):
        state = nothing(partials)
        entry = types.int64(cuda.threadIdx.y)
        while entry < pieces * L and channel < C:
            piece = entry // L
            place = piece * FIELDS * C * L + channel * L + (entry - piece * L)
            state = merge(state, load_state(partials, place, C * L))
            entry += cuda.blockDim.y
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        return of_threads(shared(partials, room), state, cuda.threadIdx.y, cuda.blockDim.y, cuda.blockDim.x, slot)

    return state_of


@factory
def whole_states(dtype, kind):
    """Make a kernel that merges the states of pieces, and writes those of channels (FIELDS, C)."""
    state_of, store_state = _channel_states(kind), states(kind, 1).store

    def kernel(partials, wholes, pieces, C, L):
        channel = _channel()
        state = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            store_state(wholes, channel, C, state)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 2, *[types.int64] * 3))


@device
def _store_scaled(scaled, channel, C, scale, m, rstd, mean_h):
    """Write to scaled (4, C) what `channels.apply` reads. m, rstd and mean_h are statistics of x * scale."""
    store(scaled, channel, scale)
    store(scaled, C + channel, m)
    store(scaled, 2 * C + channel, rstd)
    store(scaled, 3 * C + channel, mean_h)


@device
def _store_linear(linear, channel, C, factor, m_dy, slope, offset):
    """Write to linear (4, C) what `channels.apply_gradient` reads."""
    store(linear, channel, factor)
    store(linear, C + channel, m_dy)
    store(linear, 2 * C + channel, slope)
    store(linear, 3 * C + channel, offset)


@factory
def channel_statistics(dtype, running_mean_dtype, running_var_dtype):
    """Make a kernel that writes mean and rstd of each channel, and scaled (4, C), which `channels.apply` reads.

    The running statistics move by channels of two values and more, if `running_mean_count` and `running_var_count`
    are C, not 0.
    """
    state_of = _channel_states(MOMENTS)

    def kernel(
        partials,
        eps,
        momentum,
        mean,
        rstd,
        scaled,
        running_mean,
        running_var,
        pieces,
        C,
        L,
        running_mean_count,
        running_var_count,
    ):
        channel = _channel()
        state = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            m, delta, var, scale = finished(state, eps)
            scaled_rstd, x_rstd = rstd_of(var, eps, scale)
            count, unit = state.count, scale_of(scale)
            store(mean, channel, m * unit)
            store(rstd, channel, x_rstd)
            _store_scaled(scaled, channel, C, scale, m, scaled_rstd, mean_h_of_delta(delta, scaled_rstd))
            if holds(count > 1.5) and channel < running_mean_count:
                old, old_unit = load(running_mean, channel, 1), number(unit, running_mean, 1)
                batch = (number(m, old, 1) + number(delta, old, 1)) * old_unit
                store(running_mean, channel, moving_average(old, number(momentum, old, old), batch))
            if holds(count > 1.5) and channel < running_var_count:
                old, old_unit = load(running_var, channel, 1), number(unit, running_var, 1)
                batch = scaled_variance(number(var * unbiased_factor(count), old, 1), old_unit)
                store(running_var, channel, moving_average(old, number(momentum, old, old), batch))

    values, size = types.CPointer(dtype), types.int64
    widest = max(dtype, running_mean_dtype, running_var_dtype, key=lambda t: t.bitwidth)
    running = types.CPointer(running_mean_dtype), types.CPointer(running_var_dtype)
    return Kernel(kernel, (values, dtype, widest, *[values] * 3, *running, *[size] * 5))


@factory
def channel_gradients(dtype, frozen):
    """Make a kernel that writes dweight and dbias of each channel, and linear (4, C): factor, m_dy, slope and offset.

    If frozen, linear is what `channels.apply` reads to compute factor * dy.
    """
    state_of = _channel_states(GRADIENT_SUMS)

    def kernel(partials, rstd, mean_h, weight, dweight, dbias, linear, pieces, C, L, weight_count):
        channel = _channel()
        state = state_of(partials, channel, pieces, C, L)
        count = state.count
        if cuda.threadIdx.y == 0 and channel < C:
            factor, sum_dy = load(rstd, channel, 1), count * state.mean_g + count * state.low
            if channel < weight_count:
                factor = weighted_rstd(factor, load(weight, channel, 1))
            sum_dy_x_hat = state.c + state.c_low
            if frozen:
                sum_dy_x_hat += sum_dy * (state.mean_h - load(mean_h, channel, 1))
                _store_scaled(linear, channel, C, 1.0, 0.0, factor, 0.0)
            else:
                slope, offset = input_gradient_of_means(state.mean_h, state.low, sum_dy_x_hat / count, factor)
                _store_linear(linear, channel, C, factor, state.mean_g, slope, offset)
            if holds(count <= 0.0):
                sum_dy = sum_dy_x_hat = number(0.0, rstd, 1)
            store(dweight, channel, sum_dy_x_hat)
            store(dbias, channel, sum_dy)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 4))


@factory
def channel_sums():
    """Make a kernel that writes sum_dy and sum_dy_x_hat of each channel, from the gradient sums of its pieces."""
    state_of = _channel_states(GRADIENT_SUMS)

    def kernel(partials, sum_dy, sum_dy_x_hat, pieces, C, L):
        channel = _channel()
        state = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            total = state.count * state.mean_g + state.count * state.low
            store(sum_dy, channel, total)
            store(sum_dy_x_hat, channel, state.c + state.c_low + total * state.mean_h)

    return Kernel(kernel, (*[types.CPointer(types.float64)] * 3, *[types.int64] * 3))


@factory
def gradients_of_sums(dtype):
    """Make a kernel that writes what `channels.apply_gradient` reads: m, rounded_rstd and linear (4, C).

    They are of dtype, and so is the weight. The other inputs are float64.
    """

    def kernel(mean, rstd, weight, sum_dy, sum_dy_x_hat, count, m, rounded_rstd, linear, C, weight_count):
        channel = _channel()
        if channel < C:
            exact_mean, exact_rstd = load(mean, channel, 1), load(rstd, channel, 1)
            mean_dy = load(sum_dy, channel, 1) / count
            rounded_mean, m_dy = number(exact_mean, m, 1), number(mean_dy, m, 1)
            mean_h = scaled_difference(exact_mean, number(rounded_mean, mean, 1), exact_rstd)
            mean_g = mean_dy - number(m_dy, mean, 1)
            mean_dy_x_hat = load(sum_dy_x_hat, channel, 1) / count
            channel_weight = number(1.0, mean, 1)
            if channel < weight_count:
                channel_weight = number(load(weight, channel, 1), mean, 1)
            made = weighted_gradient_of_means(mean_h, mean_g, mean_dy_x_hat, exact_rstd, channel_weight)
            factor, slope, offset = made
            store(m, channel, rounded_mean)
            store(rounded_rstd, channel, exact_rstd)
            _store_linear(linear, channel, C, factor, m_dy, slope, offset)

    values, exact = types.CPointer(dtype), types.CPointer(types.float64)
    pointers = exact, exact, values, exact, exact, types.float64, values, values, values
    return Kernel(kernel, (*pointers, *[types.int64] * 2))


@device
def _scale_for_rstd(rstd):
    """Return the scale at which differences from a mean, and rstd / scale, are in the range of float32."""
    one, above = number(1.0, rstd, 1), unit_for(rstd) * 2.0**-126  # at least 1 for an rstd near float32's limit
    scale = select(rstd < 2.0**-100, 2.0**-100, select(rstd < 1.0, 0.5, one))
    scale = select(above > 1.0, select(above > 2.0**100, 2.0**100, above), scale)
    return select(rstd < math.inf, scale, one)


@factory
def given_statistics(dtype, mean_dtype, var_dtype):
    """Make a kernel that writes scaled (4, C), for `channels.apply`, from a mean and a variance of any dtypes."""

    def kernel(mean, var, eps, scaled, C):
        channel = _channel()
        if channel < C:
            exact_rstd = reciprocal_std(load(var, channel, 1), eps)
            scale = _scale_for_rstd(exact_rstd)
            exact_mean = load(mean, channel, 1) * number(scale, mean, 1)
            m, rstd = number(exact_mean, scaled, 1), number(exact_rstd / scale, scaled, 1)
            mean_h = mean_h_of_delta(number(exact_mean - number(m, mean, 1), scaled, 1), rstd)
            _store_scaled(scaled, channel, C, scale, m, rstd, mean_h)

    pointers = types.CPointer(mean_dtype), types.CPointer(var_dtype)
    return Kernel(kernel, (*pointers, var_dtype, types.CPointer(dtype), types.int64))


@factory
def given_constants(dtype, mean_dtype, rstd_dtype):
    """Make a kernel that writes m, rounded_rstd and mean_h, of dtype, from a mean and an rstd of any dtypes."""

    def kernel(mean, rstd, m, rounded_rstd, mean_h, C):
        channel = _channel()
        if channel < C:
            exact_mean, channel_rstd = load(mean, channel, 1), number(load(rstd, channel, 1), m, 1)
            rounded_mean = number(exact_mean, m, 1)
            store(m, channel, rounded_mean)
            store(rounded_rstd, channel, channel_rstd)
            delta = number(exact_mean - number(rounded_mean, mean, 1), m, 1)
            store(mean_h, channel, mean_h_of_delta(delta, channel_rstd))

    pointers = types.CPointer(mean_dtype), types.CPointer(rstd_dtype)
    return Kernel(kernel, (*pointers, *[types.CPointer(dtype)] * 3, types.int64))
