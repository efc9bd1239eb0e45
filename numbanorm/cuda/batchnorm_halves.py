"""Do the backward pass of batch normalization in two halves, of x (N, C, L).

Sums, means and rstd are float64.
"""

from numbanorm.cuda import types
from numbanorm.cuda.batchnorm import plan_of
from numbanorm.cuda.grids import FLOAT64, FLOAT64_LANES, block_for, type_of
from numbanorm.cuda.kernels.channels import apply_gradient, piece_gradients
from numbanorm.cuda.kernels.per_channel import channel_sums, gradients_of_sums
from numbanorm.cuda.kernels.states import FIELDS, SLOTS


def batch_norm_backward_reduce(call, dy, x, mean, rstd, mask, sum_dy, sum_dy_x_hat):
    """Fill sum_dy and sum_dy_x_hat.

    dy, x: (N, C, L); mask: (N, L), or none; all else (C,), float64.
    """
    N, C, L = call.planes
    plan = plan_of(N, C, L, mask, dy, x, most_lanes=FLOAT64_LANES)
    (partials,) = call.scratch(FLOAT64, plan.pieces * FIELDS * plan.columns)
    kernel = piece_gradients(type_of(x.dtype), plan.lanes, plan.way, types.float64)
    place = N, C, L, plan.chunk, plan.tiles
    call.launch(kernel, plan.grid, plan.block, dy, x, mean, rstd, mask, partials, *place)
    block = block_for(C)
    arguments = partials, sum_dy, sum_dy_x_hat, plan.pieces, C, plan.channel_columns
    call.launch(channel_sums(), -(-C // block[0]), block, *arguments)


def batch_norm_backward_apply(call, dy, x, mean, rstd, weight, sum_dy, sum_dy_x_hat, count, mask, dx):
    """Fill dx.

    dy, x, dx: (N, C, L); mask: (N, L), or none; weight of x's dtype, or none; mean, rstd and sums, float64: (C,).
    """
    N, C, L = call.planes
    m, rounded_rstd, linear = call.scratch(x.dtype, C, C, 4 * C)
    arguments = mean, rstd, weight, sum_dy, sum_dy_x_hat, count, m, rounded_rstd, linear, C, weight.size
    call.launch(gradients_of_sums(type_of(x.dtype)), -(-C // SLOTS), (SLOTS, 1), *arguments)
    plan = plan_of(N, C, L, mask, dy, x, dx)
    arguments = dy, x, m, rounded_rstd, linear, mask, dx, N, C, L, plan.chunk, plan.tiles
    call.launch(apply_gradient(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)
