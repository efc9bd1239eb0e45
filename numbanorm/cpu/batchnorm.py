"""Choose the kernel of batch normalization for a shape, and take care of masks and of running statistics.

x is (N, C, L), a mask (N, L) or None, and what each channel has (C,).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from itertools import starmap
from operator import setitem
from typing import Any

import numpy as np

from numbanorm._math import unbiased_factor
from numbanorm._types import Array, Running, Shape
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import batches
from numbanorm.cpu.kernels.tiles import whole_channels
from numbanorm.cpu.layouts import behaved, packed, unpack
from numbanorm.cpu.rescaled import scaled_backward

_NO_STATISTIC, _NO_COUNT = np.empty(0), np.empty(0, np.int64)


def batch_norm(call: Any, x: Array, mean: Array, var: Array, weight: Array, bias: Array, eps: float, y: Array) -> bool:
    """Fill y and return True. If a variance is negative, write nothing and return False."""
    stream = not call.is_small and call.streams(2)
    return x.size == 0 or bool(batches.batch_norm(engine(), stream, x, mean, var, weight, bias, eps, y))


def batch_norm_forward(
    call: Any,
    x: Array,
    weight: Array,
    bias: Array,
    running: Running,
    eps: float,
    mask: Array | None,
    y: Array,
    mean: Array,
    rstd: Array,
) -> Callable[[], bool]:
    """Fill y, mean and rstd. Return a function that moves the running statistics, as `update_running` does."""
    if x.size == 0:
        mean.fill(np.nan)
        rstd.fill(np.nan)
        return _move_nothing
    exact_mean, var = np.empty(mean.size), np.empty(mean.size)
    if mask is None:
        count = call.count
        _forward(call, x, weight, bias, eps, y, exact_mean, rstd, var)
    else:
        rows = packed(x, mask)
        count, values = rows.shape[0], np.empty_like(rows)
        _forward(call, rows, weight, bias, eps, values, exact_mean, rstd, var)
        unpack(values, mask, y)
    mean[:] = exact_mean
    if running.mean is None and running.var is None:
        return _move_nothing
    return partial(update_running, call, running, exact_mean, var, count)


def _move_nothing() -> bool:
    return True


def _forward(
    call: Any, x: Array, weight: Array, bias: Array, eps: float, y: Array, mean: Array, rstd: Array, var: Array
) -> None:
    kernel = _forward_kernel(x.shape, x.itemsize)
    kernel(engine(), not call.is_small and call.streams(2), x, weight, bias, eps, y, mean, rstd, var)


def batch_norm_backward(
    call: Any,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    mask: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
) -> None:
    """Fill dx, dweight and dbias."""
    _backward(call, _backward_kernel, dy, x, mean, rstd, weight, mask, dx, dweight, dbias)


def batch_norm_backward_frozen(
    call: Any,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    mask: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
) -> None:
    """Do what `batch_norm_backward` does where mean and rstd, in float64, are constants."""
    rounded_rstd = rstd.astype(x.dtype, copy=False)
    _backward(call, _frozen_kernel, dy, x, mean, rounded_rstd, weight, mask, dx, dweight, dbias)


def _backward(
    call: Any,
    kernel_for: Callable[[Shape, int], Any],
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    mask: Array | None,
    dx: Array,
    dweight: Array,
    dbias: Array,
) -> None:
    """Fill dx, dweight and dbias by `kernel_for(shape, itemsize)` of the values that the mask leaves."""
    if x.size == 0:
        dweight.fill(0)
        dbias.fill(0)
        return
    if mask is not None:
        dy_rows, rows = packed(dy, mask), packed(x, mask)
        values = np.empty_like(rows)
        _backward(call, kernel_for, dy_rows, rows, mean, rstd, weight, None, values, dweight, dbias)
        unpack(values, mask, dx)
        return
    kernel = kernel_for(x.shape, x.itemsize)
    if not kernel(engine(), not call.is_small and call.streams(3), dy, x, mean, rstd, weight, dx, dweight, dbias):
        scaled_backward(kernel, (dy, x, mean, rstd), weight, dx, dweight, dbias, dx=dx)


@lru_cache(256)
def _backward_kernel(shape: Shape, itemsize: int) -> Any:
    return batches.batch_norm_backward_whole if whole_channels(shape, itemsize) else batches.batch_norm_backward_parts


def _frozen_kernel(shape: Shape, itemsize: int) -> Any:
    return batches.batch_norm_backward_frozen


@lru_cache(256)
def _forward_kernel(shape: Shape, itemsize: int) -> Any:
    return batches.batch_norm_forward_whole if whole_channels(shape, itemsize) else batches.batch_norm_forward_parts


def update_running(call: Any, running: Running, mean: Array, var: Array, count: float) -> bool:
    """Move running statistics by a batch with the mean and var of `count` values. Return whether these are finite.

    If they are not, `running.skip_nonfinite` keeps the running statistics as they are. Without running statistics,
    return True. A signal handler may raise at any time: then all has been updated, or nothing.
    """
    if running.mean is None and running.var is None:
        return True
    given = [_NO_STATISTIC if a is None else a for a in (running.mean, running.var)]
    given.append(_NO_COUNT if running.batches is None else running.batches)
    used = [behaved(a, a.dtype if a.dtype.isnative else a.dtype.newbyteorder("=")) for a in given]
    are_copies = used[0] is not given[0] or used[1] is not given[1] or used[2] is not given[2]
    if are_copies:
        used = [a.copy() for a in used]
    statistics = mean, used[0], var, unbiased_factor(count), used[1], used[2]
    finite = batches.update_running(running.momentum, *statistics, running.skip_nonfinite)
    if are_copies:
        list(starmap(setitem, [(a, ..., copy) for a, copy in zip(given, used, strict=True)]))
    return bool(finite)
