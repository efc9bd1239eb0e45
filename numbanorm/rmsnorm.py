"""RMS normalization: the public functions."""

from typing import NamedTuple

from numbanorm._call import numbers
from numbanorm._call.kinds import over_axes
from numbanorm._types import Array

Axis = int | tuple[int, ...]


class RMSForward(NamedTuple):
    """The normalised array and the statistic that the backward pass needs."""

    y: Array
    rstd: Array


class RMSGradients(NamedTuple):
    """The gradients with respect to x and weight."""

    dx: Array
    dweight: Array


def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    out: Array | None = None,
) -> Array:
    """Divide x by the root of its mean square over `axis`, then scale.

    y = x * rstd * weight, with rstd = 1 / sqrt(mean(x * x) + eps), the mean being that over `axis` [1]_.

    Parameters
    ----------
    x : ndarray of float32 or float64, or array on a GPU
        Any shape and layout.
    weight : ndarray of x's dtype, optional
        Of the shape of the normalised axes, in ascending order: ``(x.shape[a] for a in sorted(axis))``. Ones if left
        out.
    axis : int or tuple of ints
        The axes that share one mean square.
    eps : float
        Added to the mean square; in the unit of x squared.
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
    NaN makes the values that share its rstd NaN, and no others; beside an infinite value, rstd and all finite values
    become 0, and it NaN. With eps = 0, zeros give NaN, as 0 / 0. y is right for values of any size: where their squares
    or rstd leave the range of the dtype, they are taken times a power of two. An rstd or dy * weight beyond that range
    is infinite.

    References
    ----------
    .. [1] Zhang, Sennrich, "Root Mean Square Layer Normalization", 2019, https://arxiv.org/abs/1910.07467

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import rms_norm
    >>> rms_norm(np.array([[1, 2, 4], [10, 20, 40]], np.float32)).round(3)
    array([[0.378, 0.756, 1.512],
           [0.378, 0.756, 1.512]], dtype=float32)
    """
    call = over_axes(x, axis)
    scale, eps = call.parameter("weight", weight, 1), numbers.eps(eps)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"weight": weight})
    y = call.target(out, x)
    call.rmsnorm.rms_norm_forward(call, call.load_x(x), scale, eps, y, call.no_statistic)
    return call.deliver(y, out)


def rms_norm_forward(
    x: Array,
    weight: Array | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-6,
    out: Array | None = None,
) -> RMSForward:
    """`rms_norm`, with the statistic that `rms_norm_backward` needs.

    Parameters
    ----------
    x, weight, axis, eps, out
        As in `rms_norm`.

    Returns
    -------
    y : ndarray
        As `rms_norm` returns it.
    rstd : ndarray of x's dtype
        1 / sqrt(mean(x * x) + eps), of the shape of x with 1 for the normalised axes.

    Raises
    ------
    TypeError, ValueError
        As `rms_norm` raises them.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import rms_norm_forward
    >>> y, rstd = rms_norm_forward(np.array([[3, 4], [6, 8]], np.float32), eps=0)
    >>> (1 / rstd**2).round(3)
    array([[12.5],
           [50. ]], dtype=float32)
    """
    call = over_axes(x, axis)
    scale, eps = call.parameter("weight", weight, 1), numbers.eps(eps)
    if out is not None:
        call.check_out(out, x, {"x": x}, {"weight": weight})
    y, rstd = call.target(out, x), call.new_statistic()
    call.rmsnorm.rms_norm_forward(call, call.load_x(x), scale, eps, y, rstd)
    return RMSForward(call.deliver(y, out), call.deliver_statistic(rstd))


def rms_norm_backward(
    dy: Array,
    x: Array,
    rstd: Array,
    weight: Array | None = None,
    *,
    axis: Axis = -1,
    out: Array | None = None,
) -> RMSGradients:
    """The gradients of RMS normalization.

    With x_hat = x * rstd and wdy = dy * weight, and the mean over the normalised axes::

        dx = rstd * (wdy - x_hat * mean(wdy * x_hat))
        dweight = sum(dy * x_hat), over all other axes

    Parameters
    ----------
    dy : ndarray
        The gradient with respect to y, of the shape and dtype of x.
    x : ndarray of float32 or float64, or array on a GPU
        What `rms_norm_forward` was given.
    rstd : ndarray
        What `rms_norm_forward` returned.
    weight : ndarray, optional
        What `rms_norm_forward` was given. If None, dweight is the gradient at ones.
    axis : int or tuple of ints
        What `rms_norm_forward` was given.
    out : ndarray of x's shape and dtype, optional
        Receives dx. It may be dy or x itself; it may not overlap an input otherwise.

    Returns
    -------
    dx : ndarray
        Of the shape and dtype of x; `out` if given.
    dweight : ndarray of x's dtype
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
    >>> from numbanorm import rms_norm_backward, rms_norm_forward
    >>> x = np.array([[3, 4], [6, 8]], np.float32)
    >>> y, rstd = rms_norm_forward(x)
    >>> dx, dweight = rms_norm_backward(np.ones_like(x), x, rstd)
    >>> dweight.round(3)
    array([1.697, 2.263], dtype=float32)
    """
    call = over_axes(x, axis)
    given = call.like_x("dy", dy, x), call.load_x(x), call.statistic("rstd", rstd)
    scale = call.parameter("weight", weight, 1)
    if out is not None:
        call.check_out(out, x, {"dy": dy, "x": x}, {"rstd": rstd, "weight": weight})
    dx, dweight = call.target(out, x), call.new_parameter()
    call.rmsnorm.rms_norm_backward(call, *given, scale, dx, dweight)
    return RMSGradients(call.deliver(dx, out), call.deliver_parameter(dweight))
