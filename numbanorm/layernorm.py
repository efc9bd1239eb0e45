"""Layer normalization: the public functions."""

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.kinds import elsewhere
from numbanorm._call.view import Split, see
from numbanorm._types import Array, Forward, Gradients
from numbanorm.cpu.engine.machine import streams
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import columns, rows
from numbanorm.cpu.kernels.long_rows import (
    layer_norm_long_rows_backward,
    layer_norm_long_rows_forward,
    long_backward,
    long_forward,
)
from numbanorm.cpu.rescaled import scaled_backward

Axis = int | tuple[int, ...]


def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Array:
    """Normalise x over `axis`, then scale and shift.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps), the mean and the biased variance being those
    of the values along `axis` [1]_.

    Parameters
    ----------
    x : ndarray of float32 or float64, or array on a GPU
        Any shape and layout.
    weight, bias : ndarray of x's dtype, optional
        Of the shape of the normalised axes, in ascending order: ``(x.shape[a] for a in sorted(axis))``. Ones and zeros
        if left out.
    axis : int or tuple of ints
        The axes that share one mean and variance.
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

    Notes
    -----
    The error does not grow with mean / std: the mean is subtracted in two parts (`numbanorm._math.normalize`).
    A non-finite value makes the values that share its statistics non-finite, and no others. With eps = 0 equal values
    give NaN, as 0 / 0. y is right for values of any size: where their squares, x - mean or rstd leave the range of the
    dtype, they are taken times a power of two. A statistic, rstd * weight or dy * weight beyond that range is infinite.

    References
    ----------
    .. [1] Ba, Kiros, Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm
    >>> layer_norm(np.array([[1, 2, 4], [10, 20, 40]], np.float32)).round(3)
    array([[-1.069, -0.267,  1.336],
           [-1.069, -0.267,  1.336]], dtype=float32)
    """
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        return functions.layer_norm(x, weight, bias, axis, eps, out)
    seen = see(x, axis, arguments.axes)
    return _normalize(seen, x, weight, bias, eps, out, seen.nothing, seen.nothing)


def layer_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
    out: Array | None = None,
) -> Forward:
    """`layer_norm`, with the statistics that `layer_norm_backward` needs.

    Parameters
    ----------
    x, weight, bias, axis, eps, out
        As in `layer_norm`.

    Returns
    -------
    y : ndarray
        As `layer_norm` returns it.
    mean, rstd : ndarray of x's dtype
        Of the shape of x with 1 for the normalised axes.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm` raises them.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm_forward
    >>> y, mean, rstd = layer_norm_forward(np.array([[1, 2, 3], [10, 20, 30]], np.float32))
    >>> mean
    array([[ 2.],
           [20.]], dtype=float32)
    """
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        return functions.layer_norm_forward(x, weight, bias, axis, eps, out)
    seen = see(x, axis, arguments.axes)
    mean, rstd = np.empty(seen.reduced, seen.dtype), np.empty(seen.reduced, seen.dtype)
    y = _normalize(seen, x, weight, bias, eps, out, mean, rstd)
    if x.size == 0:
        mean.fill(np.nan)
        rstd.fill(np.nan)
    return Forward(y, seen.deliver_statistic(mean), seen.deliver_statistic(rstd))


def layer_norm_backward(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    *,
    axis: Axis = -1,
    out: Array | None = None,
) -> Gradients:
    """The gradients of layer normalization.

    With x_hat = (x - mean) * rstd and wdy = dy * weight, and means over the normalised axes::

        dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat))
        dweight = sum(dy * x_hat), dbias = sum(dy), over all other axes

    Parameters
    ----------
    dy : ndarray
        The gradient with respect to y, of the shape and dtype of x.
    x : ndarray of float32 or float64, or array on a GPU
        What `layer_norm_forward` was given.
    mean, rstd : ndarray
        What `layer_norm_forward` returned. The rounding error of `mean` is found again from x and made good.
    weight : ndarray, optional
        What `layer_norm_forward` was given. If None, dweight and dbias are the gradients at ones and zeros.
    axis : int or tuple of ints
        What `layer_norm_forward` was given.
    out : ndarray of x's shape and dtype, optional
        Receives dx. It may be dy or x itself; it may not overlap an input otherwise.

    Returns
    -------
    dx : ndarray
        Of the shape and dtype of x; `out` if given.
    dweight, dbias : ndarray of x's dtype
        Of the shape of the normalised axes.

    Raises
    ------
    TypeError
        An argument is of the wrong type or dtype.
    ValueError
        An argument is of the wrong shape or value, or `out` overlaps an input.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm_backward, layer_norm_forward
    >>> x = np.array([[1, 2, 4], [0, 3, 3]], np.float32)
    >>> y, mean, rstd = layer_norm_forward(x)
    >>> dx, dweight, dbias = layer_norm_backward(np.ones_like(x), x, mean, rstd)
    >>> dbias
    array([2., 2., 2.], dtype=float32)
    """
    if type(x) is not np.ndarray and (functions := elsewhere(x)):
        return functions.layer_norm_backward(dy, x, mean, rstd, weight, axis, out)
    seen = see(x, axis, arguments.axes)
    arguments.like("dy", dy, x)
    arguments.statistic("mean", mean, seen.kept_shape, seen.dtype)
    arguments.statistic("rstd", rstd, seen.kept_shape, seen.dtype)
    own_weight = seen.parameter("weight", weight, 1)
    if out is not None:
        arguments.out(out, x, {"dy": dy, "x": x}, {"mean": mean, "rstd": rstd, "weight": weight})

    dx = seen.target(out, seen.rows, x)
    dweight, dbias = np.empty(seen.own, seen.dtype), np.empty(seen.own, seen.dtype)
    if x.size > 0:
        if seen.inner > 1:
            kernel = columns.layer_norm_columns_backward
        elif long_backward(seen.own):
            kernel = layer_norm_long_rows_backward
        else:
            kernel = rows.layer_norm_rows_backward
        statistics = seen.load(mean, seen.reduced), seen.load(rstd, seen.reduced)
        arrays = seen.load(dy, seen.rows), seen.load_x(x, seen.rows), *statistics
        stream = not seen.small and streams(3 * x.nbytes)
        results = own_weight, dx, dweight, dbias
        if not kernel(engine(), stream, *arrays, *results):
            scaled_backward(kernel, arrays, *results, dx=dx)
    else:
        dweight.fill(0)
        dbias.fill(0)
    return Gradients(seen.deliver(dx, out), seen.deliver_parameter(dweight), seen.deliver_parameter(dbias))


def _normalize(
    seen: Split,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    eps: float,
    out: Array | None,
    mean: Array,
    rstd: Array,
) -> Array:
    """y; mean and rstd are filled unless they are `Split.nothing`."""
    own_weight, own_bias = seen.parameter("weight", weight, 1), seen.parameter("bias", bias, 0)
    eps = arguments.eps(eps)
    if out is not None:
        arguments.out(out, x, {"x": x}, {"weight": weight, "bias": bias})

    y = seen.target(out, seen.rows, x)
    if x.size > 0:
        if seen.inner > 1:
            kernel = columns.layer_norm_columns_forward
        elif not seen.small and long_forward(seen.own, seen.dtype.itemsize):
            kernel = layer_norm_long_rows_forward
        else:
            kernel = rows.layer_norm_rows_forward
        stream = not seen.small and streams(2 * x.nbytes)
        kernel(engine(), stream, seen.load_x(x, seen.rows), own_weight, own_bias, eps, y, mean, rstd)
    return seen.deliver(y, out)
