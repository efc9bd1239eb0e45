"""Batch normalization of a batch that comes in parts: of one process, of several, or of both."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numbanorm import _checks
from numbanorm._types import Array
from numbanorm.batchnorm import batch_norm, positions
from numbanorm.moments import Moments
from numbanorm.phases import GradientSums, batch_norm_backward_apply, batch_norm_backward_reduce

Reduce = Callable[[Any], Any]


class Parts(NamedTuple):
    """Of one process: what they are and how they are seen."""

    xs: list[Array]
    masks: list[Array | None]
    channel_axis: int


class Statistics(NamedTuple):
    """Of each channel, over all parts of all processes."""

    n: float
    mean: Array
    var: Array
    rstd: Array


def alone(value: Any) -> Any:
    """The reduction of one process."""
    return value


def lost(value: Any) -> Any:
    """The reduction of a layer that was pickled or copied, which has none until it is given one."""
    raise RuntimeError("all_reduce: not pickled or copied with the layer, must be set again: layer.all_reduce = f")


def statistics(parts: Parts, channels: int, eps: float, all_reduce: Reduce) -> Statistics:
    """ValueError if there is but one value of a channel in all."""
    axis = parts.channel_axis
    own = [Moments.of(x, channel_axis=axis, mask=mask) for x, mask in zip(parts.xs, parts.masks, strict=True)]
    found = all_reduce(sum(own, Moments(0, np.zeros(channels), 0)))
    if not isinstance(found, Moments):
        raise TypeError(f"all_reduce: returned {type(found).__qualname__}, must return the sum of what it was given")
    count = float(found.count[0])
    if count == 1:
        raise ValueError("x: one value per channel in all parts, must be at least two to have a variance")
    var = found.var()
    with np.errstate(divide="ignore", invalid="ignore"):
        return Statistics(count, found.mean, var, 1.0 / np.sqrt(var + eps))


def forward(parts: Parts, found: Statistics, weight: Any, bias: Any, eps: float, outs: list[Any]) -> list[Array]:
    """y of each part."""
    given = found.mean, found.var, weight, bias
    ys = []
    for x, mask, out in zip(parts.xs, parts.masks, outs, strict=True):
        y = batch_norm(x, *given, channel_axis=parts.channel_axis, eps=eps, out=out)
        if mask is not None:
            positions(y, parts.channel_axis)[~mask] = 0
        ys.append(y)
    return ys


def backward(
    dys: list[Array],
    xs: list[Array],
    *,
    weight: Any,
    out: Any,
    masks: list[Array | None],
    channel_axis: int,
    found: Statistics,
    all_reduce: Reduce,
) -> tuple[list[Array], Array, Array]:
    """dx of each part; dweight and dbias of the parts of this process."""
    for i, (dy, x) in enumerate(zip(dys, xs, strict=True)):
        _checks.like(f"dy[{i}]", dy, x)
    each, statistics = list(zip(dys, xs, masks, strict=True)), (found.mean, found.rstd)
    reduce = partial(batch_norm_backward_reduce, channel_axis=channel_axis)
    sums = [reduce(dy, x, *statistics, mask=mask) for dy, x, mask in each]
    own = sum(sums, GradientSums(*np.zeros((2, found.mean.size))))
    total = all_reduce(own)
    rest: tuple[Any, ...] = (weight, total.sum_dy, total.sum_dy_xhat, found.n)
    apply = partial(batch_norm_backward_apply, channel_axis=channel_axis, out=out)
    dxs = [apply(dy, x, *statistics, *rest, mask=mask) for dy, x, mask in each]
    return dxs, own.sum_dy_xhat, own.sum_dy


def backward_of_one(dy: Array, x: Array, *, masks: list[Array | None], **how: Any) -> tuple[Array, Array, Array]:
    """`backward` of a process with one part, whose errors speak of dy."""
    _checks.like("dy", dy, x)
    (dx,), dweight, dbias = backward([dy], [x], masks=masks, **how)
    return dx, dweight, dbias
