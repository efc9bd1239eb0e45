"""Batch normalization of a batch that comes in parts: of one process, of several, or of both."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.advice import kind_of
from numbanorm._call.view import positions
from numbanorm._math import reciprocal_stds
from numbanorm._types import Array
from numbanorm.batchnorm import batch_norm
from numbanorm.batchnorm_halves import GradientSums, batch_norm_backward_apply, batch_norm_backward_reduce
from numbanorm.moments import Moments

Reduce = Callable[[Any], Any]
Summed = TypeVar("Summed", Moments, GradientSums, int)


class Parts(NamedTuple):
    """The parts of a batch that one process has, their masks, and the axis of their channels."""

    xs: list[Array]
    masks: list[Array | None]
    channel_axis: int


class Statistics(NamedTuple):
    """The statistics of each channel over all parts of all processes.

    With the rounded mean, x_hat comes out larger by `excess`. Both passes correct that.
    """

    n: float
    mean: Array
    var: Array
    rstd: Array
    excess: Array


def alone(value: Any) -> Any:
    """Reduce a value over one process: return it."""
    return value


def not_taken_along(value: Any) -> Any:
    """Raise an error. This is the reduction of a layer that was pickled or copied, until it is given one."""
    raise RuntimeError("all_reduce: not pickled or copied with the layer, must be set again: layer.all_reduce = f")


def listed(name: str, value: Any) -> list[Any]:
    """Return a list of what belongs to several parts.

    A generator is refused, since it could write all parts into one array.
    """
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name}: {kind_of(value)}, must be a list or a tuple with an array for each part of the batch")
    return list(value)


def one_for_each(name: str, value: Any, count: int) -> list[Any]:
    """Return a list with one item for each of `count` parts."""
    found = listed(name, value)
    if len(found) != count:
        raise ValueError(f"{name}: {len(found)} of them, must be {count}, one for each of xs")
    return found


def total(all_reduce: Any, part: Summed) -> Summed:
    """Return the sum of what each process has."""
    found = all_reduce(part)
    if not isinstance(found, type(part)):
        must = f"must return the sum of the {type(part).__qualname__} that all processes gave it"
        raise TypeError(f"all_reduce: returned {type(found).__qualname__}, {must}")
    return found


def statistics(parts: Parts, channels: int, eps: float, all_reduce: Reduce) -> Statistics:
    """Measure all parts of all processes. It is a ValueError if a channel has one value in all."""
    axis = parts.channel_axis
    measured = [Moments.of(x, channel_axis=axis, mask=mask) for x, mask in zip(parts.xs, parts.masks, strict=True)]
    found = total(all_reduce, sum(measured, Moments(0, np.zeros(channels), 0)))
    if found.mean.size != channels:
        raise ValueError(f"all_reduce: returned Moments of {found.mean.size} channels, must be of {channels}")
    count = float(found.count[0])
    if count == 1:
        raise ValueError("x: one value per channel in all parts, must be at least two to have a variance")
    var = found.var()
    with np.errstate(divide="ignore", invalid="ignore"):
        rstd = reciprocal_stds(var, eps)
        excess = found.mean_rest * rstd if count > 0 else np.zeros(channels)
    return Statistics(count, found.mean, var, rstd, excess)


def forward(parts: Parts, found: Statistics, weight: Any, bias: Any, eps: float, out: Any) -> list[Array]:
    """Return y of each part. `out` is for the one part that has it."""
    with np.errstate(invalid="ignore"):
        shift = found.excess * (1.0 if weight is None else weight)
        shifted = ((0.0 if bias is None else bias) - shift).astype(parts.xs[0].dtype)
    given = found.mean, found.var, weight, shifted
    ys = []
    for x, mask in zip(parts.xs, parts.masks, strict=True):
        y = batch_norm(x, *given, channel_axis=parts.channel_axis, eps=eps, out=out)
        if mask is not None:
            positions(y, parts.channel_axis)[~mask] = 0
        ys.append(y)
    return ys


def backward(dys: Any, xs: list[Array], *, out: Any, **how: Any) -> tuple[list[Array], Array, Array]:
    """Return dx of each part, and dweight and dbias of the parts of this process."""
    if out is not None:
        raise TypeError(f"out: {kind_of(out)}, must be None where a batch came in parts")
    dys = one_for_each("dy", dys, len(xs))
    for i, (dy, x) in enumerate(zip(dys, xs, strict=True)):
        arguments.like(f"dy[{i}]", dy, x)
    return _backward(dys, xs, out=None, **how)


def backward_of_one(dy: Any, x: Array, *, out: Any, **how: Any) -> tuple[Array, Array, Array]:
    """Do `backward` in a process that has one part."""
    arguments.like("dy", dy, x)
    if out is not None:
        arguments.out(out, x, {"dy": dy, "x": x}, {"weight": how["weight"]})
    (dx,), dweight, dbias = _backward([dy], [x], out=out, **how)
    return dx, dweight, dbias


def _backward(
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
    each, statistics = list(zip(dys, xs, masks, strict=True)), (found.mean, found.rstd)
    reduce = partial(batch_norm_backward_reduce, channel_axis=channel_axis)
    sums = [reduce(dy, x, *statistics, mask=mask) for dy, x, mask in each]
    sum_dy, sum_dy_xhat = sum(sums, GradientSums(*np.zeros((2, found.mean.size))))
    with np.errstate(invalid="ignore", over="ignore"):
        sum_dy_xhat -= found.excess * sum_dy
    of_all = total(all_reduce, GradientSums(sum_dy.copy(), sum_dy_xhat.copy()))  # which it may add to in place
    with np.errstate(invalid="ignore", over="ignore"):
        given = of_all._replace(sum_dy=of_all.sum_dy - found.excess * of_all.sum_dy_xhat)
    count = max(found.n, 1.0)  # of no value, all sums are 0
    apply = partial(batch_norm_backward_apply, channel_axis=channel_axis, out=out)
    dxs = [apply(dy, x, *statistics, weight, *given, count, mask=mask) for dy, x, mask in each]
    return dxs, sum_dy_xhat, sum_dy
