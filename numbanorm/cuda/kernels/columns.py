"""Layer normalization over the middle axis of x (N, count, L): x is read twice, the second time from the caches.

A block takes a tile of columns of one of the N, a thread a vector of columns and some of the `count` rows.
"""

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
from numbanorm.cuda.vectors.memory import load, parameter_at, shared, store
from numbanorm.cuda.vectors.reduce import group
from numbanorm.cuda.vectors.simd import number, total
from numbanorm.cuda.vectors.units import halved, rstd_of, scale_of

TERMS, GRADIENT_TERMS = 8, 4  # vectors that a thread loads before it uses them


@device
def _address(row, geometry):
    start, L = geometry
    return start + row * L


@device
def _own_column(tiles, lanes, L):
    """Which of the N, and the thread's first column."""
    tile = types.int64(cuda.blockIdx.x % tiles)
    return types.int64(cuda.blockIdx.x // tiles), (tile * cuda.blockDim.x + cuda.threadIdx.x) * lanes


def _shared_by_rows(lanes):
    """A device function: four vectors of the first row of threads, for those of all rows."""

    @device
    def of_first_row(room, a, b, c, d):
        column, step = cuda.threadIdx.x * lanes, cuda.blockDim.x * lanes
        if cuda.threadIdx.y == 0:
            store(room, column, a)
            store(room, column + step, b)
            store(room, column + 2 * step, c)
            store(room, column + 3 * step, d)
        cuda.syncthreads()
        a, b = load(room, column, lanes), load(room, column + step, lanes)
        return a, b, load(room, column + 2 * step, lanes), load(room, column + 3 * step, lanes)

    return of_first_row


_number_at = parameter_at(1)


@factory
def columns_forward(dtype, lanes):
    """x, y: (N, count, L); weight, bias: (count,), of which `weights` and `biases` are there; mean, rstd: (N, L), if
    `kept` is N, or nothing if it is 0. `tiles` blocks in a row take one of the N.
    """
    moments_of, of = summed_moments(lanes, TERMS, Source(_address, always)), states(merge, lanes)
    of_threads, of_first_row = of.of_threads, _shared_by_rows(lanes)
    room, row_room = lanes * FIELDS * SLOTS, 4 * 32 * lanes

    def kernel(x, weight, bias, eps, y, mean, rstd, count, L, tiles, weights, biases, kept):
        n, column = _own_column(tiles, lanes, L)
        own, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        start, end = n * count * L + column, count if column < L else 0
        state = moments_of(x, x, x, own, end, step, (start, L))
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        state = of_threads(shared(x, room), state, own, step, cuda.blockDim.x, slot)
        m, delta, var, scale = finished(state, eps)
        own_rstd, whole_rstd = rstd_of(var, eps, scale)
        if own == 0 and n < kept and column < L:
            store(mean, n * L + column, m * scale_of(scale))
            store(rstd, n * L + column, whole_rstd)
        m, mean_h, own_rstd, scale = of_first_row(shared(x, row_room), m, delta * own_rstd, own_rstd, scale)
        for row in range(own, end, step):
            place = start + row * L
            x_hat = normalize(load(x, place, lanes) * scale, m, own_rstd, mean_h)
            own_weight, own_bias = _number_at(weight, row, weights, 1.0), _number_at(bias, row, biases, 0.0)
            store(y, place, affine(x_hat, own_weight, own_bias))

    values, size = types.CPointer(dtype), types.int64
    return Kernel(kernel, (*[values] * 3, dtype, *[values] * 3, *[size] * 6))


@factory
def columns_backward(dtype, lanes, threads):
    """dy, x, dx: (N, count, L); mean, rstd: (N, L); weight: (count,), of which `weights` are there.

    partials (N * tiles, 2, count) get the sums of dy * x_hat and of dy over the columns of a tile, which `threads`
    threads, a block's row of them, share.
    """

    @device
    def factor(row, geometry, weight):
        pointer, weights = weight
        return _number_at(pointer, row, weights, 1.0)

    gradients_of = summed_gradients(lanes, GRADIENT_TERMS, Source(_address, always), factor)
    of_threads, of_first_row = states(merge_gradients, lanes).of_threads, _shared_by_rows(lanes)
    sum_over = group(threads).sum
    room, row_room = lanes * FIELDS * SLOTS, 4 * 32 * lanes

    def kernel(dy, x, mean, rstd, weight, dx, partials, count, L, tiles, weights):
        n, column = _own_column(tiles, lanes, L)
        own, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        start, end = n * count * L + column, count if column < L else 0
        m, r = number(0.0, x, lanes), number(0.0, x, lanes)
        if column < L:
            m, r = load(mean, n * L + column, lanes), load(rstd, n * L + column, lanes)
        state = gradients_of(x, dy, x, m, r, (weight, weights), x, own, end, step, (start, L))
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        state = of_threads(shared(x, room), state, own, step, cuda.blockDim.x, slot)
        values, mean_h, m_wdy, low, c, c_low = state
        slope, offset = input_gradient_of_means(mean_h, low, (c + c_low) / values, r)
        m_wdy, slope, offset, mean_h = of_first_row(shared(x, row_room), m_wdy, slope, offset, mean_h)
        scale, m, own_rstd = halved(m, r)
        first = types.int64(0)
        while first < count:
            row, zero = first + own, number(0.0, x, lanes)
            sum_dy_x_hat, sum_dy = zero, zero
            if row < end:
                place = start + row * L
                sum_dy, h = load(dy, place, lanes), scaled_difference(load(x, place, lanes) * scale, m, own_rstd)
                sum_dy_x_hat = sum_dy * (h - mean_h)
                g = shifted_gradient(sum_dy, _number_at(weight, row, weights, 1.0), m_wdy)
                store(dx, place, input_gradient(g, h, r, slope, offset))
            own_sum_dy_x_hat, own_sum_dy = sum_over(total(sum_dy_x_hat), partials), sum_over(total(sum_dy), partials)
            if cuda.threadIdx.x == 0 and row < count:
                store(partials, 2 * cuda.blockIdx.x * count + row, own_sum_dy_x_hat)
                store(partials, (2 * cuda.blockIdx.x + 1) * count + row, own_sum_dy)
            first += step

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 4))
