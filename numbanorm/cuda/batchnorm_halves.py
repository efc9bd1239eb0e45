"""The backward pass of batch normalization in two halves, of x (N, C, L); what is summed is float64."""

from numbanorm._math import input_gradient_of_means
from numbanorm.cuda import cuda, types
from numbanorm.cuda.batchnorm import plan_of
from numbanorm.cuda.compiling import Kernel, factory
from numbanorm.cuda.grids import block_for, type_of
from numbanorm.cuda.kernels.channels import apply_gradient, channel_states, piece_gradients
from numbanorm.cuda.kernels.states import FIELDS, SLOTS, merge_gradients
from numbanorm.cuda.moments import FLOAT64, KEPT, LANES
from numbanorm.cuda.vectors.memory import load, store
from numbanorm.cuda.vectors.simd import number


@factory
def channel_sums():
    """sum_dy and sum_dy_x_hat of each channel, of the gradient states of pieces."""
    state_of = channel_states(merge_gradients)

    def kernel(partials, sum_dy, sum_dy_x_hat, pieces, C, L):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        count, mean_x_hat, mean_dy, low, c, c_low = state_of(partials, channel, pieces, C, L)
        if cuda.threadIdx.y == 0 and channel < C:
            total = count * mean_dy + count * low
            store(sum_dy, channel, total)
            store(sum_dy_x_hat, channel, c + c_low + total * mean_x_hat)

    return Kernel(kernel, (*[types.CPointer(KEPT)] * 3, *[types.int64] * 3))


@factory
def gradients_of_sums(dtype):
    """What `apply_gradient` takes: m, rstd and linear (4, C), of dtype."""

    def kernel(mean, rstd, weight, sum_dy, sum_dy_x_hat, count, m, own_rstd, linear, C, weights):
        channel = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if channel < C:
            exact_mean, exact_rstd = load(mean, channel, 1), load(rstd, channel, 1)
            mean_dy = load(sum_dy, channel, 1) / count
            rounded_mean, m_dy = number(exact_mean, m, 1), number(mean_dy, m, 1)
            mean_h = (exact_mean - number(rounded_mean, mean, 1)) * exact_rstd
            mean_g = mean_dy - number(m_dy, mean, 1)
            mean_dy_x_hat = load(sum_dy_x_hat, channel, 1) / count
            slope, offset = input_gradient_of_means(mean_h, mean_g, mean_dy_x_hat, exact_rstd)
            own_weight = number(1.0, mean, 1)
            if channel < weights:
                own_weight = number(load(weight, channel, 1), mean, 1)
            store(m, channel, rounded_mean)
            store(own_rstd, channel, exact_rstd)
            store(linear, channel, exact_rstd * own_weight)
            store(linear, C + channel, m_dy)
            store(linear, 2 * C + channel, slope * own_weight)
            store(linear, 3 * C + channel, offset * own_weight)

    values, kept = types.CPointer(dtype), types.CPointer(KEPT)
    pointers = kept, kept, values, kept, kept, KEPT, values, values, values
    return Kernel(kernel, (*pointers, *[types.int64] * 2))


def batch_norm_backward_reduce(call, dy, x, mean, rstd, mask, sum_dy, sum_dy_x_hat):
    """dy, x: (N, C, L); mask: (N, L), or none; all else (C,), float64."""
    N, C, L = call.planes
    plan = plan_of(N, C, L, mask, dy, x, most_lanes=LANES)
    (partials,) = call.scratch(FLOAT64, plan.pieces * FIELDS * plan.columns)
    kernel = piece_gradients(type_of(x.dtype), plan.lanes, plan.way, KEPT)
    place = N, C, L, plan.chunk, plan.tiles
    call.launch(kernel, plan.grid, plan.block, dy, x, mean, rstd, mask, partials, *place)
    block = block_for(C)
    arguments = partials, sum_dy, sum_dy_x_hat, plan.pieces, C, plan.own
    call.launch(channel_sums(), -(-C // block[0]), block, *arguments)


def batch_norm_backward_apply(call, dy, x, mean, rstd, weight, sum_dy, sum_dy_x_hat, count, mask, dx):
    """dy, x, dx: (N, C, L); mask: (N, L), or none; weight of x's dtype, or none; mean, rstd and sums, float64: (C,)."""
    N, C, L = call.planes
    m, own_rstd, linear = call.scratch(x.dtype, C, C, 4 * C)
    arguments = mean, rstd, weight, sum_dy, sum_dy_x_hat, count, m, own_rstd, linear, C, weight.size
    call.launch(gradients_of_sums(type_of(x.dtype)), -(-C // SLOTS), (SLOTS, 1), *arguments)
    plan = plan_of(N, C, L, mask, dy, x, dx)
    arguments = dy, x, m, own_rstd, linear, mask, dx, N, C, L, plan.chunk, plan.tiles
    call.launch(apply_gradient(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)
