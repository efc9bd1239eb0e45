"""The backward pass of batch normalization in two halves, between which others' sums can come in.

x is (N, C, L), as in `numbanorm.cpu.kernels.batches`. What is summed is float64: sums of any parts add up to the same.
"""

import numpy as np

from numbanorm._math import input_gradient_of_means
from numbanorm.cpu.compiling.jit import compact, launcher, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.channel_tiles import add_gradient_sums_apart
from numbanorm.cpu.kernels.channels import apply_gradient_to_all
from numbanorm.cpu.kernels.ranges import all_near
from numbanorm.cpu.kernels.statistics import total
from numbanorm.cpu.kernels.tiles import sum_steps, tile_of, work
from numbanorm.cpu.vectors.elements import GRADIENT_SUMS


@range_kernel
def gradient_sums_apart(lo, hi, far, steps, dy, x, mean, rstd, zero, partials):
    """Tiles lo to hi: the `row_gradient_sums` into partials (pieces, GRADIENT_SUMS, C), zero before."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile[1]
        own = partials[piece, 0][c0:c1], partials[piece, 1][c0:c1], partials[piece, 2][c0:c1]
        add_gradient_sums_apart(dy, x, tile, far, mean[c0:c1], rstd[c0:c1], zero[c0:c1], own)


_gradient_sums_apart = parallel_for(gradient_sums_apart)


@launcher
def batch_norm_backward_reduce(engine, far, dy, x, mean, rstd, sum_dy, sum_dy_x_hat):
    """dy, x: (N, C, L); all else (C,), float64."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials, zero = np.zeros((pieces, GRADIENT_SUMS, mean.size)), np.zeros(mean.size)
    _gradient_sums_apart(engine, tiles, grain, (far, steps, dy, x, mean, rstd, zero, partials))
    sums = total(partials)
    sum_dy[:], sum_dy_x_hat[:] = sums[1], sums[2]
    return True


@launcher
def batch_norm_backward_apply(engine, streams, dy, x, mean, rstd, weight, sum_dy, sum_dy_x_hat, count, dx):
    """dy, x, dx: (N, C, L); weight, of x's dtype, mean, rstd and sums (float64): (C,)."""
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    m, own_rstd, m_dy = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    scale, slope, offset = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    for c in range(weight.size):
        mean_dy = sum_dy[c] / count
        m[c], own_rstd[c], m_dy[c] = mean[c], rstd[c], mean_dy
        mean_h = (mean[c] - m[c]) * rstd[c]
        own_slope, own_offset = input_gradient_of_means(mean_h, mean_dy - m_dy[c], sum_dy_x_hat[c] / count, rstd[c])
        scale[c], slope[c], offset[c] = rstd[c] * weight[c], own_slope * weight[c], own_offset * weight[c]
    apply_gradient_to_all(engine, streams, dy, x, m, own_rstd, m_dy, scale, slope, offset, dx)
    return True
