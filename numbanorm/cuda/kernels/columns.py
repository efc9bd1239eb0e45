"""Normalise x (N, count, L) over its middle axis, by layer or RMS normalization.

x is read twice, the second time from the caches. A block takes a tile of columns of one of the N, a thread a
vector of columns and some of the `count` rows.
"""

from numbanorm._math import affine, input_gradient, mean_h_of_delta, scaled_difference, shifted_gradient
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.runs import Source, always
from numbanorm.cuda.kernels.states import FIELDS, SLOTS, states
from numbanorm.cuda.vectors.memory import load, parameter_at, shared, store
from numbanorm.cuda.vectors.reduce import group
from numbanorm.cuda.vectors.simd import number, total
from numbanorm.cuda.vectors.units import rstd_of, scale_of

TERMS, GRADIENT_TERMS = 8, 4  # vectors that a thread loads before it uses them


@device
def _address(row, geometry):
    start, L = geometry
    return start + row * L


@device
def _place_of_thread(tiles, lanes, L):
    """Return which of the N this thread works on, and its first column."""
    tile = types.int64(cuda.blockIdx.x % tiles)
    return types.int64(cuda.blockIdx.x // tiles), (tile * cuda.blockDim.x + cuda.threadIdx.x) * lanes


def _shared_by_rows(lanes):
    """Make a device function that gives four vectors of the first row of threads to the threads of all rows."""

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
def columns_forward(norm, dtype, lanes):
    """Make a kernel that writes y, mean and rstd.

    x, y: (N, count, L); weight, bias: (count,); mean, rstd: (N, L). The weight has `weight_count` values and the bias
    `bias_count`: count, or 0 where it is not given. The statistics are stored if `statistic_count` is N, not 0. `tiles`
    neighbouring blocks take one of the N.
    """
    moments_of, finished = norm.summed(lanes, TERMS, Source(_address, always)), norm.finished
    of_threads, of_first_row = states(norm.kind, lanes).of_threads, _shared_by_rows(lanes)
    normalize, store_mean, bias_at = norm.normalize, norm.of_mean(store), norm.of_bias(_number_at)
    room, row_room = lanes * FIELDS * SLOTS, 4 * 32 * lanes

    def kernel(x, weight, bias, eps, y, mean, rstd, count, L, tiles, weight_count, bias_count, statistic_count):
        n, column = _place_of_thread(tiles, lanes, L)
        thread_row, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        start, end = n * count * L + column, count if column < L else 0
        state = moments_of(x, x, x, thread_row, end, step, (start, L))
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        state = of_threads(shared(x, room), state, thread_row, step, cuda.blockDim.x, slot)
        m, delta, var, scale = finished(state, eps)
        scaled_rstd, x_rstd = rstd_of(var, eps, scale)
        if thread_row == 0 and n < statistic_count and column < L:
            store_mean(mean, n * L + column, m * scale_of(scale))
            store(rstd, n * L + column, x_rstd)
        mean_h = mean_h_of_delta(delta, scaled_rstd)
        m, mean_h, scaled_rstd, scale = of_first_row(shared(x, row_room), m, mean_h, scaled_rstd, scale)
        for row in range(thread_row, end, step):
            place = start + row * L
            x_hat = normalize(load(x, place, lanes) * scale, m, scaled_rstd, mean_h)
            row_weight = _number_at(weight, row, weight_count, 1.0)
            row_bias = bias_at(bias, row, bias_count, 0.0)
            store(y, place, affine(x_hat, row_weight, row_bias))

    values, size = types.CPointer(dtype), types.int64
    return Kernel(kernel, (*[values] * 3, dtype, *[values] * 3, *[size] * 6))


@factory
def columns_backward(norm, dtype, lanes, threads):
    """Make a kernel that writes dx, and the sums of dy * x_hat and of dy over the columns of a tile.

    dy, x, dx: (N, count, L); mean, rstd: (N, L); weight: (count,), of which `weight_count` values are given. The sums
    are written to partials (N * tiles, parameters, count). A row of a block's threads, `threads` of them, shares the
    columns of a tile.
    """

    @device
    def factor(row, geometry, weight):
        pointer, weight_count = weight
        return _number_at(pointer, row, weight_count, 1.0)

    gradients_of = norm.summed_gradients(lanes, GRADIENT_TERMS, Source(_address, always), factor)
    of_threads, of_first_row = states(norm.gradient_kind, lanes).of_threads, _shared_by_rows(lanes)
    load_mean, halved, terms_of, parameters = norm.of_mean(load), norm.halved, norm.terms, norm.parameters
    sum_over, dbias_over, store_dbias = group(threads).sum, norm.of_bias(group(threads).sum), norm.of_bias(store)
    room, row_room = lanes * FIELDS * SLOTS, 4 * 32 * lanes

    def kernel(dy, x, mean, rstd, weight, dx, partials, count, L, tiles, weight_count):
        n, column = _place_of_thread(tiles, lanes, L)
        thread_row, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        start, end = n * count * L + column, count if column < L else 0
        m, r = number(0.0, x, lanes), number(0.0, x, lanes)
        if column < L:
            m, r = load_mean(mean, n * L + column, lanes), load(rstd, n * L + column, lanes)
        state = gradients_of(x, dy, x, m, r, (weight, weight_count), x, thread_row, end, step, (start, L))
        slot = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        state = of_threads(shared(x, room), state, thread_row, step, cuda.blockDim.x, slot)
        m_wdy, slope, offset, mean_h = terms_of(state, r)
        m_wdy, slope, offset, mean_h = of_first_row(shared(x, row_room), m_wdy, slope, offset, mean_h)
        scale, m, scaled_rstd = halved(m, r)
        first = types.int64(0)
        while first < count:
            row, zero = first + thread_row, number(0.0, x, lanes)
            sum_dy_x_hat, sum_dy = zero, zero
            if row < end:
                place = start + row * L
                sum_dy, h = load(dy, place, lanes), scaled_difference(load(x, place, lanes) * scale, m, scaled_rstd)
                sum_dy_x_hat = sum_dy * (h - mean_h)
                g = shifted_gradient(sum_dy, _number_at(weight, row, weight_count, 1.0), m_wdy)
                store(dx, place, input_gradient(g, h, r, slope, offset))
            row_dweight, row_dbias = sum_over(total(sum_dy_x_hat), partials), dbias_over(total(sum_dy), partials)
            if cuda.threadIdx.x == 0 and row < count:
                store(partials, parameters * cuda.blockIdx.x * count + row, row_dweight)
                store_dbias(partials, (parameters * cuda.blockIdx.x + 1) * count + row, row_dbias)
            first += step

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 4))
