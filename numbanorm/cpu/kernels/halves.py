"""Do the backward pass of batch normalization in two halves. Between them, sums of several processes can be added up.

x is (N, C, L), as in `numbanorm.cpu.kernels.batches`. The sums are float64, so that their rounding does not show in the
result, however x was divided between processes.
"""

import numpy as np

from numbanorm._math import scaled_difference, weighted_gradient_of_means
from numbanorm.cpu.compiling.jit import compact, launcher, range_kernel
from numbanorm.cpu.engine.parallel import parallel_for
from numbanorm.cpu.kernels.channels import apply_gradient_to_all
from numbanorm.cpu.kernels.gradient_tiles import GradientSums, GradientTerms, add_float64_gradient_sums
from numbanorm.cpu.kernels.ranges import all_near
from numbanorm.cpu.kernels.statistics import total
from numbanorm.cpu.kernels.tiles import sum_steps, tile_of, work
from numbanorm.cpu.vectors.elements import GRADIENT_SUMS


@range_kernel
def float64_gradient_sums(lo, hi, streams, steps, dy, x, mean, rstd, zero, partials):
    """Add the `GradientSums` of tiles lo to hi, in float64, to partials (pieces, GRADIENT_SUMS, C)."""
    compact()
    for i in range(lo, hi):
        tile, piece = tile_of(x, steps, i)
        c0, c1 = tile.c_range
        tile_sums = GradientSums(partials[piece, 0][c0:c1], partials[piece, 1][c0:c1], partials[piece, 2][c0:c1])
        add_float64_gradient_sums(dy, x, tile, streams, mean[c0:c1], rstd[c0:c1], zero[c0:c1], tile_sums)


_float64_gradient_sums = parallel_for(float64_gradient_sums)


@launcher
def batch_norm_backward_reduce(engine, streams, dy, x, mean, rstd, sum_dy, sum_dy_x_hat):
    """Write sum_dy and sum_dy_x_hat.

    dy, x: (N, C, L); all else (C,), float64.
    """
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    steps = sum_steps(x)
    tiles, grain, pieces = work(x, steps)
    partials, zero = np.zeros((pieces, GRADIENT_SUMS, mean.size)), np.zeros(mean.size)
    _float64_gradient_sums(engine, tiles, grain, (streams, steps, dy, x, mean, rstd, zero, partials))
    sums = total(partials)
    sum_dy[:], sum_dy_x_hat[:] = sums[1], sums[2]
    return True


@launcher
def batch_norm_backward_apply(engine, streams, dy, x, mean, rstd, weight, sum_dy, sum_dy_x_hat, count, dx):
    """Write dx.

    dy, x, dx: (N, C, L); weight, of x's dtype, mean, rstd and sums (float64): (C,).
    """
    compact()
    if not all_near(rstd, x.itemsize):
        return False
    m, rounded_rstd, m_dy = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    factor, slope, offset = np.empty_like(weight), np.empty_like(weight), np.empty_like(weight)
    for c in range(weight.size):
        mean_dy, mean_dy_x_hat = sum_dy[c] / count, sum_dy_x_hat[c] / count
        m[c], rounded_rstd[c], m_dy[c] = mean[c], rstd[c], mean_dy
        mean_h = scaled_difference(mean[c], m[c], rstd[c])
        means = mean_h, mean_dy - m_dy[c], mean_dy_x_hat
        factor[c], slope[c], offset[c] = weighted_gradient_of_means(*means, rstd[c], weight[c])
    apply_gradient_to_all(engine, streams, dy, x, GradientTerms(m, rounded_rstd, m_dy, factor, slope, offset), dx)
    return True
