"""Gradients of the parameters of layer normalization: sums over rows, by columns."""

from numbanorm._math import scaled_difference, two_sum
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.states import SLOTS
from numbanorm.cuda.vectors.memory import each, load, registers, shared, store
from numbanorm.cuda.vectors.simd import join, lane, number

TERMS = 8  # values that a thread loads before it adds them
_ROOM = 2 * SLOTS


@device
def _added(a, b):
    """The sum of two numbers in two parts each, as vectors of two lanes."""
    total, lost = two_sum(lane(a, 0), lane(b, 0))
    return join(total, lane(a, 1) + lane(b, 1) + lost)


@device
def _of_threads(room, own_sum):
    """For the first row of threads, the sums over all rows, which are a power of two; one barrier a step is enough, as
    nobody writes where another has read.
    """
    own, slot = cuda.threadIdx.y, cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    half = cuda.blockDim.y // 2
    while half > 0:
        if half <= own < 2 * half:
            store(room, 2 * slot, own_sum)
        cuda.syncthreads()
        if own < half:
            own_sum = _added(own_sum, load(room, 2 * (slot + half * cuda.blockDim.x), 2))
        half //= 2
    return lane(own_sum, 0) + lane(own_sum, 1)


@factory
def column_sums(dtype):
    """dweight and dbias (cols,) of partials (pieces, 2, cols)."""

    def kernel(partials, dweight, dbias, pieces, cols):
        column = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        own_sum, zero = number(0.0, partials, 2), number(0.0, partials, 1)
        values, piece = registers(partials, 1, TERMS), types.int64(cuda.threadIdx.y)
        while piece < pieces and column < 2 * cols:
            for k in each(TERMS):
                own = piece + k * cuda.blockDim.y
                values[k] = zero
                if own < pieces:
                    values[k] = load(partials, own * 2 * cols + column, 1)
            for k in each(TERMS):
                own_sum = _added(own_sum, join(values[k], zero))
            piece += TERMS * cuda.blockDim.y
        result = _of_threads(shared(partials, _ROOM), own_sum)
        if cuda.threadIdx.y == 0 and column < cols:
            store(dweight, column, result)
        elif cuda.threadIdx.y == 0 and column < 2 * cols:
            store(dbias, column - cols, result)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 3, *[types.int64] * 2))


@factory
def parameter_gradients(dtype):
    """dweight and dbias (cols,) of dy and x (rows, cols), with mean, rstd and mean_h (rows,): where rows are too long
    for their sums to be held beside them.
    """

    def kernel(dy, x, mean, rstd, mean_h, dweight, dbias, rows, cols):
        column = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        sum_dy_x_hat, sum_dy, zero = number(0.0, x, 2), number(0.0, x, 2), number(0.0, x, 1)
        row, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        dys, x_hats = registers(x, 1, TERMS), registers(x, 1, TERMS)
        while row < rows and column < cols:
            for k in each(TERMS):
                own = row + k * step
                dys[k] = x_hats[k] = zero
                if own < rows:
                    dys[k] = load(dy, own * cols + column, 1)
                    # half of h, for the difference may be beyond the range
                    value, m = load(x, own * cols + column, 1) * 0.5, load(mean, own, 1) * 0.5
                    x_hats[k] = 2.0 * scaled_difference(value, m, load(rstd, own, 1)) - load(mean_h, own, 1)
            for k in each(TERMS):
                sum_dy_x_hat = _added(sum_dy_x_hat, join(dys[k] * x_hats[k], zero))
                sum_dy = _added(sum_dy, join(dys[k], zero))
            row += TERMS * step
        own_dweight = _of_threads(shared(x, _ROOM), sum_dy_x_hat)
        own_dbias = _of_threads(shared(x, _ROOM), sum_dy)
        if cuda.threadIdx.y == 0 and column < cols:
            store(dweight, column, own_dweight)
            store(dbias, column, own_dbias)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 2))
