"""Normalise x (rows, cols) over its columns, by layer or RMS normalization. Registers hold a row, so x is read once.

A group of threads shares a row: a part of a warp, a warp, or a block. Threads of a group follow each other on the
block's x axis, groups on its y axis. In each step, a thread takes a vector of `lanes` values next to its neighbour's.
"""

from numbanorm._math import (
    affine,
    input_gradient,
    mean_h_of_delta,
    reciprocal_std,
    scaled_difference,
    shifted_gradient,
    sums_are_exact,
)
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, device, factory
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each, load, parameter_at, registers, shared, store
from numbanorm.cuda.vectors.reduce import MOST_WARPS, any_lane, group, larger
from numbanorm.cuda.vectors.simd import largest, number, total
from numbanorm.cuda.vectors.units import rstd_of, scale_for, scale_of

BLOCK = 128  # threads, where rows take parts of a warp or a warp
MOST_THREADS = 512  # that hold a row at most, forward: 64 KB
MOST_GRADIENT_THREADS = 256  # backward, where a thread also holds dy and two sums
TWO_PER_WARP, FOUR_PER_WARP = 2 * MOST_WARPS, 4 * MOST_WARPS


@factory
def rows_forward(norm, dtype, lanes, steps, threads):
    """Make a kernel that writes y, mean and rstd.

    x, y: (rows, cols); weight, bias: (cols,); mean, rstd: (rows,); count: cols, as a number of dtype. The weight has
    `weight_count` values and the bias `bias_count`: cols, or 0 where it is not given. The statistics are stored if
    `statistic_count` is rows, not 0.
    """
    moments_of, normalize = norm.moments_of_row(lanes, steps, threads), norm.normalize
    largest_over, store_mean = group(threads).largest, norm.of_mean(store)
    parameter, bias_at = parameter_at(lanes), norm.of_bias(parameter_at(lanes))

    @device
    def peak_of(values):
        peak = number(0.0, values[0], lanes)
        for k in each(steps):
            peak = larger(peak, abs(values[k]))
        return largest_over(largest(peak), shared(values[0], MOST_WARPS))

    def kernel(x, weight, bias, eps, count, y, mean, rstd, rows, cols, weight_count, bias_count, statistic_count):
        thread = cuda.threadIdx.x
        row = types.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
        start, end = row * cols, cols if row < rows else 0

        values = registers(x, lanes, steps)
        for k in each(steps):
            c = (k * threads + thread) * lanes
            values[k] = number(0.0, x, lanes)
            if c < end:
                values[k] = load(x, start + c, lanes)

        room = shared(x, 1), shared(x, MOST_WARPS), shared(x, TWO_PER_WARP)
        m, delta, var = moments_of(values, thread, end, count, *room)
        exact, scaled_rstd = sums_are_exact(delta, var, eps), reciprocal_std(var, eps)
        x_mean, x_rstd = m + delta, scaled_rstd
        if any_lane(~exact):  # the same for all threads of a block
            scale = select(exact, 1.0, scale_for(peak_of(values), eps))
            for k in each(steps):
                values[k] = values[k] * scale
            room = shared(x, 1), shared(x, MOST_WARPS), shared(x, TWO_PER_WARP)
            scaled_m, scaled_delta, var = moments_of(values, thread, end, count, *room)
            rstds = rstd_of(var, eps, scale)
            m, delta = select(exact, m, scaled_m), select(exact, delta, scaled_delta)
            x_mean = select(exact, x_mean, (m + delta) * scale_of(scale))
            scaled_rstd, x_rstd = select(exact, scaled_rstd, rstds[0]), select(exact, scaled_rstd, rstds[1])

        if thread == 0 and row < statistic_count:
            store_mean(mean, row, x_mean)
            store(rstd, row, x_rstd)
        mean_h = mean_h_of_delta(delta, scaled_rstd)
        for k in each(steps):
            c = (k * threads + thread) * lanes
            if c < end:
                x_hat = normalize(values[k], m, scaled_rstd, mean_h)
                column_weight = parameter(weight, c, weight_count, 1.0)
                store(y, start + c, affine(x_hat, column_weight, bias_at(bias, c, bias_count, 0.0)))

    pointer, size = types.CPointer(dtype), types.int64
    return Kernel(kernel, (*[pointer] * 3, dtype, dtype, *[pointer] * 3, *[size] * 5), max(threads, BLOCK))


@factory
def rows_backward(norm, dtype, lanes, steps, threads):
    """Make a kernel that writes dx, and the sums of dy * x_hat and of dy over `chunk` rows.

    dy, x, dx: (rows, cols); mean, rstd: (rows,); weight: (cols,), of which `weight_count` values are given; count:
    cols, as a number of dtype. A group takes `chunk` rows, and writes their sums to partials (chunks, parameters,
    cols).
    """
    parameter, parameters, load_mean, halved = parameter_at(lanes), norm.parameters, norm.of_mean(load), norm.halved
    mean_over, terms_of, store_dbias = norm.of_mean(group(threads).sum), norm.terms_of_row(threads), norm.of_bias(store)

    def kernel(dy, x, mean, rstd, weight, count, dx, partials, rows, cols, weight_count, chunk, chunks):
        thread = cuda.threadIdx.x
        group_index = types.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
        shared_mean, shared_sums = shared(x, MOST_WARPS), shared(x, FOUR_PER_WARP)
        share = number(1.0, x, 1) / count
        h, dys = registers(x, lanes, steps), registers(x, lanes, steps)
        dweight, dbias = registers(x, lanes, steps), registers(x, lanes, steps)
        for k in each(steps):
            dweight[k] = dbias[k] = number(0.0, x, lanes)

        for i in range(chunk):
            row = group_index * chunk + i
            start, end = row * cols, cols if row < rows else 0
            m, r = number(0.0, x, 1), number(0.0, x, 1)
            if row < rows:
                m, r = load_mean(mean, row, 1), load(rstd, row, 1)
            scale, m, scaled_rstd = halved(m, r)
            sum_wdy = number(0.0, x, lanes)
            for k in each(steps):
                c = (k * threads + thread) * lanes
                h[k] = dys[k] = number(0.0, x, lanes)
                if c < end:
                    dys[k] = load(dy, start + c, lanes)
                    h[k] = scaled_difference(load(x, start + c, lanes) * scale, m, scaled_rstd)
                    sum_wdy += dys[k] * parameter(weight, c, weight_count, 1.0) * share
            m_wdy = mean_over(total(sum_wdy), shared_mean)

            sum_h, sum_g, sum_gh = number(0.0, x, lanes), number(0.0, x, lanes), number(0.0, x, lanes)
            for k in each(steps):
                c = (k * threads + thread) * lanes
                if c < end:
                    g = shifted_gradient(dys[k], parameter(weight, c, weight_count, 1.0), m_wdy)
                    sum_h += h[k]
                    sum_g += g
                    sum_gh += g * h[k]
            slope, offset, mean_h = terms_of(sum_h, sum_g, sum_gh, r, count, shared_sums)

            for k in each(steps):
                c = (k * threads + thread) * lanes
                if c < end:
                    g = shifted_gradient(dys[k], parameter(weight, c, weight_count, 1.0), m_wdy)
                    store(dx, start + c, input_gradient(g, h[k], r, slope, offset))
                    dweight[k] += dys[k] * (h[k] - mean_h)
                    dbias[k] += dys[k]

        for k in each(steps):
            c = (k * threads + thread) * lanes
            if c < cols and group_index < chunks:
                store(partials, parameters * group_index * cols + c, dweight[k])
                store_dbias(partials, (parameters * group_index + 1) * cols + c, dbias[k])

    pointer, size = types.CPointer(dtype), types.int64
    resident = 4 * BLOCK if steps <= 4 else BLOCK  # threads, which fit without spilling
    return Kernel(kernel, (*[pointer] * 5, dtype, *[pointer] * 2, *[size] * 5), max(threads, resident))
