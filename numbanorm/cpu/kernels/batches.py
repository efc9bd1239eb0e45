"""Do batch normalization of x (N, C, L), with statistics per channel, over N and L. With L = 1, x is rows x channels.

The work is cut into tiles of x. If tiles of whole channels stay in the cache (`whole_channels` says so), one launch
reads each tile and writes its result: the launchers `*_whole`. Otherwise a first launch adds up sums, tile by tile, and
a second writes the results: the launchers `*_parts`.
"""

import math

import numpy as np

from numbanorm._math import scaled_difference, sum_dy_x_hat, weighted_rstd
from numbanorm.cpu.compiling.jit import compact, launcher
from numbanorm.cpu.kernels.channel_tiles import (
    average_row,
    finish_forward,
    finish_scaled,
    inference_row,
    none_negative,
    scaled_inference,
)
from numbanorm.cpu.kernels.channels import (
    all_gradient_sums,
    all_inexact_sums,
    all_sums,
    all_whole_backward,
    all_whole_forward,
    apply_gradient_to_all,
    apply_scaled_to_all,
    apply_to_all,
)
from numbanorm.cpu.kernels.gradient_tiles import drop_untrue_shifts, finish_backward
from numbanorm.cpu.kernels.ranges import all_in_range, all_near, moments_of_inexact_sums
from numbanorm.cpu.kernels.statistics import MomentSums, channel_shift, gradient_shift, moments_of_sums, total
from numbanorm.cpu.kernels.tiles import sum_steps, whole_channels, whole_steps, work
from numbanorm.cpu.vectors.elements import copy_row


@launcher
def batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """Do what `batch_norm_forward` does where tiles of whole channels stay in the cache."""
    compact()
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    all_whole_forward(engine, tiles, grain, (streams, steps, x, weight, bias, eps, y, mean, rstd, var))


@launcher
def batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """Do what `batch_norm_forward` does for any x."""
    compact()
    N, C, L = x.shape
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    m, delta, partials = np.empty(C, x.dtype), np.empty(C), np.zeros((pieces, 2, C))
    channel_shift(x, (0, C), m)
    all_sums(engine, tiles, grain, (streams, steps, x, m, partials))
    sums, inexact, scale = total(partials), np.empty(C, np.bool_), np.ones(C, x.dtype)
    moment_sums, scaled = MomentSums(sums[0], sums[1]), False
    again = moments_of_sums(moment_sums, N * L, m, delta, var, eps, inexact)
    while again:
        partials[:] = 0
        all_inexact_sums(engine, tiles, grain, (steps, x, m, inexact, scale, partials))
        sums = total(partials)
        moment_sums = MomentSums(sums[0], sums[1])
        again = moments_of_inexact_sums(moment_sums, N * L, eps, inexact, scale, m, delta, var)
        scaled |= again
    statistics = m, delta, var, weight, bias, eps, mean, rstd
    factor, offset = finish_forward(*statistics)
    if scaled:
        finish_scaled(scale, *statistics, factor, offset)
        apply_scaled_to_all(engine, streams, x, scale, m, factor, offset, y)
    else:
        apply_to_all(engine, streams, x, m, factor, offset, y)


@launcher
def batch_norm_forward(engine, streams, x, weight, bias, eps, y, mean, rstd, var):
    """Write y, mean, rstd and the biased var.

    x, y: (N, C, L); weight, bias, rstd: (C,); mean, var: (C,), float64.
    """
    compact()
    if whole_channels(x.shape, x.itemsize):
        batch_norm_forward_whole(engine, streams, x, weight, bias, eps, y, mean, rstd, var)
    else:
        batch_norm_forward_parts(engine, streams, x, weight, bias, eps, y, mean, rstd, var)


@launcher
def update_running(momentum, mean, running_mean, var, correction, running_var, batches, skip_nonfinite):
    """Move the running statistics towards mean and var * correction (float64), and add 1 to `batches`.

    All happens in one compiled call, which no signal handler interrupts. Arrays that the caller does not want are
    empty. Return whether mean and var are finite. If they are not, nothing is moved or counted with `skip_nonfinite`.
    """
    compact()
    finite = True
    for i in range(mean.size):
        finite = finite and math.isfinite(mean[i]) and math.isfinite(var[i])
    if skip_nonfinite and not finite:
        return False
    average_row(running_mean.size, running_mean, mean, momentum, 1.0)
    average_row(running_var.size, running_var, var, momentum, correction)
    for i in range(batches.size):
        batches[i] += 1
    return finite


@launcher
def batch_norm(engine, streams, x, mean, var, weight, bias, eps, y):
    """Write y, with given statistics.

    x, y: (N, C, L); mean, var (float64), weight, bias: (C,). Return False, and leave y as it was, if a var is negative.
    """
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
    """Do what `batch_norm_backward` does where tiles of whole channels stay in the cache."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    steps, _ = whole_steps(x.shape, x.itemsize)
    tiles, grain, _ = work(x, steps)
    all_whole_backward(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, weight, dx, dweight, dbias))
    return True


@launcher
def batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Do what `batch_norm_backward` does for any x."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    (N, C, L), m_dy = x.shape, np.empty_like(mean)
    gradient_shift(dy, (0, C), m_dy)
    sums = all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    if drop_untrue_shifts(sums, N * L, m_dy):
        sums = all_gradient_sums(engine, streams, dy, x, mean, rstd, m_dy)
    terms = finish_backward(sums, N * L, mean, rstd, m_dy, weight, dweight, dbias)
    apply_gradient_to_all(engine, streams, dy, x, terms, dx)
    return True


@launcher
def batch_norm_backward(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Write dx, dweight and dbias. dy, x, dx: (N, C, L); all else (C,), and of x's dtype.

    Like all launchers of backward passes, return False and write nothing if differences of x do not fit its dtype
    (`ranges.all_near`).
    """
    compact()
    if whole_channels(x.shape, x.itemsize):
        return batch_norm_backward_whole(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)
    return batch_norm_backward_parts(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias)


@launcher
def batch_norm_backward_frozen(engine, streams, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Do what `batch_norm_backward` does where mean (float64) and rstd are constants, which have no gradient."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    m = mean.astype(x.dtype)
    zero, factor = np.zeros_like(m), np.empty_like(m)
    sums = all_gradient_sums(engine, streams, dy, x, m, rstd, zero)
    for c in range(m.size):
        mean_h = scaled_difference(mean[c], m[c], rstd[c])
        dweight[c], dbias[c] = sum_dy_x_hat(sums.gh[c], sums.g[c], mean_h), sums.g[c]
        factor[c] = weighted_rstd(rstd[c], weight[c])
    apply_to_all(engine, streams, dy, zero, factor, zero, dx)  # dx = rstd * wdy
    return True
