"""The operations in JAX on the CPU, compiled by ``jax.jit`` for each case; a call waits for its results.

The variance is mean(x * x) - mean(x)^2, Flax's default and the quickest.
"""

import os
from functools import partial

import numbanorm

# The only way to tell XLA how many threads to take; it looks when the first array is made.
os.environ["NPROC"] = str(numbanorm.get_num_threads())
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)  # for float64 cases; those of float32 stay float32

EPS = 1e-5
MOMENTUM = 0.1


def _jitted(function):
    """From ``function(*arrays, axis)`` to what makes a call of it."""

    def make(*arrays_and_axis):
        *arrays, axis = arrays_and_axis
        axis %= arrays[0].ndim
        compiled = jax.jit(partial(function, axis=axis))
        own = [jnp.array(a) for a in arrays]
        return lambda: jax.block_until_ready(compiled(*own))

    return make


def _layer_norm(x, weight, bias, axis):
    return _layer_norm_forward(x, weight, bias, axis)[0]


def _layer_norm_forward(x, weight, bias, axis):
    mean, var = _moments(x, (axis,))
    rstd = jax.lax.rsqrt(var + EPS)
    return (x - mean) * (rstd * _along(weight, axis, x)) + _along(bias, axis, x), mean, rstd


def _layer_norm_backward(dy, x, mean, rstd, weight, axis):
    x_hat = (x - mean) * rstd
    wdy = dy * _along(weight, axis, x)
    mean_wdy = wdy.mean(axis, keepdims=True)
    mean_wdy_x_hat = (wdy * x_hat).mean(axis, keepdims=True)
    others = _all_but(axis, x)
    return rstd * (wdy - mean_wdy - x_hat * mean_wdy_x_hat), (dy * x_hat).sum(others), dy.sum(others)


def _batch_norm(x, mean, var, weight, bias, axis):
    scale = weight * jax.lax.rsqrt(var + EPS)
    return (x - _along(mean, axis, x)) * _along(scale, axis, x) + _along(bias, axis, x)


def _batch_norm_forward(x, weight, bias, running_mean, running_var, axis):
    """The updated running statistics too, as new arrays, which is all that JAX has."""
    mean, var = _moments(x, _all_but(axis, x))
    rstd = jax.lax.rsqrt(var + EPS)
    y = (x - mean) * (rstd * _along(weight, axis, x)) + _along(bias, axis, x)
    count = x.size // x.shape[axis]
    running_mean = (1 - MOMENTUM) * running_mean + MOMENTUM * mean.ravel()
    running_var = (1 - MOMENTUM) * running_var + MOMENTUM * count / (count - 1) * var.ravel()
    return y, mean.ravel(), rstd.ravel(), running_mean, running_var


def _batch_norm_backward(dy, x, mean, rstd, weight, axis):
    others, count = _all_but(axis, x), x.size // x.shape[axis]
    x_hat = (x - _along(mean, axis, x)) * _along(rstd, axis, x)
    dweight, dbias = (dy * x_hat).sum(others), dy.sum(others)
    of_x_hat, of_one = _along(dweight / count, axis, x), _along(dbias / count, axis, x)
    return _along(rstd * weight, axis, x) * (dy - of_one - x_hat * of_x_hat), dweight, dbias


def _moments(x, over):
    mean = x.mean(over, keepdims=True)
    return mean, jnp.maximum((x * x).mean(over, keepdims=True) - mean * mean, 0)


def _along(parameter, axis, x):
    return parameter.reshape([n if i == axis else 1 for i, n in enumerate(x.shape)])


def _all_but(axis, x):
    return tuple(i for i in range(x.ndim) if i != axis)


layer_norm = _jitted(_layer_norm)
layer_norm_forward = _jitted(_layer_norm_forward)
layer_norm_backward = _jitted(_layer_norm_backward)
batch_norm = _jitted(_batch_norm)
batch_norm_backward = _jitted(_batch_norm_backward)


def batch_norm_forward(*arrays_and_axis):
    """y, mean, rstd, as the others give them; the running statistics are computed as well."""
    call = _jitted(_batch_norm_forward)(*arrays_and_axis)
    return lambda: call()[:3]
