"""Launch layer and RMS normalization over the columns of x (rows, cols), or over the middle axis of x (N, count, L).

RMS normalization has no mean, bias and dbias: these are runs of no values at address 0.
"""

from functools import lru_cache

from numbanorm.cuda.grids import block_for, lanes_for, type_of
from numbanorm.cuda.kernels.columns import columns_backward, columns_forward
from numbanorm.cuda.kernels.long_rows import long_rows_backward, long_rows_forward
from numbanorm.cuda.kernels.rows import BLOCK, MOST_GRADIENT_THREADS, MOST_THREADS, rows_backward, rows_forward
from numbanorm.cuda.kernels.states import SLOTS
from numbanorm.cuda.kernels.sums import column_sums, parameter_gradients
from numbanorm.cuda.vectors.reduce import WARP

_HELD, _STEPS = 128, 16  # bytes of a row that a thread holds at most, and steps in which it loads them at most
_FEW = 4  # threads to a row of a tile of few columns
_BUSY = 1 << 15  # threads that keep a GPU busy
_CHUNK = 16  # rows at most to a partial sum of the parameters' gradients, which may be float32


@lru_cache(1 << 10)
def group_of(cols, lanes, itemsize, most):
    """Return how many threads share a row, and in how many steps they load it.

    Both are 0 if registers cannot hold the row.
    """
    vectors, most_steps = -(-cols // lanes), min(_STEPS, _HELD // (lanes * itemsize))
    for threads in (2, 8, 16, WARP):
        if vectors <= threads:
            return threads, 1
    steps = 2
    while steps < most_steps and vectors > steps * WARP:
        steps *= 2
    if vectors <= steps * WARP:
        return WARP, steps
    threads = 2 * WARP
    while threads <= most and vectors > steps * threads:
        threads *= 2
    return (threads, steps) if threads <= most else (0, 0)


def _block_of(threads):
    """Return the shape of a block of groups of so many threads.

    A group of several warps has a block, with its shared memory, for itself.
    """
    return threads, BLOCK // threads if threads <= WARP else 1


def forward(norm, call, x, weight, bias, eps, y, mean, rstd):
    """Fill y, and mean and rstd if they are there."""
    N, count, L = call.planes
    if L == 1:
        _rows_forward(norm, call, x, weight, bias, eps, y, mean, rstd, N, count)
    else:
        _columns_forward(norm, call, x, weight, bias, eps, y, mean, rstd, N, count, L)


def backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Fill dx, dweight and dbias."""
    N, count, L = call.planes
    if L == 1:
        _rows_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, N, count)
    else:
        _columns_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, N, count, L)


def _rows_forward(norm, call, x, weight, bias, eps, y, mean, rstd, rows, cols):
    """Fill y, and mean and rstd if they are there.

    x, y: (rows, cols); weight, bias: (cols,), or none; mean, rstd: (rows,), or both none.
    """
    dtype, lanes = type_of(x.dtype), lanes_for(cols, x, weight, bias, y)
    threads, steps = group_of(cols, lanes, x.dtype.itemsize, MOST_THREADS)
    arguments = x, weight, bias, eps, cols, y, mean, rstd, rows, cols, weight.size, bias.size, rstd.size
    if threads:
        block = _block_of(threads)
        call.launch(rows_forward(norm, dtype, lanes, steps, threads), -(-rows // block[1]), block, *arguments)
    else:
        call.launch(long_rows_forward(norm, dtype, lanes), rows, (SLOTS, 1), *arguments)


def _rows_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, rows, cols):
    """Fill dx, dweight and dbias.

    dy, x, dx: (rows, cols); mean, rstd: (rows,); weight: (cols,), or none; dweight, dbias: (cols,).
    """
    dtype, lanes = type_of(x.dtype), lanes_for(cols, dy, x, weight, dx)
    threads, steps = group_of(cols, lanes, x.dtype.itemsize, MOST_GRADIENT_THREADS)
    if not threads:
        _long_rows_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, rows, cols)
        return
    block = _block_of(threads)
    chunk = max(1, min(_CHUNK, rows * threads // _BUSY))
    chunks = -(-rows // chunk)
    (partials,) = call.scratch(x.dtype, norm.parameters * chunks * cols)
    arguments = dy, x, mean, rstd, weight, cols, dx, partials, rows, cols, weight.size, chunk, chunks
    call.launch(rows_backward(norm, dtype, lanes, steps, threads), -(-chunks // block[1]), block, *arguments)
    _add_partials(norm, call, dtype, partials, dweight, dbias, chunks, cols)


def _long_rows_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, rows, cols):
    """Fill dx, dweight and dbias, where rows are too long for `rows_backward`.

    dy and x are read again after dx has been written. So a dx in place of one of them is written elsewhere first.
    """
    dtype, in_place = type_of(x.dtype), dx.address in (dy.address, x.address)
    (written,) = call.scratch(x.dtype, rows * cols) if in_place else (dx,)
    lanes, (mean_h,) = lanes_for(cols, dy, x, weight, written), call.scratch(x.dtype, rows) if mean.size else (mean,)
    arguments = dy, x, mean, rstd, weight, written, mean_h, rows, cols, weight.size
    call.launch(long_rows_backward(norm, dtype, lanes), rows, (SLOTS, 1), *arguments)
    arguments = dy, x, mean, rstd, mean_h, dweight, dbias, rows, cols
    call.launch(parameter_gradients(norm, dtype), -(-cols // WARP), (WARP, SLOTS // WARP), *arguments)
    if in_place:
        call.copy(written, dx)


def _add_partials(norm, call, dtype, partials, dweight, dbias, pieces, cols):
    arguments = partials, dweight, dbias, pieces, cols
    columns = norm.parameters * cols
    block = block_for(columns)
    call.launch(column_sums(norm, dtype), -(-columns // block[0]), block, *arguments)


def _tiling(L, lanes):
    """Return the shape of a block of threads for a tile of columns, and how many tiles L columns are."""
    threads = _FEW if _FEW * lanes >= L else WARP
    return (threads, SLOTS // threads), -(-L // (lanes * threads))


def _columns_forward(norm, call, x, weight, bias, eps, y, mean, rstd, N, count, L):
    """Fill y, and mean and rstd if they are there.

    x, y: (N, count, L); weight, bias: (count,), or none; mean, rstd: (N, L), or both none.
    """
    lanes = lanes_for(L, x, y, mean, rstd)
    block, tiles = _tiling(L, lanes)
    arguments = x, weight, bias, eps, y, mean, rstd, count, L, tiles, weight.size, bias.size, N if rstd.size else 0
    call.launch(columns_forward(norm, type_of(x.dtype), lanes), N * tiles, block, *arguments)


def _columns_backward(norm, call, dy, x, mean, rstd, weight, dx, dweight, dbias, N, count, L):
    """Fill dx, dweight and dbias.

    dy, x, dx: (N, count, L); mean, rstd: (N, L); weight: (count,), or none; dweight, dbias: (count,).
    """
    dtype, lanes = type_of(x.dtype), lanes_for(L, dy, x, dx, mean, rstd)
    block, tiles = _tiling(L, lanes)
    (partials,) = call.scratch(x.dtype, norm.parameters * N * tiles * count)
    arguments = dy, x, mean, rstd, weight, dx, partials, count, L, tiles, weight.size
    call.launch(columns_backward(norm, dtype, lanes, block[0]), N * tiles, block, *arguments)
    _add_partials(norm, call, dtype, partials, dweight, dbias, N * tiles, count)
