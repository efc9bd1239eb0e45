"""Compute statistics of a row that a group of threads holds in registers.

A thread holds `steps` vectors of `lanes` values. The functions serve layer normalization, and RMS normalization, whose
mean is 0.
"""

from functools import lru_cache

from numbanorm._math import input_gradient_of_means, input_gradient_of_sums, moments
from numbanorm.cuda import cuda
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.memory import each
from numbanorm.cuda.vectors.reduce import WARP, group
from numbanorm.cuda.vectors.simd import join, lane, number, total


@lru_cache(None)
def moments_of_row(lanes, steps, threads):
    """Make a device function that returns m, delta and var of the row."""
    over = group(threads)
    first_of, sum_over = over.first, over.sum

    @device
    def moments_of(values, thread, end, count, shared_first, shared_mean, shared_sums):
        base = first_of(lane(values[0], 0), shared_first)  # so that equal values differ by 0
        share, sum_d = number(1.0, base, 1) / count, number(0.0, base, lanes)
        for k in each(steps):
            if (k * threads + thread) * lanes < end:
                sum_d += (values[k] - base) * share
        m = base + sum_over(total(sum_d), shared_mean)

        sum_d, sum_dd = number(0.0, base, lanes), number(0.0, base, lanes)
        for k in each(steps):
            if (k * threads + thread) * lanes < end:
                d = values[k] - m
                sum_d += d
                sum_dd += d * d
        sums = sum_over(join(total(sum_d), total(sum_dd)), shared_sums)
        delta, var = moments(lane(sums, 0), lane(sums, 1), count)
        return m, delta, var

    return moments_of


@lru_cache(None)
def squares_of_row(lanes, steps, threads):
    """Make a device function that returns 0, 0 and the mean square of the row.

    Beyond the end of the row, values are 0.
    """
    sum_over = group(threads).sum

    @device
    def squares_of(values, thread, end, count, shared_first, shared_mean, shared_sums):
        sum_xx, zero = number(0.0, values[0], lanes), number(0.0, values[0], 1)
        for k in each(steps):
            sum_xx += values[k] * values[k]
        return zero, zero, sum_over(total(sum_xx), shared_sums) / count

    return squares_of


@lru_cache(None)
def terms_of_row(threads):
    """Make a device function that returns slope, offset and mean_h of the row, given the sums of each thread."""
    sum_over = group(threads).sum

    @device
    def terms_of(sum_h, sum_g, sum_gh, rstd, count, shared_sums):
        # One division for all three means, in place of the formulas' own.
        zero, share = number(0.0, rstd, 1), number(1.0, rstd, 1) / count
        sums = sum_over(join(total(sum_h), total(sum_g), total(sum_gh), zero), shared_sums)
        sum_of_h = lane(sums, 0)
        slope, offset = input_gradient_of_sums(sum_of_h, lane(sums, 1), lane(sums, 2), rstd, count)
        return slope, offset, sum_of_h * share  # mean_h is what the rounding of the stored mean leaves

    return terms_of


@device
def _barrier():
    cuda.syncthreads()


@device
def _no_barrier():
    pass


@lru_cache(None)
def slope_of_row(threads):
    """Make a device function that returns the slope of the row, 0 and 0.

    A block calls it for one row after another. It must not write a row's sum before all threads have read the last
    row's.
    """
    sum_over, all_have_read = group(threads).sum, _barrier if threads > WARP else _no_barrier

    @device
    def slope_of(sum_h, sum_g, sum_gh, rstd, count, shared_sums):
        all_have_read()
        mean_g_x_hat = sum_over(total(sum_gh), shared_sums) / count
        slope, _ = input_gradient_of_means(0.0, 0.0, mean_g_x_hat, rstd)
        return slope, 0.0, 0.0

    return slope_of
