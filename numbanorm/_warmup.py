"""What to call so that each kernel is compiled for the common signatures, or loaded if it is kept from before."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numbanorm._types import Array
from numbanorm.batchnorm import batch_norm, batch_norm_backward, batch_norm_forward
from numbanorm.batchnorm_halves import batch_norm_backward_apply, batch_norm_backward_reduce
from numbanorm.layernorm import layer_norm_backward, layer_norm_forward
from numbanorm.moments import Moments

_LAYER_NORM = {"rows": ((4, 64), -1), "columns": ((2, 64, 8), 1), "long rows": ((1, 300_000), -1)}
_BATCH_NORM = {"small": ((16, 4), 1), "large": ((400_000, 2), 1)}


def calls(dtype: Any) -> dict[str, Callable[[], object]]:
    """By what they are for."""
    found: dict[str, Callable[[], object]] = {}
    for kind, (shape, axis) in _LAYER_NORM.items():
        found[f"{np.dtype(dtype)} layer normalization, {kind}"] = partial(_layer_norm, np.ones(shape, dtype), axis)
    for kind, (shape, axis) in _BATCH_NORM.items():
        found[f"{np.dtype(dtype)} batch normalization, {kind}"] = partial(_batch_norm, np.ones(shape, dtype), axis)
    found[f"{np.dtype(dtype)} statistics"] = partial(_statistics, np.ones((16, 4), dtype))
    found[f"{np.dtype(dtype)} scalers"] = partial(_scalers, np.ones((16, 4), dtype))
    return found


def _layer_norm(x: Array, axis: int) -> None:
    _, mean, rstd = layer_norm_forward(x, axis=axis)
    layer_norm_backward(x, x, mean, rstd, axis=axis)


def _batch_norm(x: Array, axis: int) -> None:
    for dtype in {np.dtype(np.float64), x.dtype}:
        running = np.ones((2, x.shape[axis]), dtype)
        _, mean, rstd = batch_norm_forward(x, None, None, *running, channel_axis=axis)
    batch_norm(x, mean, rstd, channel_axis=axis)
    for frozen in (False, True):
        batch_norm_backward(x, x, mean, rstd, channel_axis=axis, frozen=frozen)


def _statistics(x: Array) -> None:
    moments = Moments.of(x)
    statistics = moments.mean, moments.var() + 1
    sums = batch_norm_backward_reduce(x, x, *statistics)
    batch_norm_backward_apply(x, x, *statistics, None, *sums, moments.count)


def _scalers(x: Array) -> None:
    from numbanorm.scalers import MinMaxScaler, StandardScaler  # which import scikit-learn

    MinMaxScaler().fit_transform(x)
    StandardScaler().fit(x, sample_weight=1.0)
