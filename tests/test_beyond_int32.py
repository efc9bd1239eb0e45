"""Arrays of more values than an int32 counts, each night.

Inputs are a block of values mapped over and over, so that only results take memory; and so that sums over all of an
input are sums over the block, of each value times how often it is there.
"""

import ctypes
import mmap
import os
import sys
from math import gcd, prod
from pathlib import Path

import numpy as np
import pytest

from numbanorm import batch_norm, batch_norm_backward, batch_norm_forward, layer_norm_backward, layer_norm_forward
from tests import reference
from tests.cases import assert_normalized, assert_within, gradient_bounds, tolerance, values

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(sys.platform != "linux", reason="maps memory as Linux does")]

PERIOD = 1009 * 1024  # values to a block: a prime number of pages
ROWS = 33_554_440, 65
UNIT = tolerance(np.float32)


def needs(gigabytes):
    """Skip where the system could not give so much."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1e6
    if available < gigabytes:
        pytest.skip(f"needs {gigabytes} GB of memory, {available:.1f} GB are available")


class Tiled:
    """A read-only float32 array that is a block over and over."""

    def __init__(self, block, shape):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype, nbytes = ctypes.c_void_p, -(-4 * prod(shape) // block.nbytes) * block.nbytes
        libc.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long
        file = os.memfd_create("block")
        os.write(file, block)
        self.whole = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.whole))
        for place in range(address, address + nbytes, block.nbytes):
            fixed = mmap.MAP_SHARED | 0x10  # MAP_FIXED
            if libc.mmap(place, block.nbytes, mmap.PROT_READ, fixed, file, 0) != place:
                raise OSError(ctypes.get_errno(), "mmap")
        os.close(file)
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": "<f4", "data": (address, True)}


BLOCKS = values(PERIOD, offset=3), values(PERIOD, offset=0.5, seed=2)


@pytest.fixture(scope="module")
def memory():
    """Of all results, one after the other."""
    needs(12)
    return np.empty(2_500_000_000, np.float32)


def inputs(shape, memory):
    """x and dy, and out."""
    assert 2**31 < prod(shape) <= memory.size
    return *(np.asarray(Tiled(block, shape)) for block in BLOCKS), memory[: prod(shape)].reshape(shape)


def places(size, width=5000):
    """Some at the start, where int32 counts of bytes and of values end, and at the end."""
    return [(max(0, middle - width), min(size, middle + width)) for middle in (0, 2**29, 2**30, 2**31, size)]


def times(N, C, L, c):
    """How often each value of a block is in channel c of x (N, C, L)."""
    cycle = PERIOD // gcd(PERIOD, C * L)  # in n
    starts = (np.arange(min(N, cycle)) * (C * L) + c * L) % PERIOD
    full, rest = divmod(L, PERIOD)

    def ends(starts, N):
        whole, last = divmod(N, cycle)
        return whole * np.bincount(starts, minlength=2 * PERIOD) + np.bincount(starts[:last], minlength=2 * PERIOD)

    inside = np.cumsum(ends(starts, N) - ends(starts + rest, N))
    return inside[:PERIOD] + inside[PERIOD:] + full * N


@pytest.mark.parametrize("shape", [ROWS, (700_000, 64, 49), (2, 3, 400_000_000)])
def test_batch_norm(shape, memory):
    x, dy, out = inputs(shape, memory)
    N, C, L = (*shape, 1)[:3]
    weight, bias = values((2, C), seed=1)
    running_mean, running_var = np.zeros(C), np.zeros(C)
    block, block_dy = (a.astype(np.float64) for a in BLOCKS)
    mean, var, sum_dy, sum_dy_x_hat, dy_terms, dy_x_hat_terms = np.empty((6, C))
    for c in range(C):
        count = times(N, C, L, c)
        mean[c] = (count * block).sum() / (N * L)
        var[c] = (count * (block - mean[c]) ** 2).sum() / (N * L)
        dy_x_hat = block_dy * (block - mean[c]) / np.sqrt(var[c] + 1e-5)
        for sums, terms in ((sum_dy, block_dy), (sum_dy_x_hat, dy_x_hat)):
            sums[c] = (count * terms).sum()
        dy_terms[c], dy_x_hat_terms[c] = (count * np.abs(block_dy)).sum(), (count * np.abs(dy_x_hat)).sum()
    rstd = 1 / np.sqrt(var + 1e-5)

    def compare(result, gradient=False):
        flat, flat_x, flat_dy = (a.reshape(-1) for a in (result, x, dy))
        for start, end in places(x.size):
            c = np.arange(start, end) // L % C
            x_hat = (flat_x[start:end].astype(np.float64) - mean[c]) * rstd[c]
            if gradient:
                terms = flat_dy[start:end], -sum_dy[c] / (N * L), -x_hat * sum_dy_x_hat[c] / (N * L)
                scale, magnitudes = weight[c] * rstd[c], sum(np.abs(term) for term in terms)
                largest = (np.abs(scale) * magnitudes).max()  # of these, and so no more than of the channels
                assert_within(flat[start:end], scale * sum(terms), UNIT * largest)
            else:
                assert_normalized(flat[start:end], x_hat * weight[c] + bias[c], x_hat, weight[c])

    y, own_mean, own_rstd = batch_norm_forward(x, weight, bias, running_mean, running_var, momentum=1.0, out=out)
    compare(y)
    assert_within(running_mean, mean, UNIT * np.sqrt(var) / 8)
    assert_within(running_var, var * (N * L / (N * L - 1)), UNIT * var / 4)
    assert_within(own_rstd, rstd, UNIT * rstd / 4)
    out.fill(np.nan)
    compare(batch_norm(x, mean, var, weight, bias, out=out))
    out.fill(np.nan)
    dx, dweight, dbias = batch_norm_backward(dy, x, own_mean, own_rstd, weight, out=out)
    compare(dx, gradient=True)
    assert_within(dweight, sum_dy_x_hat, UNIT * (dy_x_hat_terms + dy_terms))
    assert_within(dbias, sum_dy, UNIT * dy_terms)


def test_layer_norm_rows(memory):
    x, dy, out = inputs(ROWS, memory)
    rows, cols = ROWS
    weight, bias = values((2, cols), seed=1)
    y, mean, rstd = layer_norm_forward(x, weight, bias, out=out)
    ranges = [(start // cols, -(-end // cols)) for start, end in places(x.size)]
    for start, end in ranges:
        expected = reference.layer_norm_forward(x[start:end], weight, bias, -1)
        assert_normalized(y[start:end], expected.y, expected.x_hat, weight)
    out.fill(np.nan)
    dx, dweight, dbias = layer_norm_backward(dy, x, mean, rstd, weight, out=out)
    for start, end in ranges:
        expected = reference.layer_norm_backward(dy[start:end], x[start:end], weight, -1)
        assert_within(dx[start:end], expected.dx, gradient_bounds(expected, x.dtype).dx)

    whole, rest = divmod(rows, PERIOD)  # rows repeat after so many, since cols and PERIOD have no factor in common
    sums = np.zeros((4, cols))
    for start, end, often in ((0, rest, whole + 1), (rest, PERIOD, whole)):
        for first in range(start, end, 50_000):
            some = slice(first, min(first + 50_000, end))
            expected = reference.layer_norm_backward(dy[some], x[some], weight, -1)
            sums += often * np.array([expected.dweight, expected.dweight_terms, expected.dbias, expected.dbias_terms])
    assert_within(dweight, sums[0], UNIT * (sums[1] + sums[3]))
    assert_within(dbias, sums[2], UNIT * sums[3])


def test_layer_norm_of_two_rows(memory):
    """Forward: gradients of so long a weight and bias would take more memory than there is."""
    shape = rows, cols = 2, 1_080_000_000
    x, _, out = inputs(shape, memory)
    needs(10)  # for a weight of ones and a bias of zeros, beside the results
    y, own_mean, own_rstd = layer_norm_forward(x, out=out)
    block = BLOCKS[0].astype(np.float64)
    for row in range(rows):
        count = times(1, rows, cols, row)
        mean = (count * block).sum() / cols
        std = np.sqrt((count * (block - mean) ** 2).sum() / cols + 1e-5)
        for start, end in places(cols):
            x_hat = (x[row, start:end].astype(np.float64) - mean) / std
            assert_normalized(y[row, start:end], x_hat, x_hat)
        assert_within(own_mean[row, 0], mean, UNIT * std / 8)
        assert_within(own_rstd[row, 0], 1 / std, UNIT / std / 4)


def test_layer_norm_of_a_middle_axis(memory):
    """All but dweight, which the reference would take minutes for."""
    shape = N, count, L = 2, 300, 3_600_000
    x, dy, out = inputs(shape, memory)
    weight, bias = values((2, count), seed=1)
    columns = [np.s_[n : n + 1, :, start : start + 50] for n in (0, 1) for start in (0, L // 2, L - 50)]
    y, mean, rstd = layer_norm_forward(x, weight, bias, axis=1, out=out)
    for some in columns:
        expected = reference.layer_norm_forward(x[some], weight, bias, 1)
        assert_normalized(y[some], expected.y, expected.x_hat, weight[:, None])
    out.fill(np.nan)
    dx, _, dbias = layer_norm_backward(dy, x, mean, rstd, weight, axis=1, out=out)
    for some in columns:
        expected = reference.layer_norm_backward(dy[some], x[some], weight, 1)
        assert_within(dx[some], expected.dx, gradient_bounds(expected, x.dtype).dx)
    for k in (0, count // 2, count - 1):
        often = times(N, count, L, k)
        assert_within(dbias[k], (often * BLOCKS[1]).sum(), UNIT * (often * np.abs(BLOCKS[1])).sum())


def test_a_broadcast_column_and_in_place(memory):
    """A copy of x is made on the way; or x itself is where y goes."""
    N, C = ROWS
    column, (weight, bias) = values((N, 1), offset=3), values((2, C), seed=1)
    mean, std = column.mean(dtype=np.float64), np.sqrt(column.var(dtype=np.float64) + 1e-5)
    out = memory[: N * C].reshape(ROWS)

    def compare(y):
        for start, end in places(y.size):
            x_hat = (column[start // C : -(-end // C)] - mean) / std
            expected = x_hat * weight + bias
            assert_normalized(y[start // C : -(-end // C)], expected, np.broadcast_to(x_hat, expected.shape), weight)

    np.copyto(out, column)
    compare(batch_norm_forward(out, weight, bias, out=out).y)
    needs(9.5)
    compare(batch_norm_forward(np.broadcast_to(column, ROWS), weight, bias, out=out).y)
