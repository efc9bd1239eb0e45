"""The operations as a good NumPy user writes them: vectorised, in float32, few temporaries, in place where possible.

Each function takes the arrays of a case and returns the call to be timed. `einsum` sums products without a temporary.
"""

import numpy as np

EPS = 1e-5
RMS_EPS = 1e-6
MOMENTUM = 0.1


def layer_norm(x, weight, bias, axis):
    """y."""
    forward = layer_norm_forward(x, weight, bias, axis)
    return lambda: forward()[0]


def layer_norm_forward(x, weight, bias, axis):
    """y, mean, rstd."""
    shape = _along(axis, x)

    def call():
        y, mean, _, rstd = _forward(x, weight.reshape(shape), bias.reshape(shape), (axis % x.ndim,))
        return y, mean, rstd

    return call


def layer_norm_backward(dy, x, mean, rstd, weight, axis):
    """dx, dweight, dbias."""
    over, others = (axis % x.ndim,), _all_but(axis, x)
    shape = _along(axis, x)

    def call():
        x_hat = (x - mean) * rstd
        wdy = dy * weight.reshape(shape)
        mean_wdy = wdy.mean(over, keepdims=True)
        mean_wdy_x_hat = _sum_of_products(wdy, x_hat, over) / x.shape[axis]
        dweight, dbias = _sum_of_products(dy, x_hat, others), dy.sum(others)
        x_hat *= mean_wdy_x_hat
        wdy -= mean_wdy
        wdy -= x_hat
        wdy *= rstd
        return wdy, dweight.ravel(), dbias

    return call


def rms_norm(x, weight, axis):
    """y."""
    forward = rms_norm_forward(x, weight, axis)
    return lambda: forward()[0]


def rms_norm_forward(x, weight, axis):
    """y, rstd."""
    shape, over = _along(axis, x), (axis % x.ndim,)

    def call():
        rstd = 1 / np.sqrt(_sum_of_products(x, x, over) * np.float32(1 / x.shape[axis]) + np.float32(RMS_EPS))
        y = x * rstd
        y *= weight.reshape(shape)
        return y, rstd

    return call


def rms_norm_backward(dy, x, rstd, weight, axis):
    """dx, dweight."""
    over, others = (axis % x.ndim,), _all_but(axis, x)
    shape = _along(axis, x)

    def call():
        x_hat = x * rstd
        wdy = dy * weight.reshape(shape)
        mean_wdy_x_hat = _sum_of_products(wdy, x_hat, over) / x.shape[axis]
        dweight = _sum_of_products(dy, x_hat, others)
        x_hat *= mean_wdy_x_hat
        wdy -= x_hat
        wdy *= rstd
        return wdy, dweight.ravel()

    return call


def batch_norm(x, mean, var, weight, bias, channel_axis):
    """y."""
    shape = _along(channel_axis, x)

    def call():
        scale = weight / np.sqrt(var + EPS)
        y = x * scale.reshape(shape)
        y += (bias - mean * scale).reshape(shape)
        return y

    return call


def batch_norm_forward(x, weight, bias, running_mean, running_var, channel_axis):
    """y, mean, rstd."""
    shape, over = _along(channel_axis, x), _all_but(channel_axis, x)
    count = x.size // x.shape[channel_axis]

    def call():
        y, mean, var, rstd = _forward(x, weight.reshape(shape), bias.reshape(shape), over)
        for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
            running *= 1 - MOMENTUM
            running += MOMENTUM * batch.ravel()
        return y, mean.ravel(), rstd.ravel()

    return call


def batch_norm_backward(dy, x, mean, rstd, weight, channel_axis):
    """dx, dweight, dbias."""
    shape, over = _along(channel_axis, x), _all_but(channel_axis, x)
    count = x.size // x.shape[channel_axis]

    def call():
        dx = x - mean.reshape(shape)
        dx *= rstd.reshape(shape)
        dbias = dy.sum(over)
        dweight = _sum_of_products(dy, dx, over).ravel()
        dx *= (dweight / -count).reshape(shape)
        dx += dy
        dx -= (dbias / count).reshape(shape)
        dx *= (rstd * weight).reshape(shape)
        return dx, dweight, dbias

    return call


def _forward(x, weight, bias, over):
    mean = x.mean(over, keepdims=True)
    y = x - mean
    var = _sum_of_products(y, y, over) * (mean.size / x.size)
    rstd = 1 / np.sqrt(var + EPS)
    y *= rstd
    y *= weight
    y += bias
    return y, mean, var, rstd


def _sum_of_products(a, b, over):
    """(a * b).sum(over, keepdims=True)."""
    axes = range(a.ndim)
    total = np.einsum(a, axes, b, axes, [i for i in axes if i not in over])
    return np.expand_dims(total, over)


def _along(axis, x):
    return tuple(n if i == axis % x.ndim else 1 for i, n in enumerate(x.shape))


def _all_but(axis, x):
    return tuple(i for i in range(x.ndim) if i != axis % x.ndim)
