"""Batch normalization: the public functions."""

from functools import lru_cache
from itertools import starmap
from operator import setitem

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.kinds import elsewhere
from numbanorm._call.view import Split, behaved, see, split
from numbanorm._types import Array, Forward, Gradients, Shape
from numbanorm.cpu.engine.machine import streams
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import batches as kernels
from numbanorm.cpu.kernels.tiles import whole_steps
from numbanorm.cpu.rescaled import scaled_backward

_NO_STATISTIC = np.empty(0)
NOT_MOVED = None, None, np.empty(0, np.int64), 0.0  # running mean, running variance, number of batches, momentum


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
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        return functions.batch_norm(x, mean, var, weight, bias, channel_axis, eps, out)
    seen = see(x, channel_axis, arguments.channel_axes)
    arguments.statistic("mean", mean, seen.parameter_shape, seen.dtype)
    arguments.statistic("var", var, seen.parameter_shape, seen.dtype)
    affine = seen.parameter("weight", weight, 1), seen.parameter("bias", bias, 0)
    eps = arguments.eps(eps)
    if out is not None:
        arguments.out(out, x, {"x": x}, {"mean": mean, "var": var, "weight": weight, "bias": bias})

    y = seen.target(out, seen.planes, x)
    if x.size > 0:
        stream = not seen.small and streams(2 * x.nbytes)
        given = seen.load_x(x, seen.planes), behaved(mean, arguments.FLOAT64), behaved(var, arguments.FLOAT64), *affine
        if not kernels.batch_norm(engine(), stream, *given, eps, y):
            raise arguments.negative("var", var)
    return seen.deliver(y, out)


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
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        statistics = running_mean, running_var, momentum
        return functions.batch_norm_forward(x, weight, bias, *statistics, channel_axis, eps, mask, out)
    running = running_mean, running_var, NOT_MOVED[2]
    return train_forward(x, weight, bias, *running, momentum, channel_axis, eps, mask, out)[0]


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
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        return functions.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis, mask, frozen, out)
    seen = see(x, channel_axis, arguments.channel_axes)
    arguments.like("dy", dy, x)
    arguments.statistic("mean", mean, seen.parameter_shape, seen.dtype)
    arguments.statistic("rstd", rstd, seen.parameter_shape, seen.dtype)
    own_weight = seen.parameter("weight", weight, 1)
    arguments.flag("frozen", frozen)
    if mask is not None:
        arguments.mask(mask, positions(x, channel_axis).shape[:-1])
    if out is not None:
        arguments.out(out, x, {"dy": dy, "x": x}, {"mean": mean, "rstd": rstd, "weight": weight, "mask": mask})

    statistics = behaved(mean, arguments.FLOAT64 if frozen else seen.dtype), behaved(rstd, seen.dtype)
    if mask is None:
        return _backward(seen, dy, x, *statistics, own_weight, frozen, out)
    packed, packed_dy = positions(x, channel_axis)[mask], positions(dy, channel_axis)[mask]
    seen_packed = split(packed, (1,))
    values, dweight, dbias = _backward(seen_packed, packed_dy, packed, *statistics, own_weight, frozen, None)
    return Gradients(unpack(values, mask, channel_axis, x, out), dweight, dbias)


def train_forward(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    batches: Array,
    momentum: float,
    channel_axis: int,
    eps: float,
    mask: Array | None,
    out: Array | None,
    skip_nonfinite: bool = False,
    of_layer: bool = False,
) -> tuple[Forward, bool]:
    """`batch_norm_forward`, which adds 1 to `batches` (int64) when it updates the running statistics; and what
    `update_running` returns. Those `of_layer` have been checked.
    """
    seen = see(x, channel_axis, arguments.channel_axes)
    affine = seen.parameter("weight", weight, 1), seen.parameter("bias", bias, 0)
    eps, momentum = arguments.eps(eps), arguments.momentum(momentum)
    if mask is not None:
        arguments.mask(mask, positions(x, channel_axis).shape[:-1])
    if out is not None:
        arguments.out(out, x, {"x": x}, {"weight": weight, "bias": bias, "mask": mask})
    if not of_layer and (running_mean is not None or running_var is not None):
        apart = {"weight": weight, "bias": bias, "mask": mask, "x": x, "out": out}
        arguments.updated("running_mean", running_mean, seen.parameter_shape, seen.dtype, apart)
        apart["running_mean"] = running_mean
        arguments.updated("running_var", running_var, seen.parameter_shape, seen.dtype, apart)
    count = seen.outer * seen.inner if mask is None else int(np.count_nonzero(mask))
    arguments.several_values(x, count, mask is not None)

    if mask is None:
        y, mean, rstd, var = _forward(seen, x, *affine, eps, out)
    else:
        packed = positions(x, channel_axis)[mask]
        values, mean, rstd, var = _forward(split(packed, (1,)), packed, *affine, eps, None)
        y = unpack(values, mask, channel_axis, x, out)
    finite = True
    if x.size > 0:
        statistics = mean, var, count, skip_nonfinite
        finite = update_running(running_mean, running_var, batches, momentum, *statistics)
    return Forward(y, mean.astype(seen.dtype), rstd), finite


def _forward(
    seen: Split, x: Array, weight: Array, bias: Array, eps: float, out: Array | None
) -> tuple[Array, Array, Array, Array]:
    """y, mean (float64), rstd, biased variance (float64)."""
    y, C = seen.target(out, seen.planes, x), seen.own
    mean, var, rstd = np.empty(C), np.empty(C), np.empty(C, seen.dtype)
    if x.size > 0:
        own_x = seen.load_x(x, seen.planes)
        whole = _whole_tiles_are_small(seen.planes, seen.dtype.itemsize)
        kernel = kernels.batch_norm_forward_whole if whole else kernels.batch_norm_forward_parts
        kernel(engine(), not seen.small and streams(2 * x.nbytes), own_x, weight, bias, eps, y, mean, rstd, var)
    else:
        for statistic in (mean, var, rstd):
            statistic.fill(np.nan)
    return seen.deliver(y, out), mean, rstd, var


def _backward(
    seen: Split, dy: Array, x: Array, mean: Array, rstd: Array, weight: Array, frozen: bool, out: Array | None
) -> Gradients:
    dx = seen.target(out, seen.planes, x)
    dweight, dbias = np.empty(seen.own, seen.dtype), np.empty(seen.own, seen.dtype)
    if x.size > 0:
        if frozen:
            kernel = kernels.batch_norm_backward_frozen
        elif _whole_tiles_are_small(seen.planes, seen.dtype.itemsize):
            kernel = kernels.batch_norm_backward_whole
        else:
            kernel = kernels.batch_norm_backward_parts
        arrays, results = (seen.load(dy, seen.planes), seen.load_x(x, seen.planes), mean, rstd), (dx, dweight, dbias)
        if not kernel(engine(), not seen.small and streams(3 * x.nbytes), *arrays, weight, *results):
            scaled_backward(kernel, arrays, weight, *results, dx=dx)
    else:
        dweight.fill(0)
        dbias.fill(0)
    return Gradients(seen.deliver(dx, out), dweight, dbias)


@lru_cache(256)
def _whole_tiles_are_small(planes: Shape, itemsize: int) -> bool:
    return bool(whole_steps(planes, itemsize)[1])


def positions(a: Array, channel_axis: int) -> Array:
    """A view with the channels last."""
    return np.moveaxis(a, channel_axis, -1)


def unpack(values: Array, mask: Array, channel_axis: int, x: Array, out: Array | None) -> Array:
    """The packed results where mask is True, 0 elsewhere."""
    full = np.empty_like(x, values.dtype, subok=False) if out is None else out
    full[...] = 0
    positions(full, channel_axis)[mask] = values
    return full


def update_running(
    running_mean: Array | None,
    running_var: Array | None,
    batches: Array,
    momentum: float,
    mean: Array,
    var: Array,
    count: float,
    skip_nonfinite: bool = False,
) -> bool:
    """Whether the statistics of the batch, mean and var, are finite; if not, with `skip_nonfinite` nothing is updated.

    All or nothing, whatever a signal handler raises: it gets its turn between steps of Python alone.
    """
    given = [_NO_STATISTIC if a is None else a for a in (running_mean, running_var, batches)]
    own = [behaved(a, a.dtype if a.dtype.isnative else a.dtype.newbyteorder("=")) for a in given]
    apart = own[0] is not given[0] or own[1] is not given[1] or own[2] is not given[2]
    if apart:
        own = [a.copy() for a in own]
    factor = count / (count - 1)
    finite = kernels.update_running(momentum, mean, own[0], var, factor, own[1], own[2], skip_nonfinite)
    if apart:
        list(starmap(setitem, [(a, ..., own_a) for a, own_a in zip(given, own, strict=True)]))
    return bool(finite)
