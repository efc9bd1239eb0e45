"""Layer normalization over the columns of x (rows, cols), in rows too long for a block's registers: x is read twice.

A block takes a row, a thread vectors one block's width apart.
"""

from functools import lru_cache

from numbanorm._math import (
    affine,
    input_gradient,
    input_gradient_of_means,
    normalize,
    scaled_difference,
    shifted_gradient,
)
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.states import (
    FIELDS,
    SLOTS,
    Source,
    always,
    finished,
    merge,
    merge_gradients,
    states,
    summed_gradients,
    summed_moments,
)
from numbanorm.cuda.vectors.memory import each, load, parameter_at, registers, shared, store
from numbanorm.cuda.vectors.reduce import group
from numbanorm.cuda.vectors.simd import join, lane
from numbanorm.cuda.vectors.units import halved, rstd_of, scale_of

TERMS, GRADIENT_TERMS, APPLY_TERMS = 8, 4, 4  # vectors that a thread loads before it uses them
_ROOM = FIELDS * SLOTS


@lru_cache(None)
def source_of(lanes):
    """Places are vectors of a row."""

    @device
    def address(place, geometry):
        (start,) = geometry
        return start + place * lanes

    return Source(address, always)


@factory
def long_rows_forward(dtype, lanes):
    """As `rows.rows_forward`."""
    moments_of, of_threads = summed_moments(lanes, TERMS, source_of(lanes)), states(merge, 1).of_threads
    of_all_lanes, first_of, parameter = states(merge, lanes).of_all_lanes, group(SLOTS).first, parameter_at(lanes)

    def kernel(x, weight, bias, eps, count, y, mean, rstd, rows, cols, weights, biases, kept):
        row, own, width = types.int64(cuda.blockIdx.x), types.int64(cuda.threadIdx.x), cuda.blockDim.x
        start, vectors = row * cols, cols // lanes
        state = of_all_lanes(moments_of(x, x, x, own, vectors, width, (start,)))
        state = of_threads(shared(x, _ROOM), state, own, width, 1, own)
        m, delta, var, scale = finished(state, eps)
        own_rstd, whole_rstd = rstd_of(var, eps, scale)
        if own == 0 and row < kept:
            store(mean, row, m * scale_of(scale))
            store(rstd, row, whole_rstd)
        found = first_of(join(m, delta * own_rstd, own_rstd, scale), shared(x, 4))
        m, mean_h, own_rstd, scale = lane(found, 0), lane(found, 1), lane(found, 2), lane(found, 3)
        values, place = registers(x, lanes, APPLY_TERMS), own
        while place < vectors:
            for k in each(APPLY_TERMS):
                if place + k * width < vectors:
                    values[k] = load(x, start + (place + k * width) * lanes, lanes) * scale
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    own_weight, own_bias = parameter(weight, c, weights, 1.0), parameter(bias, c, biases, 0.0)
                    store(y, start + c, affine(normalize(values[k], m, own_rstd, mean_h), own_weight, own_bias))
            place += APPLY_TERMS * width

    values, size = types.CPointer(dtype), types.int64
    return Kernel(kernel, (*[values] * 3, dtype, dtype, *[values] * 3, *[size] * 5), 2 * SLOTS)


@factory
def long_rows_backward(dtype, lanes):
    """dx (rows, cols), and what the stored mean of each row lacks, times rstd: mean_h (rows,)."""
    parameter = parameter_at(lanes)

    @device
    def factor(place, geometry, weight):
        pointer, weights = weight
        return parameter(pointer, place * lanes, weights, 1.0)

    gradients_of = summed_gradients(lanes, GRADIENT_TERMS, source_of(lanes), factor)
    of_threads, of_all_lanes = states(merge_gradients, 1).of_threads, states(merge_gradients, lanes).of_all_lanes
    first_of = group(SLOTS).first

    def kernel(dy, x, mean, rstd, weight, dx, mean_h, rows, cols, weights):
        row, own, width = types.int64(cuda.blockIdx.x), types.int64(cuda.threadIdx.x), cuda.blockDim.x
        start, vectors = row * cols, cols // lanes
        m, r = load(mean, row, 1), load(rstd, row, 1)
        state = gradients_of(x, dy, x, m, r, (weight, weights), x, own, vectors, width, (start,))
        state = of_threads(shared(x, _ROOM), of_all_lanes(state), own, width, 1, own)
        count, own_mean_h, mean_wdy, low, c, c_low = state
        slope, offset = input_gradient_of_means(own_mean_h, low, (c + c_low) / count, r)
        scale, m, own_rstd = halved(m, r)
        found = first_of(join(mean_wdy, slope, offset, own_mean_h), shared(x, 4))
        m_wdy, slope, offset = lane(found, 0), lane(found, 1), lane(found, 2)
        if own == 0:
            store(mean_h, row, lane(found, 3))
        hs, gs, place = registers(x, lanes, APPLY_TERMS), registers(x, lanes, APPLY_TERMS), own
        while place < vectors:
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    hs[k] = scaled_difference(load(x, start + c, lanes) * scale, m, own_rstd)
                    gs[k] = shifted_gradient(load(dy, start + c, lanes), parameter(weight, c, weights, 1.0), m_wdy)
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    store(dx, start + c, input_gradient(gs[k], hs[k], r, slope, offset))
            place += APPLY_TERMS * width

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 3))
