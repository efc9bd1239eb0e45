"""Do the backward pass of batch normalization in two halves, with masks, and with values that lie too far apart.

dy and x are (N, C, L), a mask (N, L) or None, and what each channel has (C,).
"""

from typing import Any

import numpy as np

from numbanorm._types import Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import halves
from numbanorm.cpu.layouts import packed, unpack
from numbanorm.cpu.rescaled import scaled_backward


def batch_norm_backward_reduce(
    call: Any,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    mask: Array | None,
    sum_dy: Array,
    sum_dy_x_hat: Array,
) -> None:
    """Fill the sums. mean, rstd and sums are float64."""
    if mask is not None:
        dy, x = packed(dy, mask), packed(x, mask)
    if x.size == 0:
        sum_dy.fill(0)
        sum_dy_x_hat.fill(0)
        return
    kernel, sums = halves.batch_norm_backward_reduce, (sum_dy, sum_dy_x_hat)
    if not kernel(engine(), not call.is_small and call.streams(2), dy, x, mean, rstd, *sums):
        scaled_backward(kernel, (dy, x, mean, rstd), *sums, dx=None)


def batch_norm_backward_apply(
    call: Any,
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array,
    sum_dy: Array,
    sum_dy_x_hat: Array,
    count: float,
    mask: Array | None,
    dx: Array,
) -> None:
    """Fill dx. mean, rstd and sums are float64."""
    if mask is not None:
        dy_rows, rows = packed(dy, mask), packed(x, mask)
        values = np.empty_like(rows)
        batch_norm_backward_apply(call, dy_rows, rows, mean, rstd, weight, sum_dy, sum_dy_x_hat, count, None, values)
        unpack(values, mask, dx)
        return
    if x.size > 0:
        kernel, rest = halves.batch_norm_backward_apply, (weight, sum_dy, sum_dy_x_hat, count, dx)
        if not kernel(engine(), not call.is_small and call.streams(3), dy, x, mean, rstd, *rest):
            scaled_backward(kernel, (dy, x, mean, rstd), *rest, dx=dx)
