"""The scalar formulas of both norms, one compiled function each; kernels hold loops and call these.

Notation: m is any value near the mean, d = x - m, delta = mean(d), so that the mean is m + delta without rounding.
"""

import math

import numba

# No "reassoc" here: it would turn (x - m) - delta into x - (m + delta) and lose delta.
scalar = numba.njit(fastmath={"contract"}, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@scalar
def normalize(x, m, delta, rstd):
    """x_hat = (x - mean) * rstd, with the mean in two parts so that its rounding error does not reach x_hat."""
    return ((x - m) - delta) * rstd


@scalar
def affine(x_hat, weight, bias):
    """y = x_hat * weight + bias."""
    return x_hat * weight + bias


@scalar
def moments(sum_d, sum_dd, count):
    """delta and the biased variance, from the sums of d and d * d (float64)."""
    delta = sum_d / count
    var = sum_dd / count - delta * delta
    return delta, (0.0 if var < 0.0 else var)  # a NaN stays


@scalar
def shift_is_near(delta, var):
    """Whether m was near enough to the mean for `moments` to be exact.

    With |delta| <= 2 std the subtraction in the variance loses at most a factor of 5 of the sums' 1e-8.
    """
    return delta * delta <= 4.0 * var and var < math.inf


@scalar
def reciprocal_std(var, eps):
    """rstd = 1 / sqrt(var + eps)."""
    return 1.0 / math.sqrt(var + eps)


@scalar
def sum_of_products(sum_wdy_d, sum_wdy, delta, rstd):
    """sum(wdy * x_hat), from the sums of wdy * d and wdy (float64)."""
    return rstd * (sum_wdy_d - delta * sum_wdy)


@scalar
def input_gradient(wdy, x_hat, mean_wdy, mean_wdy_x_hat, rstd):
    """dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat)), wdy = dy * weight, means over what is normalised."""
    return rstd * (wdy - mean_wdy - x_hat * mean_wdy_x_hat)
