"""The backward pass of batch normalization in two halves: the public functions."""

from typing import Any, NamedTuple

from numbanorm._call import numbers
from numbanorm._call.kinds import over_channels
from numbanorm._types import FLOAT64, Array


class GradientSums(NamedTuple):
    """Of each channel; those of disjoint values add up by ``+`` or `sum` to those of all, where arrays have that.

    `sum_dy` is the gradient with respect to bias, and `sum_dy_xhat` that with respect to weight.
    """

    sum_dy: Array
    sum_dy_xhat: Array

    def __add__(self, other: object) -> "GradientSums":
        if not isinstance(other, GradientSums):
            return NotImplemented
        return GradientSums(self.sum_dy + other.sum_dy, self.sum_dy_xhat + other.sum_dy_xhat)

    def __radd__(self, other: object) -> "GradientSums":
        """Add sums to 0, with which `sum` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def batch_norm_backward_reduce(
    dy: Array, x: Array, mean: Array, rstd: Array, *, channel_axis: int = 1, mask: Array | None = None
) -> GradientSums:
    """The first half of the backward pass of batch normalization: what it must know of all values of each channel.

    With x_hat = (x - mean) * rstd::

        sum_dy = sum(dy), sum_dy_xhat = sum(dy * x_hat), over all other axes

    Where a batch is spread over processes or comes in parts, each makes the sums of its own, all of these are added up,
    and `batch_norm_backward_apply` goes on from there: synchronised, or accumulated, batch normalization. dweight is
    sum_dy_xhat, and dbias is sum_dy. On the way forward, `Moments` are added up so, and `batch_norm` applies them.

    Parameters
    ----------
    dy : ndarray
        The gradient with respect to y, of the shape and dtype of x.
    x : ndarray of float32 or float64, or array on a GPU
        What the forward pass was given: any shape of at least 2 axes, any layout, also of no value.
    mean, rstd : ndarray of shape (C,)
        Those of all values, rstd = 1 / sqrt(var + eps); float32 or float64 beside float32, float64 beside float64.
        A float64 mean, as `Moments` has it, is used to its last digit: x_hat errs by 1e-16 times mean / std then, and
        sum_dy_xhat / count by that times the mean of dy. (`batch_norm_backward` finds more digits of the mean in x: in
        all of it.)
    channel_axis : int
        The axis of the C channels.
    mask : ndarray of bool, optional
        Of the shape of x without its channel axis. Where it is False (padding), dy enters no sum.

    Returns
    -------
    sum_dy, sum_dy_xhat : ndarray of shape (C,) and float64
        Where x lies, in a `GradientSums`, which adds up by ``+`` where such arrays do.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype or shape.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import Moments, batch_norm_backward_apply, batch_norm_backward_reduce
    >>> parts = np.array([[1, 10], [3, 30]], np.float32), np.array([[5, 20]], np.float32)
    >>> moments = sum(map(Moments.of, parts))
    >>> statistics = moments.mean, 1 / np.sqrt(moments.var() + 1e-5)
    >>> sums = sum(batch_norm_backward_reduce(part * part, part, *statistics) for part in parts)
    >>> sums.sum_dy
    array([  35., 1400.])
    >>> batch_norm_backward_apply(parts[1] ** 2, parts[1], *statistics, None, *sums, moments.count)
    array([[ 0.81652224, -8.164965  ]], dtype=float32)
    """
    call = over_channels(x, channel_axis)
    given = _checked(call, dy, x, mean, rstd, mask)
    sums = call.new_statistic(FLOAT64), call.new_statistic(FLOAT64)
    call.batchnorm_halves.batch_norm_backward_reduce(call, *given, *sums)
    return GradientSums(*map(call.deliver_statistic, sums))


def batch_norm_backward_apply(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None,
    sum_dy: Array,
    sum_dy_xhat: Array,
    count: Any,
    *,
    channel_axis: int = 1,
    mask: Array | None = None,
    out: Array | None = None,
) -> Array:
    """The second half of the backward pass of batch normalization, after `batch_norm_backward_reduce`.

    With x_hat = (x - mean) * rstd::

        dx = rstd * weight * (dy - sum_dy / count - x_hat * sum_dy_xhat / count)

    Parameters
    ----------
    dy, x, mean, rstd
        What `batch_norm_backward_reduce` was given.
    weight : ndarray of shape (C,) and of x's dtype, or None
        What the forward pass was given; None: ones.
    sum_dy, sum_dy_xhat : ndarray of shape (C,)
        What it returned, added up over all processes or parts; float32 or float64 beside float32, float64 beside
        float64.
    count : number or ndarray of shape (C,)
        How many values each channel has in all of them, as `Moments.count` has it: the same number for all channels.
    channel_axis, mask
        What `batch_norm_backward_reduce` was given. Where mask is False, dx is 0.
    out : ndarray of x's shape and dtype, optional
        Receives dx. It may be dy or x itself; it may not overlap an input otherwise.

    Returns
    -------
    ndarray
        dx, of the shape and dtype of x; `out` if given.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, dtype, shape or value, or `out` overlaps an input.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import batch_norm_backward_apply, batch_norm_backward_reduce, batch_norm_forward
    >>> x, dy = np.array([[1], [2], [6]], np.float32), np.array([[0], [0], [3]], np.float32)
    >>> _, mean, rstd = batch_norm_forward(x)
    >>> sums = batch_norm_backward_reduce(dy, x, mean, rstd)
    >>> batch_norm_backward_apply(dy, x, mean, rstd, None, *sums, count=3).round(3)
    array([[ 0.132],
           [-0.165],
           [ 0.033]], dtype=float32)
    """
    call = over_channels(x, channel_axis)
    *given, counted = _checked(call, dy, x, mean, rstd, mask)
    given += [call.parameter("weight", weight, 1)]
    given += [call.statistic("sum_dy", sum_dy, FLOAT64), call.statistic("sum_dy_xhat", sum_dy_xhat, FLOAT64)]
    given += [numbers.count(count, call.planes.middle, of_none=0 in call.planes)]
    if out is not None:
        statistics = {"mean": mean, "rstd": rstd, "sum_dy": sum_dy, "sum_dy_xhat": sum_dy_xhat}
        call.check_out(out, x, {"dy": dy, "x": x}, statistics | {"weight": weight, "mask": mask})
    dx = call.target(out, x)
    call.batchnorm_halves.batch_norm_backward_apply(call, *given, counted, dx)
    return call.deliver(dx, out)


def _checked(call: Any, dy: Any, x: Any, mean: Any, rstd: Any, mask: Any) -> tuple[Any, ...]:
    """Check what both halves are given, and return it for their kernels."""
    arrays = call.like_x("dy", dy, x), call.load_x(x)
    statistics = call.statistic("mean", mean, FLOAT64), call.statistic("rstd", rstd, FLOAT64)
    return *arrays, *statistics, call.mask(mask, may_be_empty=True)
