"""Choose the kernel of layer normalization for a shape.

x is (rows, cols), or (N, count, L) where it is normalised over its middle axis; `kernels.rows` and `kernels.columns`
say what else the arguments are. Statistics that nobody wants are empty.
"""

from typing import Any

import numpy as np

from numbanorm._types import Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import columns, long_rows, rows
from numbanorm.cpu.rescaled import scaled_backward


def layer_norm_forward(
    call: Any, x: Array, weight: Array, bias: Array, eps: float, y: Array, mean: Array, rstd: Array
) -> None:
    """Fill y, mean and rstd."""
    if x.size == 0:
        mean.fill(np.nan)
        rstd.fill(np.nan)
        return
    if x.ndim == 3:
        kernel = columns.layer_norm_columns_forward
    elif not call.is_small and long_rows.long_forward(x.shape[1], x.itemsize):
        kernel = long_rows.layer_norm_long_rows_forward
    else:
        kernel = rows.layer_norm_rows_forward
    kernel(engine(), not call.is_small and call.streams(2), x, weight, bias, eps, y, mean, rstd)


def layer_norm_backward(
    call: Any, dy: Array, x: Array, mean: Array, rstd: Array, weight: Array, dx: Array, dweight: Array, dbias: Array
) -> None:
    """Fill dx, dweight and dbias."""
    if x.size == 0:
        dweight.fill(0)
        dbias.fill(0)
        return
    if x.ndim == 3:
        kernel = columns.layer_norm_columns_backward
    elif long_rows.long_backward(x.shape[1]):
        kernel = long_rows.layer_norm_long_rows_backward
    else:
        kernel = rows.layer_norm_rows_backward
    if not kernel(engine(), not call.is_small and call.streams(3), dy, x, mean, rstd, weight, dx, dweight, dbias):
        scaled_backward(kernel, (dy, x, mean, rstd), weight, dx, dweight, dbias, dx=dx)
