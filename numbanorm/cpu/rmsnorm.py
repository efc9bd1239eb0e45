"""Choose the kernel of RMS normalization for a shape, as `numbanorm.cpu.layernorm` does for layer normalization.

The kernels are those of layer normalization without mean and bias: these are the number 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from numbanorm._types import Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import columns, long_rows, rows
from numbanorm.cpu.rescaled import scaled_backward


def rms_norm_forward(call: Any, x: Array, weight: Array, eps: float, y: Array, rstd: Array) -> None:
    """Fill y and rstd."""
    if x.size == 0:
        rstd.fill(np.nan)
        return
    if x.ndim == 3:
        kernel = columns.rms_norm_columns_forward
    elif not call.is_small and long_rows.long_forward(x.shape[1], x.itemsize):
        kernel = long_rows.rms_norm_long_rows_forward
    else:
        kernel = rows.rms_norm_rows_forward
    kernel(engine(), not call.is_small and call.streams(2), x, weight, 0.0, eps, y, 0.0, rstd)


def rms_norm_backward(call: Any, dy: Array, x: Array, rstd: Array, weight: Array, dx: Array, dweight: Array) -> None:
    """Fill dx and dweight."""
    if x.size == 0:
        dweight.fill(0)
        return
    if x.ndim == 3:
        kernel = columns.rms_norm_columns_backward
    elif long_rows.long_backward(x.shape[1]):
        kernel = long_rows.rms_norm_long_rows_backward
    else:
        kernel = rows.rms_norm_rows_backward
    streams = not call.is_small and call.streams(3)
    if not kernel(engine(), streams, dy, x, 0.0, rstd, weight, dx, dweight, 0.0):
        scaled_backward(_without_mean(kernel), (dy, x, rstd), weight, dx, dweight, dx=dx)


def _without_mean(kernel: Any) -> Callable[..., Any]:
    """Wrap a kernel so that it is not given a mean and a dbias."""

    def run(engine: int, streams: bool, dy: Array, x: Array, rstd: Array, weight: Array, dx: Array, dw: Array) -> Any:
        return kernel(engine, streams, dy, x, 0.0, rstd, weight, dx, dw, 0.0)

    return run
