"""Batch normalization of x (N, C, L): statistics per channel, over N and L. With L = 1, x is rows x channels.

The work is cut into tiles of x. Where a tile can hold whole channels and stay in the cache (`whole_steps` says so), one
launch reads x once; otherwise one launch sums, tile by tile, and a second applies: launchers `*_whole` and `*_parts`.
"""

import math

import numpy as np

from numbanorm._math import sum_dy_x_hat
from numbanorm.cpu.compiling.jit import compact, launcher
from numbanorm.cpu.kernels.channel_tiles import (
    average_row,
    drop_untrue_shifts,
    finish_backward,
    finish_forward,
    finish_scaled,
    inference_row,
    none_negative,
    scaled_inference,
)
from numbanorm.cpu.kernels.channels import (
    all_gradient_sums,
    all_sums,
    all_whole_backward,
    all_whole_forward,
    all_wide_sums,
    apply_gradient_to_all,
    apply_scaled_to_all,
    apply_to_all,
)
from numbanorm.cpu.kernels.ranges import all_in_range, all_near, moments_of_wide_sums
from numbanorm.cpu.kernels.statistics import (
    channel_shift,
    gradient_shift,
    moments_of_sums,
    total,
)
from numbanorm.cpu.kernels.tiles import sum_steps, whole_steps, work
from numbanorm.cpu.vectors.elements import copy_row


@launcher
def batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """`batch_norm_forward` where tiles of whole channels are small."""
    compact()
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    all_whole_forward(engine, tiles, grain, (streams, steps, x, weight, bias, eps, y, mean, rstd, var))


@launcher
def batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """`batch_norm_forward` of any x."""
    compact()
    N, C, L = x.shape
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m, delta, partials = np.empty(C, x.dtype), np.empty(C), np.zeros((pieces, 2, C))
    channel_shift(x, (0, C), m)
    all_sums(engine, tiles, grain, (streams, steps, x, m, partials))
    sums, inexact, scale = total(partials), np.empty(C, np.bool_), np.ones(C, x.dtype)
    again, scaled = moments_of_sums((sums[0], sums[1]), N * L, m, delta, var, eps, inexact), False
    while again:
        partials[:] = 0
        all_wide_sums(engine, tiles, grain, (steps, x, m, inexact, scale, partials))
        sums = total(partials)
        again = moments_of_wide_sums((sums[0], sums[1]), N * L, eps, inexact, scale, m, delta, var)
        scaled |= again
    own = m, delta, var, weight, bias, eps, mean, rstd
    factor, offset = finish_forward(*own)
    if scaled:
        finish_scaled(scale, *own, factor, offset)
        apply_scaled_to_all(engine, streams, x, scale, m, factor, offset, y)
    else:
        apply_to_all(engine, streams, x, m, factor, offset, y)


@launcher
def batch_norm_forward(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """x, y: (N, C, L); weight, bias, rstd: (C,); mean, var (biased): (C,), float64."""
    compact()
    if whole_steps(x.shape, x.itemsize)[1]:
        batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var)
    else:
        batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var)


@launcher
def update_running(momentum, mean, running_mean, var, factor, running_var, batches, skip_nonfinite):
    """Move running statistics towards mean and factor * var (float64), and count the batch: all in one call, which no
    signal interrupts. What nobody wants is empty.

    Whether mean and var are finite; if not, with `skip_nonfinite` nothing is moved or counted.
    """
    compact()
    finite = True
    for i in range(mean.size):
        finite = finite and math.isfinite(mean[i]) and math.isfinite(var[i])
    if skip_nonfinite and not finite:
        return False
    average_row(running_mean.size, running_mean, mean, momentum, 1.0)
    average_row(running_var.size, running_var, var, momentum, factor)
    for i in range(batches.size):
        batches[i] += 1
    return finite


@launcher
def batch_norm(engine, streams, x, mean, var, weight, bias, eps, y):
    """Inference. x, y: (N, C, L); mean, var (float64), weight, bias: (C,). False, and y untouched, if a var < 0."""
    compact()
    if not none_negative(var.size, var):
        return False
    m, factor, offset = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    copy_row(m.size, m, mean)
    inference_row(m.size, factor, mean, m, var, weight, bias, eps, offset)
    if all_in_range(var, eps, x.itemsize):
        apply_to_all(engine, streams, x, m, factor, offset, y)
    else:
        scale = np.empty_like(weight)
        scaled_inference(scale, mean, var, weight, bias, eps, m, factor, offset)
        apply_scaled_to_all(engine, streams, x, scale, m, factor, offset, y)
    return True


@launcher
def batch_norm_backward_whole(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """`batch_norm_backward` where tiles of whole channels are small."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    all_whole_backward(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias))
    return True


@launcher
def batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """`batch_norm_backward` of any x."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    (N, C, L), m_dy = x.shape, np.empty_like(mean)
    gradient_shift(dy, (0, C), m_dy)
    sums = all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    if drop_untrue_shifts(sums, N * L, m_dy):
        sums = all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    linear = finish_backward(sums, N * L, rstd, m_dy, weight, dweight, dbias)
    apply_gradient_to_all(engine, streams, dy, x, mean, rstd, m_dy, *linear, dx)
    return True


@launcher
def batch_norm_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """dy, x, dx: (N, C, L); all else (C,), and of x's dtype.

    False, and nothing written, if x lies too far apart, as in all launchers of backward passes (`ranges.all_near`).
    """
    compact()
    if whole_steps(x.shape, x.itemsize)[1]:
        return batch_norm_backward_whole(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)
    return batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)


@launcher
def batch_norm_backward_frozen(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """As `batch_norm_backward` where mean (float64) and rstd are constants."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    m = mean.astype(x.dtype)
    zero = np.zeros_like(m)
    _, sum_dy, sum_dy_h = all_gradient_sums(engine, streams, dy, x, m, rstd, zero)
    for c in range(m.size):
        mean_h = (mean[c] - m[c]) * rstd[c]
        dweight[c], dbias[c] = sum_dy_x_hat(sum_dy_h[c], sum_dy[c], mean_h), sum_dy[c]
    apply_to_all(engine, streams, dy, zero, rstd * weight, zero, dx)  # dx = rstd * wdy
    return True
