"""Layer normalization: the public functions."""

from numbanorm._call import numbers
from numbanorm._call.kinds import over_axes
from numbanorm._types import Array, Forward, Gradients

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
    call = over_axes(x, axis)
    affine = call.parameter("weight", weight, 1), call.parameter("bias", bias, 0)
    eps = numbers.eps(eps)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"weight": weight, "bias": bias})
    y = call.target(out, x)
    nobody_wants = call.no_statistic
    call.layernorm.layer_norm_forward(call, call.load_x(x), *affine, eps, y, nobody_wants, nobody_wants)
    return call.deliver(y, out)


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
    call = over_axes(x, axis)
    affine = call.parameter("weight", weight, 1), call.parameter("bias", bias, 0)
    eps = numbers.eps(eps)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"weight": weight, "bias": bias})
    y, mean, rstd = call.target(out, x), call.new_statistic(), call.new_statistic()
    call.layernorm.layer_norm_forward(call, call.load_x(x), *affine, eps, y, mean, rstd)
    return Forward(call.deliver(y, out), call.deliver_statistic(mean), call.deliver_statistic(rstd))


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
    call = over_axes(x, axis)
    given = call.like_x("dy", dy, x), call.load_x(x), call.statistic("mean", mean), call.statistic("rstd", rstd)
    scale = call.parameter("weight", weight, 1)
    if out is not None:
        call.check_out(out, x, {"dy": dy, "x": x}, {"mean": mean, "rstd": rstd, "weight": weight})
    dx, dweight, dbias = call.target(out, x), call.new_parameter(), call.new_parameter()
    call.layernorm.layer_norm_backward(call, *given, scale, dx, dweight, dbias)
    return Gradients(call.deliver(dx, out), call.deliver_parameter(dweight), call.deliver_parameter(dbias))
