"""Normalise x (rows, cols) over its columns, by layer or RMS normalization, in rows too long for a block's registers.

x is read twice. A block takes a row. The vectors of a thread lie one block's width apart.
"""

from functools import lru_cache

from numbanorm._math import affine, input_gradient, mean_h_of_delta, scaled_difference, shifted_gradient
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.runs import Source, always
from numbanorm.cuda.kernels.states import FIELDS, SLOTS, states
from numbanorm.cuda.vectors.memory import each, load, parameter_at, registers, shared, store
from numbanorm.cuda.vectors.reduce import group
from numbanorm.cuda.vectors.simd import join, lane
from numbanorm.cuda.vectors.units import rstd_of, scale_of

TERMS, GRADIENT_TERMS, APPLY_TERMS = 8, 4, 4  # vectors that a thread loads before it uses them
_ROOM = FIELDS * SLOTS


@lru_cache(None)
def source_of(lanes):
    """Return a `Source` whose places are the numbers of vectors in a row."""

    @device
    def address(place, geometry):
        (start,) = geometry
        return start + place * lanes

    return Source(address, always)


@factory
def long_rows_forward(norm, dtype, lanes):
    """Make a kernel that does for long rows what the kernel of `rows.rows_forward` does."""
    moments_of, of_threads = norm.summed(lanes, TERMS, source_of(lanes)), states(norm.kind, 1).of_threads
    of_all_lanes, finished, normalize = states(norm.kind, lanes).of_all_lanes, norm.finished, norm.normalize
    first_of, store_mean = group(SLOTS).first, norm.of_mean(store)
    parameter, bias_at = parameter_at(lanes), norm.of_bias(parameter_at(lanes))

    def kernel(x, weight, bias, eps, count, y, mean, rstd, rows, cols, weight_count, bias_count, statistic_count):
        row, thread, width = types.int64(cuda.blockIdx.x), types.int64(cuda.threadIdx.x), cuda.blockDim.x
        start, vectors = row * cols, cols // lanes
        state = of_all_lanes(moments_of(x, x, x, thread, vectors, width, (start,)))
        state = of_threads(shared(x, _ROOM), state, thread, width, 1, thread)
        m, delta, var, scale = finished(state, eps)
        scaled_rstd, x_rstd = rstd_of(var, eps, scale)
        if thread == 0 and row < statistic_count:
            store_mean(mean, row, m * scale_of(scale))
            store(rstd, row, x_rstd)
        found = first_of(join(m, mean_h_of_delta(delta, scaled_rstd), scaled_rstd, scale), shared(x, 4))
        m, mean_h, scaled_rstd, scale = lane(found, 0), lane(found, 1), lane(found, 2), lane(found, 3)
        values, place = registers(x, lanes, APPLY_TERMS), thread
        while place < vectors:
            for k in each(APPLY_TERMS):
                if place + k * width < vectors:
                    values[k] = load(x, start + (place + k * width) * lanes, lanes) * scale
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    column_weight = parameter(weight, c, weight_count, 1.0)
                    column_bias = bias_at(bias, c, bias_count, 0.0)
                    x_hat = normalize(values[k], m, scaled_rstd, mean_h)
                    store(y, start + c, affine(x_hat, column_weight, column_bias))
            place += APPLY_TERMS * width

    values, size = types.CPointer(dtype), types.int64
    return Kernel(kernel, (*[values] * 3, dtype, dtype, *[values] * 3, *[size] * 5), 2 * SLOTS)


@factory
def long_rows_backward(norm, dtype, lanes):
    """Make a kernel that writes dx (rows, cols), and the mean of h of each row to mean_h (rows,).

    The mean of h is not 0 where the stored mean of the row was rounded.
    """
    parameter, load_mean, store_mean_h = parameter_at(lanes), norm.of_mean(load), norm.of_mean(store)

    @device
    def factor(place, geometry, weight):
        pointer, weight_count = weight
        return parameter(pointer, place * lanes, weight_count, 1.0)

    gradients_of, kind = norm.summed_gradients(lanes, GRADIENT_TERMS, source_of(lanes), factor), norm.gradient_kind
    of_threads, of_all_lanes = states(kind, 1).of_threads, states(kind, lanes).of_all_lanes
    first_of, terms_of, halved = group(SLOTS).first, norm.terms, norm.halved

    def kernel(dy, x, mean, rstd, weight, dx, mean_h, rows, cols, weight_count):
        row, thread, width = types.int64(cuda.blockIdx.x), types.int64(cuda.threadIdx.x), cuda.blockDim.x
        start, vectors = row * cols, cols // lanes
        m, r = load_mean(mean, row, 1), load(rstd, row, 1)
        state = gradients_of(x, dy, x, m, r, (weight, weight_count), x, thread, vectors, width, (start,))
        state = of_threads(shared(x, _ROOM), of_all_lanes(state), thread, width, 1, thread)
        m_wdy, slope, offset, row_mean_h = terms_of(state, r)
        scale, m, scaled_rstd = halved(m, r)
        found = first_of(join(m_wdy, slope, offset, row_mean_h), shared(x, 4))
        m_wdy, slope, offset = lane(found, 0), lane(found, 1), lane(found, 2)
        if thread == 0:
            store_mean_h(mean_h, row, lane(found, 3))
        hs, gs, place = registers(x, lanes, APPLY_TERMS), registers(x, lanes, APPLY_TERMS), thread
        while place < vectors:
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    hs[k] = scaled_difference(load(x, start + c, lanes) * scale, m, scaled_rstd)
                    column_weight = parameter(weight, c, weight_count, 1.0)
                    gs[k] = shifted_gradient(load(dy, start + c, lanes), column_weight, m_wdy)
            for k in each(APPLY_TERMS):
                c = (place + k * width) * lanes
                if c < cols:
                    store(dx, start + c, input_gradient(gs[k], hs[k], r, slope, offset))
            place += APPLY_TERMS * width

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 3))
