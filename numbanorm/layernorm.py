"""Layer normalization: the public functions."""

import numpy as np

from numbanorm import _checks
from numbanorm._arrays import Split, split
from numbanorm._types import Array, Forward, Gradients
from numbanorm.cpu import layernorm as kernels
from numbanorm.cpu.parallel import engine

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
    x : ndarray of float32 or float64
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
    A non-finite value makes the values that share its statistics non-finite, and no others.

    References
    ----------
    .. [1] Ba, Kiros, Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm
    >>> layer_norm(np.array([[1, 2, 3], [10, 20, 30]], np.float32)).round(3)
    array([[-1.225,  0.   ,  1.225],
           [-1.225,  0.   ,  1.225]], dtype=float32)
    """
    return layer_norm_forward(x, weight, bias, axis=axis, eps=eps, out=out).y


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

    Returns
    -------
    y : ndarray
        As `layer_norm` returns it. Parameters and errors are the same too.
    mean, rstd : ndarray of x's dtype
        Of the shape of x with 1 for the normalised axes.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import layer_norm_forward
    >>> y, mean, rstd = layer_norm_forward(np.array([[1, 2, 3], [10, 20, 30]], np.float32))
    >>> mean
    array([[ 2.],
           [20.]], dtype=float32)
    """
    _checks.array("x", x)
    seen = split(x, _checks.axes(axis, x))
    _checks.parameter("weight", weight, seen.parameter_shape, x)
    _checks.parameter("bias", bias, seen.parameter_shape, x)
    eps = _checks.eps(eps)
    _checks.out(out, x, {"x": x}, {"weight": weight, "bias": bias})

    outer, count, inner = seen.shape
    y = seen.target(out)
    mean, rstd = np.empty((2, outer, inner), seen.dtype)
    if x.size == 0:
        mean.fill(np.nan)
        rstd.fill(np.nan)
    elif inner == 1:
        w, b = _affine(seen, weight, bias)
        flat = outer, count
        kernels.layer_norm_forward(
            engine(), seen.load(x).reshape(flat), w, b, eps, y.reshape(flat), mean.reshape(outer), rstd.reshape(outer)
        )
    else:
        w, b = _parameter(seen, weight, 1), _parameter(seen, bias, 0)
        kernels.layer_norm_columns_forward(engine(), seen.load(x), w, b, eps, y, mean, rstd)
    return Forward(seen.deliver(y, out), seen.deliver_statistic(mean), seen.deliver_statistic(rstd))


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
    x : ndarray of float32 or float64
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
    _checks.array("x", x)
    _checks.like("dy", dy, x)
    seen = split(x, _checks.axes(axis, x))
    _checks.statistic("mean", mean, seen.kept_shape, x)
    _checks.statistic("rstd", rstd, seen.kept_shape, x)
    _checks.parameter("weight", weight, seen.parameter_shape, x)
    _checks.out(out, x, {"dy": dy, "x": x}, {"mean": mean, "rstd": rstd, "weight": weight})

    outer, count, inner = seen.shape
    dx = seen.target(out)
    dweight, dbias = np.zeros((2, count), seen.dtype)
    if x.size > 0:
        m, scale = seen.load_statistic(mean), seen.load_statistic(rstd)
        w = _parameter(seen, weight, 1)
        if inner == 1:
            flat = outer, count
            dy, x, m, scale = seen.load(dy).reshape(flat), seen.load(x).reshape(flat), m.reshape(-1), scale.reshape(-1)
            kernels.layer_norm_backward(engine(), dy, x, m, scale, w, dx.reshape(flat), dweight, dbias)
        else:
            kernels.layer_norm_columns_backward(engine(), seen.load(dy), seen.load(x), m, scale, w, dx, dweight, dbias)
    return Gradients(seen.deliver(dx, out), seen.deliver_parameter(dweight), seen.deliver_parameter(dbias))


def _affine(seen: Split, weight: Array | None, bias: Array | None) -> tuple[Array, Array]:
    """weight and bias for the kernel of rows: both empty for neither."""
    if weight is None and bias is None:
        none = np.empty(0, seen.dtype)
        return none, none
    return _parameter(seen, weight, 1), _parameter(seen, bias, 0)


def _parameter(seen: Split, value: Array | None, otherwise: float) -> Array:
    return np.full(seen.shape[1], otherwise, seen.dtype) if value is None else seen.load_parameter(value)
