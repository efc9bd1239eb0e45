"""The operations in PyTorch: its native kernels, on tensors of its own, in inference mode (no graph is recorded).

Each function takes the arrays of a case and returns the call to be timed.
"""

import torch

EPS = 1e-5
RMS_EPS = 1e-6
MOMENTUM = 0.1

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


def layer_norm(x, weight, bias, axis):
    """y."""
    if axis != -1:
        forward = layer_norm_forward(x, weight, bias, axis)
        return lambda: forward()[0]
    x, weight, bias = _tensors(x, weight, bias)
    return lambda: torch.layer_norm(x, weight.shape, weight, bias, EPS)


def layer_norm_forward(x, weight, bias, axis):
    """y, mean, rstd; over another than the last axis in elementary steps, as ConvNeXt does it."""
    x, weight, bias = _tensors(x, weight, bias)
    if axis == -1:
        return lambda: torch.native_layer_norm(x, weight.shape, weight, bias, EPS)
    shape = (-1,) + (1,) * (x.ndim - 1 - axis)

    def call():
        mean = x.mean(axis, keepdim=True)
        y = x - mean
        rstd = y.square().mean(axis, keepdim=True).add_(EPS).rsqrt_()
        return y.mul_(rstd).mul_(weight.view(shape)).add_(bias.view(shape)), mean, rstd

    return call


def layer_norm_backward(dy, x, mean, rstd, weight, axis):
    """dx, dweight, dbias; over another than the last axis on views with that axis last."""
    dy, x, mean, rstd, weight = _tensors(dy, x, mean, rstd, weight)
    bias, wanted = torch.zeros_like(weight), [True] * 3
    if axis == -1:
        return lambda: _layer_norm_backward(dy, x, weight.shape, mean, rstd, weight, bias, wanted)
    mean, rstd = mean.movedim(axis, -1).contiguous(), rstd.movedim(axis, -1).contiguous()

    def call():
        views = dy.movedim(axis, -1), x.movedim(axis, -1)
        dx, *gradients = _layer_norm_backward(*views, weight.shape, mean, rstd, weight, bias, wanted)
        return dx.movedim(-1, axis), *gradients

    return call


def rms_norm(x, weight, axis):
    """y."""
    if axis != -1:
        forward = rms_norm_forward(x, weight, axis)
        return lambda: forward()[0]
    x, weight = _tensors(x, weight)
    return lambda: torch.rms_norm(x, weight.shape, weight, RMS_EPS)


def rms_norm_forward(x, weight, axis):
    """y, rstd, in the elementary steps that PyTorch takes on the CPU itself."""
    x, weight = _tensors(x, weight)
    shape = (-1,) + (1,) * (x.ndim - 1 - axis % x.ndim)

    def call():
        rstd = x.square().mean(axis, keepdim=True).add_(RMS_EPS).rsqrt_()
        return (x * rstd).mul_(weight.view(shape)), rstd

    return call


def rms_norm_backward(dy, x, rstd, weight, axis):
    """dx, dweight, in elementary steps: PyTorch has no kernel of it for the CPU."""
    dy, x, rstd, weight = _tensors(dy, x, rstd, weight)
    shape = (-1,) + (1,) * (x.ndim - 1 - axis % x.ndim)
    others = [i for i in range(x.ndim) if i != axis % x.ndim]

    def call():
        x_hat, wdy = x * rstd, dy * weight.view(shape)
        dweight = (dy * x_hat).sum(others)
        return wdy.sub_(x_hat.mul_((wdy * x_hat).mean(axis, keepdim=True))).mul_(rstd), dweight

    return call


def batch_norm(x, mean, var, weight, bias, channel_axis):
    """y."""
    x, mean, var, weight, bias = _tensors(x, mean, var, weight, bias)
    x, back = _channels_second(x, channel_axis)
    return lambda: back(torch.batch_norm(x, weight, bias, mean, var, False, MOMENTUM, EPS, False))


def batch_norm_forward(x, weight, bias, running_mean, running_var, channel_axis):
    """y, mean, rstd."""
    x, weight, bias, running_mean, running_var = _tensors(x, weight, bias, running_mean, running_var)
    x, back = _channels_second(x, channel_axis)

    def call():
        y, mean, rstd = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, MOMENTUM, EPS)
        return back(y), mean, rstd

    return call


def batch_norm_backward(dy, x, mean, rstd, weight, channel_axis):
    """dx, dweight, dbias."""
    dy, x, mean, rstd, weight = _tensors(dy, x, mean, rstd, weight)
    (dy, _), (x, back) = _channels_second(dy, channel_axis), _channels_second(x, channel_axis)

    def call():
        dx, *gradients = _batch_norm_backward(dy, x, weight, None, None, mean, rstd, True, EPS, [True] * 3)
        return back(dx), *gradients

    return call


def _tensors(*arrays):
    with torch.inference_mode():
        return [torch.from_numpy(a).clone() for a in arrays]  # cloned: its own alignment suits it best


def _channels_second(x, channel_axis):
    """x as PyTorch wants it (a view: channels-last memory has fast kernels there), and the way back."""
    if channel_axis in (1, 1 - x.ndim):
        return x, lambda y: y
    return x.movedim(channel_axis, 1), lambda y: y.movedim(1, channel_axis)
