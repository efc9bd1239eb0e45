"""Batch normalization: the public functions."""

from typing import Any

import numpy as np

from numbanorm._call import numbers
from numbanorm._call.kinds import over_channels
from numbanorm._types import Array, Forward, Gradients, Running


def batch_norm(
    x: Array,
    mean: Array,
    var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    channel_axis: int = 1,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """Normalise each channel of x with given statistics, then scale and shift: batch normalization in inference.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps) [1]_.

    Parameters
    ----------
    x : ndarray of float32 or float64, or array on a GPU
        Any shape of at least 2 axes, any layout.
    mean, var : ndarray of shape (C,)
        The population's mean and variance; float32 or float64 beside float32, float64 beside float64. A float64 mean
        is used to its last digit, so that the error does not grow with mean / std.
    weight, bias : ndarray of shape (C,) and of x's dtype, optional
        Ones and zeros if left out.
    channel_axis : int
        The axis of the C channels.
    eps : float
        Added to the variance; in the unit of x squared.
    out : ndarray of x's shape and dtype, optional
        Receives y. It may be x itself; it may not overlap an input otherwise.

    Returns
    -------
    ndarray
        y, with the shape and dtype of x; `out` if given.

    Raises
    ------
    TypeError
        An argument is of the wrong type or dtype.
    ValueError
        An argument is of the wrong shape or value, or `out` overlaps an input.

    References
    ----------
    .. [1] Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
       Shift", 2015, https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import batch_norm
    >>> batch_norm(np.array([[1, 10], [3, 30]], np.float32), mean=np.array([2.0, 20.0]), var=np.array([1.0, 100.0]))
    array([[-0.999995  , -0.99999994],
           [ 0.999995  ,  0.99999994]], dtype=float32)
    """
    call = over_channels(x, channel_axis)
    statistics = call.exact_statistic("mean", mean), call.exact_statistic("var", var)
    affine = call.parameter("weight", weight, 1), call.parameter("bias", bias, 0)
    eps = numbers.eps(eps)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"mean": mean, "var": var, "weight": weight, "bias": bias})
    y = call.target(out, x)
    if not call.batchnorm.batch_norm(call, call.load_x(x), *statistics, *affine, eps, y):
        raise numbers.negative("var", var)
    return call.deliver(y, out)


def batch_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    *,
    momentum: float = 0.1,
    channel_axis: int = 1,
    eps: float = 1e-5,
    mask: Array | None = None,
    out: Array | None = None,
) -> Forward:
    """Normalise each channel of x with its own statistics, then scale and shift: batch normalization in training.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps), the mean and the biased variance being those
    of the n values of each channel [1]_. In place::

        running_mean = (1 - momentum) * running_mean + momentum * mean
        running_var  = (1 - momentum) * running_var  + momentum * var * n / (n - 1)

    Parameters
    ----------
    x : ndarray of float32 or float64, or array on a GPU
        Any shape of at least 2 axes, any layout; at least 2 values per channel.
    weight, bias : ndarray of shape (C,) and of x's dtype, optional
        Ones and zeros if left out.
    running_mean, running_var : ndarray of shape (C,), optional
        Updated in place; float32 or float64 beside float32, float64 beside float64. A float32 mean is rounded to
        6e-8 of itself: float64 keeps inference exact far from zero.
    momentum : float
        The share of this batch in the running statistics, from 0 to 1.
    channel_axis : int
        The axis of the C channels.
    eps : float
        Added to the variance; in the unit of x squared.
    mask : ndarray of bool, optional
        Of the shape of x without its channel axis. Where it is False (padding), x enters no statistic and y is 0.
        The positions that count are packed into an array of their own on the way.
    out : ndarray of x's shape and dtype, optional
        Receives y. It may be x itself; it may not overlap an input otherwise.

    Returns
    -------
    y : ndarray
        With the shape and dtype of x; `out` if given.
    mean, rstd : ndarray of shape (C,) and of x's dtype
        What `batch_norm_backward` needs.

    Raises
    ------
    TypeError
        An argument is of the wrong type or dtype.
    ValueError
        An argument is of the wrong shape or value, there is one value per channel, `mask` is all False (on a GPU,
        where that cannot be told without waiting, the results are NaN), or `out` overlaps an input. Nothing has been
        written then.

    Notes
    -----
    The error does not grow with mean / std: the mean is subtracted in two parts (`numbanorm._math.normalize`).
    A non-finite value makes its channel non-finite, and no other. With eps = 0 equal values give NaN, as 0 / 0.
    y is right for values of any size: where their squares, x - mean or rstd leave the range of the dtype, they are
    taken times a power of two. A statistic, rstd * weight or dy * weight beyond that range is infinite.

    References
    ----------
    .. [1] Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
       Shift", 2015, https://arxiv.org/abs/1502.03167

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import batch_norm_forward
    >>> running_mean, running_var = np.zeros(2), np.ones(2)
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> y, mean, rstd = batch_norm_forward(x, running_mean=running_mean, running_var=running_var)
    >>> mean, running_mean, running_var
    (array([ 2., 20.], dtype=float32), array([0.2, 2. ]), array([ 1.1, 20.9]))
    """
    call = over_channels(x, channel_axis)
    checked = checked_in_training(call, x, weight, bias, mask, out)
    eps, momentum = numbers.eps(eps), numbers.momentum(momentum)
    if running_mean is not None or running_var is not None:
        disjoint = {"weight": weight, "bias": bias, "mask": mask, "x": x, "out": out}
        call.check_updated("running_mean", running_mean, disjoint)
        call.check_updated("running_var", running_var, disjoint | {"running_mean": running_mean})
    running = Running(running_mean, running_var, momentum)
    return forward_in_training(call, x, checked, running, eps, out)[0]


def batch_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    *,
    channel_axis: int = 1,
    mask: Array | None = None,
    frozen: bool = False,
    out: Array | None = None,
) -> Gradients:
    """The gradients of batch normalization.

    With x_hat = (x - mean) * rstd and wdy = dy * weight, and means over the n values of each channel::

        dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat)), or rstd * wdy if frozen
        dweight = sum(dy * x_hat), dbias = sum(dy), over all other axes

    Parameters
    ----------
    dy : ndarray
        The gradient with respect to y, of the shape and dtype of x.
    x : ndarray of float32 or float64, or array on a GPU
        What the forward pass was given.
    mean, rstd : ndarray of shape (C,)
        What `batch_norm_forward` returned; the rounding error of `mean` is found again from x and made good. If
        `frozen`, the statistics that the forward pass was given, rstd being 1 / sqrt(var + eps).
    weight : ndarray of shape (C,), optional
        What the forward pass was given. If None, dweight and dbias are the gradients at ones and zeros.
    channel_axis : int
        What the forward pass was given.
    mask : ndarray of bool, optional
        What the forward pass was given. Where it is False, dy enters no sum and dx is 0.
    frozen : bool
        Whether mean and rstd are constants (fine-tuning with population statistics), so that no gradient flows
        through them.
    out : ndarray of x's shape and dtype, optional
        Receives dx. It may be dy or x itself; it may not overlap an input otherwise.

    Returns
    -------
    dx : ndarray
        Of the shape and dtype of x; `out` if given.
    dweight, dbias : ndarray of shape (C,) and of x's dtype

    Raises
    ------
    TypeError
        An argument is of the wrong type or dtype.
    ValueError
        An argument is of the wrong shape or value, `mask` is all False, or `out` overlaps an input.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import batch_norm_backward, batch_norm_forward
    >>> x = np.array([[1, 10], [3, 30]], np.float32)
    >>> y, mean, rstd = batch_norm_forward(x)
    >>> dx, dweight, dbias = batch_norm_backward(np.ones_like(x), x, mean, rstd)
    >>> dbias
    array([2., 2.], dtype=float32)
    """
    call = over_channels(x, channel_axis)
    is_frozen = isinstance(frozen, bool | np.bool_) and bool(frozen)  # anything else is refused below
    statistic = call.exact_statistic if is_frozen else call.statistic
    given = call.like_x("dy", dy, x), call.load_x(x), statistic("mean", mean), statistic("rstd", rstd)
    scale = call.parameter("weight", weight, 1)
    numbers.flag("frozen", frozen)
    counted = call.mask(mask)
    if out is not None:
        call.check_out(out, x, {"dy": dy, "x": x}, {"mean": mean, "rstd": rstd, "weight": weight, "mask": mask})
    dx, dweight, dbias = call.target(out, x), call.new_parameter(), call.new_parameter()
    launch = call.batchnorm.batch_norm_backward_frozen if is_frozen else call.batchnorm.batch_norm_backward
    launch(call, *given, scale, counted, dx, dweight, dbias)
    return Gradients(call.deliver(dx, out), call.deliver_parameter(dweight), call.deliver_parameter(dbias))


def checked_in_training(
    call: Any, x: Array, weight: Array | None, bias: Array | None, mask: Array | None, out: Array | None
) -> tuple[Any, Any, Any]:
    """Check these arguments of `batch_norm_forward`. Return weight, bias and mask as a kernel reads them."""
    checked = call.parameter("weight", weight, 1), call.parameter("bias", bias, 0), call.mask(mask)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"weight": weight, "bias": bias, "mask": mask})
    call.check_several_values(x, mask)
    return checked


def forward_in_training(
    call: Any, x: Array, checked: tuple[Any, Any, Any], running: Running, eps: float, out: Array | None
) -> tuple[Forward, bool]:
    """Do `batch_norm_forward` with what `checked_in_training` returns. Return also whether statistics are finite."""
    (weight, bias, mask), moved, y = checked, call.moved(running), call.target(out, x)
    mean, rstd = call.new_statistic(), call.new_statistic()
    given = call.load_x(x), weight, bias, moved, eps, mask
    update = call.batchnorm.batch_norm_forward(call, *given, y, mean, rstd)
    delivered = Forward(call.deliver(y, out), call.deliver_statistic(mean), call.deliver_statistic(rstd))
    return delivered, update()  # after y: an interruption leaves no statistics of a batch without its y
