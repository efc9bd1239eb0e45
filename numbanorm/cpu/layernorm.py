"""Layer normalization: which kernel is for which shape.

x is (rows, cols), or (N, count, L) where it is normalised over its middle axis; `kernels.rows` and `kernels.columns`
say what else the arguments are. Statistics that nobody wants are empty.
"""

from functools import lru_cache
from typing import Any

import numpy as np

from numbanorm._types import Array, Shape
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import columns, long_rows, rows
from numbanorm.cpu.rescaled import scaled_backward


def layer_norm(call: Any, x: Array, weight: Array, bias: Array, eps: float, y: Array) -> None:
    """Fill y."""
    layer_norm_forward(call, x, weight, bias, eps, y, call.no_statistic, call.no_statistic)


def layer_norm_forward(
    call: Any, x: Array, weight: Array, bias: Array, eps: float, y: Array, mean: Array, rstd: Array
) -> None:
    """Fill y, mean and rstd."""
    if x.size == 0:
        mean.fill(np.nan)
        rstd.fill(np.nan)
        return
    kernel = _forward_kernel(call.kernel_shape, x.itemsize)
    kernel(engine(), call.streams(2), x, weight, bias, eps, y, mean, rstd)


@lru_cache(256)
def _forward_kernel(shape: Shape, itemsize: int) -> Any:
    if len(shape) == 3:
        return columns.layer_norm_columns_forward
    if long_rows.long_forward(shape[1], itemsize):
        return long_rows.layer_norm_long_rows_forward
    return rows.layer_norm_rows_forward


def layer_norm_backward(
    call: Any, dy: Array, x: Array, mean: Array, rstd: Array, weight: Array, dx: Array, dweight: Array, dbias: Array
) -> None:
    """Fill dx, dweight and dbias."""
    if x.size == 0:
        dweight.fill(0)
        dbias.fill(0)
        return
    kernel = _backward_kernel(call.kernel_shape)
    if not kernel(engine(), call.streams(3), dy, x, mean, rstd, weight, dx, dweight, dbias):
        scaled_backward(kernel, (dy, x, mean, rstd), weight, dx, dweight, dbias, dx=dx)


@lru_cache(256)
def _backward_kernel(shape: Shape) -> Any:
    if len(shape) == 3:
        return columns.layer_norm_columns_backward
    if long_rows.long_backward(shape[1]):
        return long_rows.layer_norm_long_rows_backward
    return rows.layer_norm_rows_backward
