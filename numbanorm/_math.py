"""The scalar formulas of all norms, once each. Kernels hold loops and call these, on numbers and on vectors.

Notation: m is any value near the mean of x, d = x - m and delta = mean(d). So the mean is m + delta without rounding.
h = d * rstd and mean_h = mean(h) = delta * rstd, so that x_hat = h - mean_h. Likewise m_wdy is any value near the mean
of wdy = dy * weight, and g = wdy - m_wdy. Sums, and what is computed of sums, are float64.

Forward: y = x_hat * weight + bias. In batch normalization weight and bias are constant over a channel, so that
y = d * factor + offset.

Backward: dx = rstd * g + slope * h + offset, by these three steps:

    dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat))            the derivative of y, with means over x's group
       = rstd * (g - mean_g - (h - mean_h) * mean_g_x_hat)               mean(wdy * x_hat) = mean(g * x_hat), as
                                                                         mean(x_hat) = 0
       = rstd * g - rstd * mean_g_x_hat * h + rstd * (mean_h * mean_g_x_hat - mean_g)

RMS normalization takes the mean of x for 0, and no mean of wdy is subtracted. Its formulas are these with m = 0,
delta = 0, m_wdy = 0 and bias = 0, and with 0 for the sums of d, h and g: then var is mean(x * x), x_hat is h, and

    dx = rstd * (wdy - x_hat * mean(wdy * x_hat)) = rstd * g - rstd * mean(g * h) * h

Merging: two groups a and b of values, whose means are `apart`, merge by [1]_

    mean = mean_a + apart * share                                        share = count_b / (count_a + count_b)
    M2 = M2_a + M2_b + apart**2 * count_a * share                        M2 = sum((x - mean)**2)

A product of two differences, sum((h - mean_h) * (g - mean_g)), merges as M2 does, with the product of both `apart`.

.. [1] Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

import math

import numpy as np
from numba.extending import intrinsic

from numbanorm.cpu.compiling.jit import Formula, inner, plain

# No "reassoc" here: it would turn (x - m) - delta into x - (m + delta) and lose delta.
scalar = inner(kind=Formula, fastmath={"contract"})

LEAST = 1e-36  # float32 cannot hold the squares of a smaller variance to their last digit
SMALL, LARGE = 2.0**-400, 2.0**400  # beyond, float64 may not hold squares and their sums to their last digit


@intrinsic
def choose(typing_context, condition, a, b):
    """Return a where the condition holds, else b. The result has b's type."""

    def codegen(context, builder, signature, args):
        return builder.select(args[0], context.cast(builder, args[1], a, b), args[2])

    return b(condition, a, b), codegen


@scalar
def two_sum(a, b):
    """Return a + b, rounded, and the rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@scalar
def moments(sum_d, sum_dd, count):
    """Return delta and the biased variance, from the sums of d and d * d."""
    delta = sum_d / count
    var = sum_dd / count - delta * delta
    return delta, choose(var < 0.0, 0.0, var)  # a NaN stays


@scalar
def sums_are_exact(delta, var, eps):
    """Return whether `moments` is exact: m was near enough to the mean, and float32 could hold the squares.

    With |delta| <= 2 std the subtraction in the variance loses at most a factor of 5 of the sums' 1e-8.
    """
    return (delta * delta <= 4.0 * var) & (var + eps >= LEAST) & (var + eps < math.inf)


@scalar
def share_of(count_a, count_b):
    """Return the share of group b in the values of both groups."""
    return count_b / (count_a + count_b)


@scalar
def merged_mean(mean, low, apart, share):
    """Return the mean of two groups as mean + low, from that of group a. The mean of group b lies `apart` from it."""
    mean, lost = two_sum(mean, apart * share)
    return two_sum(mean, low + lost)


@scalar
def merged_products(sum_a, low_a, sum_b, low_b, between):
    """Return the sum of products of differences in two groups, as sum + low: M2, or that of h and g.

    `between` is the product of both distances between means, times count_a * share.
    """
    total, lost = two_sum(sum_a, sum_b)
    total, lost_too = two_sum(total, between)
    return total, low_a + low_b + lost + lost_too


@scalar
def merged_moments(a, b):
    """Return the (count, mean, low, m2, m2_low) of two groups of values, of which each has some."""
    count_a, mean_a, low_a, m2_a, m2_low_a = a
    count_b, mean_b, low_b, m2_b, m2_low_b = b
    share = share_of(count_a, count_b)
    apart = (mean_b - mean_a) + (low_b - low_a)
    mean, low = merged_mean(mean_a, low_a, apart, share)
    m2, m2_low = merged_products(m2_a, m2_low_a, m2_b, m2_low_b, apart * apart * (count_a * share))
    return count_a + count_b, mean, low, m2, m2_low


@scalar
def unbiased_factor(count):
    """Return n / (n - 1), which makes an unbiased variance of the biased one of n values."""
    return count / (count - 1.0)


@plain
def dtype_range(itemsize):
    """Return step and most, for a dtype of so many bytes.

    Squares and 1 / std fit the dtype while the variance lies in [1 / most, most]. Values beyond come back into it when
    they are multiplied by step or 1 / step.
    """
    return (2.0**100, 2.0**200) if itemsize == 4 else (2.0**600, 2.0**960)


@scalar
def range_scale(m, var, itemsize):
    """Return the power of two that brings values into range, so that squares and 1 / std fit a dtype of so many bytes.

    The values lie near m and have the variance `var` (eps included). The scale is 1 for nearly all values.

    Different numbers near m are at least 2**-24 (float64: 2**-53) of m apart. So where the spread is small and m is
    not, all values are equal, and need no scale.
    """
    step, most = dtype_range(itemsize)
    if var * most < 1.0:
        return step if m * m * math.sqrt(most) < 1.0 else 1.0
    return 1.0 if var <= most else 1.0 / step  # also where squares overflowed to NaN


@scalar
def scaled_variance(var, scale):
    """Return the variance (or eps) of values times scale, from that of the values."""
    return var * scale * scale


@scalar
def unscaled_variance(var, scale):
    """Return the variance of values, from that of the values times scale."""
    return var / scale / scale


@scalar
def unscaled(m, delta, rstd, scale):
    """Return the mean and rstd of values, from m + delta and rstd of the values times scale."""
    return (m + delta) / scale, rstd * scale


@scalar
def reciprocal_std(var, eps):
    """rstd = 1 / sqrt(var + eps)."""
    return 1.0 / math.sqrt(var + eps)


def reciprocal_stds(var, eps):
    """`reciprocal_std` of an array of NumPy's. 1 / 0 is infinity."""
    if eps > 0:
        return 1.0 / np.sqrt(var + eps)
    with np.errstate(divide="ignore"):
        return 1.0 / np.sqrt(var)


@scalar
def scaled_difference(x, m, rstd):
    """h = (x - m) * rstd."""
    return (x - m) * rstd


@scalar
def shifted_gradient(dy, weight, m_wdy):
    """g = dy * weight - m_wdy."""
    return dy * weight - m_wdy


@scalar
def normalize(x, m, rstd, mean_h):
    """x_hat = (x - mean) * rstd, with the mean in two parts so that its rounding error does not reach x_hat."""
    return scaled_difference(x, m, rstd) - mean_h


@scalar
def affine(x_hat, weight, bias):
    """y = x_hat * weight + bias."""
    return x_hat * weight + bias


@scalar
def mean_h_of_delta(delta, rstd):
    """mean_h = delta * rstd."""
    return delta * rstd


@scalar
def mean_h_of_sum(sum_h, count):
    """mean_h = sum(h) / count. Backward, m is the stored mean, and mean_h what its rounding leaves."""
    return sum_h / count


@scalar
def rstd_and_mean_h(delta, var, eps):
    """Return what `normalize` takes beside x and m."""
    rstd = reciprocal_std(var, eps)
    return rstd, mean_h_of_delta(delta, rstd)


@scalar
def weighted_rstd(rstd, weight):
    """Return the factor with which y = d * factor + offset and dx = factor * g + slope * h + offset."""
    return rstd * weight


@scalar
def rstd_factor_offset(delta, var, eps, weight, bias):
    """Return rstd, and the factor and offset with which y = d * factor + offset."""
    rstd = reciprocal_std(var, eps)
    factor = weighted_rstd(rstd, weight)
    return rstd, factor, bias - delta * factor


@scalar
def moving_average(running, momentum, batch):
    """(1 - momentum) * running + momentum * batch."""
    return (1.0 - momentum) * running + momentum * batch


@scalar
def sum_dy_x_hat(sum_gh, sum_g, mean_h):
    """sum(dy * x_hat), for a weight of 1. It is sum(g * x_hat), since sum(x_hat) = 0."""
    return sum_gh - mean_h * sum_g


@scalar
def sum_dy(sum_g, m_dy, count):
    """sum(dy), for a weight of 1."""
    return sum_g + m_dy * count


@scalar
def input_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd):
    """Return slope and offset with which dx = rstd * g + slope * h + offset; see the top of this file."""
    return -rstd * mean_g_x_hat, rstd * (mean_h * mean_g_x_hat - mean_g)


@scalar
def gradient_means(sum_h, sum_g, sum_gh, count):
    """Return mean_h, mean_g and mean_g_x_hat, from sums."""
    mean_h, mean_g = mean_h_of_sum(sum_h, count), sum_g / count
    return mean_h, mean_g, sum_gh / count - mean_g * mean_h


@scalar
def input_gradient_of_sums(sum_h, sum_g, sum_gh, rstd, count):
    """Do `input_gradient_of_means` from sums."""
    mean_h, mean_g, mean_g_x_hat = gradient_means(sum_h, sum_g, sum_gh, count)
    return input_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd)


@scalar
def weighted_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd, weight):
    """Return factor, slope and offset with which dx = factor * g + slope * h + offset, where g = dy - m_dy.

    This is `input_gradient_of_means` where the weight is constant over the means, as in batch normalization.
    """
    slope, offset = input_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd)
    return weighted_rstd(rstd, weight), slope * weight, offset * weight


@scalar
def weighted_gradient_of_sums(sum_h, sum_g, sum_gh, rstd, weight, count):
    """Do `weighted_gradient_of_means` from sums."""
    mean_h, mean_g, mean_g_x_hat = gradient_means(sum_h, sum_g, sum_gh, count)
    return weighted_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd, weight)


@scalar
def input_gradient(g, h, factor, slope, offset):
    """dx = factor * g + slope * h + offset; the factor is rstd where g has the weight in it."""
    return factor * g + (slope * h + offset)
