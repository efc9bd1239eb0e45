"""Compute the gradients of the parameters of layer and RMS normalization: sums over rows, by columns."""

from numbanorm._math import two_sum
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.kernels.states import SLOTS
from numbanorm.cuda.vectors.memory import each, load, registers, shared, store
from numbanorm.cuda.vectors.simd import join, lane, number

TERMS = 8  # values that a thread loads before it adds them
_ROOM = 2 * SLOTS


@device
def _added(a, b):
    """Add two numbers of two parts each, which are the lanes of a vector."""
    total, lost = two_sum(lane(a, 0), lane(b, 0))
    return join(total, lane(a, 1) + lane(b, 1) + lost)


@device
def _of_threads(room, thread_sum):
    """Return to the first row of threads the sums over all rows of threads, whose number is a power of two.

    Nobody writes where another has read, so one barrier a step is enough.
    """
    thread_row, slot = cuda.threadIdx.y, cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    half = cuda.blockDim.y // 2
    while half > 0:
        if half <= thread_row < 2 * half:
            store(room, 2 * slot, thread_sum)
        cuda.syncthreads()
        if thread_row < half:
            thread_sum = _added(thread_sum, load(room, 2 * (slot + half * cuda.blockDim.x), 2))
        half //= 2
    return lane(thread_sum, 0) + lane(thread_sum, 1)


@factory
def column_sums(norm, dtype):
    """Make a kernel that writes the sums of partials (pieces, parameters, cols) to dweight and dbias (cols,)."""
    parameters, store_dbias = norm.parameters, norm.of_bias(store)

    def kernel(partials, dweight, dbias, pieces, cols):
        column = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        thread_sum, zero = number(0.0, partials, 2), number(0.0, partials, 1)
        values, piece = registers(partials, 1, TERMS), types.int64(cuda.threadIdx.y)
        while piece < pieces and column < parameters * cols:
            for k in each(TERMS):
                entry = piece + k * cuda.blockDim.y
                values[k] = zero
                if entry < pieces:
                    values[k] = load(partials, entry * parameters * cols + column, 1)
            for k in each(TERMS):
                thread_sum = _added(thread_sum, join(values[k], zero))
            piece += TERMS * cuda.blockDim.y
        result = _of_threads(shared(partials, _ROOM), thread_sum)
        if cuda.threadIdx.y == 0 and column < cols:
            store(dweight, column, result)
        elif cuda.threadIdx.y == 0 and column < parameters * cols:
            store_dbias(dbias, column - cols, result)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 3, *[types.int64] * 2))


@factory
def parameter_gradients(norm, dtype):
    """Make a kernel that writes dweight and dbias (cols,), from dy and x (rows, cols).

    mean, rstd and mean_h are (rows,). The kernel is for rows too long for registers to hold their sums beside them.
    """
    x_hat_again, dbias_of_threads, store_dbias = norm.x_hat_again, norm.of_bias(_of_threads), norm.of_bias(store)

    def kernel(dy, x, mean, rstd, mean_h, dweight, dbias, rows, cols):
        column = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        sum_dy_x_hat, sum_dy, zero = number(0.0, x, 2), number(0.0, x, 2), number(0.0, x, 1)
        row, step = types.int64(cuda.threadIdx.y), cuda.blockDim.y
        dys, x_hats = registers(x, 1, TERMS), registers(x, 1, TERMS)
        while row < rows and column < cols:
            for k in each(TERMS):
                entry = row + k * step
                dys[k] = x_hats[k] = zero
                if entry < rows:
                    dys[k] = load(dy, entry * cols + column, 1)
                    x_hats[k] = x_hat_again(x, entry * cols + column, mean, rstd, mean_h, entry)
            for k in each(TERMS):
                sum_dy_x_hat = _added(sum_dy_x_hat, join(dys[k] * x_hats[k], zero))
                sum_dy = _added(sum_dy, join(dys[k], zero))
            row += TERMS * step
        column_dweight = _of_threads(shared(x, _ROOM), sum_dy_x_hat)
        column_dbias = dbias_of_threads(shared(x, _ROOM), sum_dy)
        if cuda.threadIdx.y == 0 and column < cols:
            store(dweight, column, column_dweight)
            store_dbias(dbias, column, column_dbias)

    return Kernel(kernel, (*[types.CPointer(dtype)] * 7, *[types.int64] * 2))
