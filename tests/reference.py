"""The oracle: the norms straight from their formulas, in NumPy, at a precision above that of what is tested.

Everything is float64, or longdouble for float64 input. `test_reference.py` holds the gradients against differences.
"""

from typing import NamedTuple

import numpy as np


class Forward(NamedTuple):
    y: np.ndarray
    mean: np.ndarray  # statistics keep the reduced axes as 1
    rstd: np.ndarray
    var: np.ndarray  # biased
    x_hat: np.ndarray


class Gradients(NamedTuple):
    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
    dweight_terms: np.ndarray  # the sums of the magnitudes of the terms
    dbias_terms: np.ndarray
    dx_terms: np.ndarray  # the largest of those that share a statistic, which keeps the reduced axes as 1


def precise(a):
    a = np.asarray(a)
    return a.astype(np.longdouble if a.dtype.itemsize == 8 else np.float64)


def normalize(x, axes, eps, where=True):
    """mean, rstd, var and x_hat over `axes`, of the positions in `where`."""
    x = np.where(where, precise(x), 0)
    count = np.broadcast_to(where, x.shape).sum(axes, keepdims=True)
    mean = x.sum(axes, keepdims=True) / count
    centered = np.where(where, x - mean, 0)
    rounding = centered.sum(axes, keepdims=True) / count  # of the mean
    centered = np.where(where, centered - rounding, 0)
    var = (centered * centered).sum(axes, keepdims=True) / count
    rstd = 1 / np.sqrt(var + x.dtype.type(eps))
    return mean + rounding, rstd, var, centered * rstd


def layer_norm_forward(x, weight, bias, axes, eps=1e-5):
    mean, rstd, var, x_hat = normalize(x, axes, eps)
    y = x_hat * _over(weight, axes, x.ndim, 1) + _over(bias, axes, x.ndim, 0)
    return Forward(y, mean, rstd, var, x_hat)


def layer_norm_backward(dy, x, weight, axes, eps=1e-5):
    _, rstd, _, x_hat = normalize(x, axes, eps)
    dy = precise(dy)
    wdy = dy * _over(weight, axes, x.ndim, 1)
    dx, terms = input_gradient(wdy, x_hat, rstd, axes)
    others = tuple(i for i in range(x.ndim) if i not in {a % x.ndim for a in _tuple(axes)})
    return Gradients(dx, *_parameter_gradients(dy, x_hat, others), terms)


class RMSForward(NamedTuple):
    y: np.ndarray
    rstd: np.ndarray
    x_hat: np.ndarray


class RMSGradients(NamedTuple):
    dx: np.ndarray
    dweight: np.ndarray
    dweight_terms: np.ndarray
    dx_terms: np.ndarray


def rms_norm_forward(x, weight, axes, eps=1e-6):
    x = precise(x)
    rstd = 1 / np.sqrt(_mean(x * x, axes) + x.dtype.type(eps))
    return RMSForward(x * rstd * _over(weight, axes, x.ndim, 1), rstd, x * rstd)


def rms_norm_backward(dy, x, weight, axes, eps=1e-6):
    _, rstd, x_hat = rms_norm_forward(x, weight, axes, eps)
    dy = precise(dy)
    wdy = dy * _over(weight, axes, x.ndim, 1)
    mean_wdy_x_hat = _mean(wdy * x_hat, axes)
    terms = rstd * (np.abs(wdy) + np.abs(x_hat * mean_wdy_x_hat))
    others = tuple(i for i in range(x.ndim) if i not in {a % x.ndim for a in _tuple(axes)})
    dweight, dweight_terms = (dy * x_hat).sum(others), np.abs(dy * x_hat).sum(others)
    return RMSGradients(rstd * (wdy - x_hat * mean_wdy_x_hat), dweight, dweight_terms, _largest(terms, axes))


def batch_norm_forward(x, weight, bias, channel_axis, eps=1e-5, mask=None):
    axes, where = _non_channel(x, channel_axis), _where(mask, channel_axis)
    mean, rstd, var, x_hat = normalize(x, axes, eps, where)
    y = x_hat * _per_channel(weight, channel_axis, x.ndim, 1) + _per_channel(bias, channel_axis, x.ndim, 0)
    return Forward(np.where(where, y, 0), mean, rstd, var, x_hat)


def batch_norm_backward(dy, x, weight, channel_axis, eps=1e-5, mask=None):
    axes, where = _non_channel(x, channel_axis), _where(mask, channel_axis)
    _, rstd, _, x_hat = normalize(x, axes, eps, where)
    dy = np.where(where, precise(dy), 0)
    wdy = dy * _per_channel(weight, channel_axis, x.ndim, 1)
    dx, terms = input_gradient(wdy, x_hat, rstd, axes, where)
    return Gradients(np.where(where, dx, 0), *_parameter_gradients(dy, x_hat, axes), terms)


def batch_norm(x, mean, var, weight, bias, channel_axis, eps=1e-5):
    """Inference; also x_hat."""
    mean, var = (_per_channel(a, channel_axis, x.ndim, None) for a in (mean, var))
    x_hat = (precise(x) - mean) / np.sqrt(var + eps)
    return x_hat * _per_channel(weight, channel_axis, x.ndim, 1) + _per_channel(bias, channel_axis, x.ndim, 0), x_hat


def batch_norm_backward_frozen(dy, x, mean, rstd, weight, channel_axis):
    mean, rstd = (_per_channel(a, channel_axis, x.ndim, None) for a in (mean, rstd))
    dy = precise(dy)
    dx = dy * _per_channel(weight, channel_axis, x.ndim, 1) * rstd
    x_hat, axes = (precise(x) - mean) * rstd, _non_channel(x, channel_axis)
    return Gradients(dx, *_parameter_gradients(dy, x_hat, axes), _largest(np.abs(dx), axes))


def input_gradient(wdy, x_hat, rstd, axes, where=True):
    """Dx, and the largest sum of the magnitudes of its terms."""
    count = np.broadcast_to(where, wdy.shape).sum(axes, keepdims=True)
    mean_wdy = wdy.sum(axes, keepdims=True) / count
    mean_wdy_x_hat = (wdy * x_hat).sum(axes, keepdims=True) / count
    terms = rstd * (np.abs(wdy) + np.abs(mean_wdy) + np.abs(x_hat * mean_wdy_x_hat))
    return rstd * (wdy - mean_wdy - x_hat * mean_wdy_x_hat), _largest(terms, axes)


def _mean(a, axes):
    """Of no values 0 / 0, as in `normalize`; NumPy's own would warn of them in another way."""
    return a.sum(axes, keepdims=True) / np.ones(a.shape).sum(axes, keepdims=True)


def _largest(terms, axes):
    return terms.max(axes, keepdims=True, initial=0)


def _parameter_gradients(dy, x_hat, axes):
    terms = dy * x_hat
    return terms.sum(axes), dy.sum(axes), np.abs(terms).sum(axes), np.abs(dy).sum(axes)


def _tuple(axes):
    return axes if isinstance(axes, tuple) else (axes,)


def _over(parameter, axes, ndim, otherwise):
    """A parameter of the normalised axes, so that it broadcasts against x."""
    if parameter is None:
        return otherwise
    ascending = iter(parameter.shape)
    axes = {a % ndim for a in _tuple(axes)}
    return precise(parameter).reshape([next(ascending) if i in axes else 1 for i in range(ndim)])


def _per_channel(parameter, channel_axis, ndim, otherwise):
    if parameter is None:
        return otherwise
    return precise(parameter).reshape([-1 if i == channel_axis % ndim else 1 for i in range(ndim)])


def _non_channel(x, channel_axis):
    return tuple(i for i in range(x.ndim) if i != channel_axis % x.ndim)


def _where(mask, channel_axis):
    return True if mask is None else np.expand_dims(mask, channel_axis)
