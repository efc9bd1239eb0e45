"""The scalar formulas of both norms, one compiled function each; kernels hold loops and call these.

Notation: m is any value near the mean of x, d = x - m and delta = mean(d), so that the mean is m + delta without
rounding; h = d * rstd and mean_h = mean(h) = delta * rstd, so that x_hat = h - mean_h. Likewise m_wdy is any value near
the mean of wdy = dy * weight, and g = wdy - m_wdy. Sums and what is made of them are float64.
"""

import math

from numba.extending import intrinsic

from numbanorm.cpu.compiling.jit import inner, plain

# No "reassoc" here: it would turn (x - m) - delta into x - (m + delta) and lose delta.
scalar = inner(fastmath={"contract"})

LEAST = 1e-36  # a variance below it is of squares that float32 cannot hold to their last digit
SMALL, LARGE = 2.0**-400, 2.0**400  # beyond: float64 may not hold squares, nor sums of them, to their last digit


@intrinsic
def choose(typing_context, condition, a, b):
    """a where the condition holds, else b; in b's type."""

    def codegen(context, builder, signature, args):
        return builder.select(args[0], context.cast(builder, args[1], a, b), args[2])

    return b(condition, a, b), codegen


@scalar
def two_sum(a, b):
    """a + b, rounded, and what rounding took."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@scalar
def moments(sum_d, sum_dd, count):
    """delta and the biased variance, from the sums of d and d * d."""
    delta = sum_d / count
    var = sum_dd / count - delta * delta
    return delta, choose(var < 0.0, 0.0, var)  # a NaN stays


@scalar
def sums_are_exact(delta, var, eps):
    """Whether m was near enough to the mean, and float32 could hold the squares, for `moments` to be exact.

    With |delta| <= 2 std the subtraction in the variance loses at most a factor of 5 of the sums' 1e-8.
    """
    return (delta * delta <= 4.0 * var) & (var + eps >= LEAST) & (var + eps < math.inf)


@plain
def dtype_range(itemsize):
    """step and most, for a dtype of so many bytes.

    Squares and 1 / std fit the dtype while the variance lies in [1 / most, most]. Values beyond come back into it when
    they are multiplied by step or 1 / step.
    """
    return (2.0**100, 2.0**200) if itemsize == 4 else (2.0**600, 2.0**960)


@scalar
def range_scale(m, var, itemsize):
    """The power of two by which to multiply values near m of variance `var` (eps included), so that their squares and
    1 / std fit their dtype, of so many bytes. It is 1 for nearly all values.

    Different numbers near m are at least 2**-24 (float64: 2**-53) of m apart. So where the spread is small and m is
    not, all values are equal, and need no scale.
    """
    step, most = dtype_range(itemsize)
    if var * most < 1.0:
        return step if m * m * math.sqrt(most) < 1.0 else 1.0
    return 1.0 if var <= most else 1.0 / step  # also where squares overflowed to NaN


@scalar
def reciprocal_std(var, eps):
    """rstd = 1 / sqrt(var + eps)."""
    return 1.0 / math.sqrt(var + eps)


@scalar
def unscaled(m, delta, rstd, scale):
    """The mean and rstd of values, of which m + delta and rstd are those times scale."""
    return (m + delta) / scale, rstd * scale


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
    return (x - m) * rstd - mean_h


@scalar
def affine(x_hat, weight, bias):
    """y = x_hat * weight + bias."""
    return x_hat * weight + bias


@scalar
def affine_of_d(delta, rstd, weight, bias):
    """scale and offset with y = d * scale + offset."""
    scale = rstd * weight
    return scale, bias - delta * scale


@scalar
def moving_average(running, momentum, batch):
    """(1 - momentum) * running + momentum * batch."""
    return (1.0 - momentum) * running + momentum * batch


@scalar
def sum_dy_x_hat(sum_gh, sum_g, mean_h):
    """sum(dy * x_hat) = sum(g * x_hat), since sum(x_hat) = 0; weight being 1 here."""
    return sum_gh - mean_h * sum_g


@scalar
def input_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd):
    """slope and offset with which `input_gradient` is

    dx = rstd * (wdy - mean(wdy) - x_hat * mean(wdy * x_hat)), means over what is normalised.
    """
    return -rstd * mean_g_x_hat, rstd * (mean_h * mean_g_x_hat - mean_g)


@scalar
def input_gradient_of_sums(sum_h, sum_g, sum_gh, rstd, count):
    """`input_gradient_of_means`, from sums."""
    mean_h, mean_g = sum_h / count, sum_g / count
    mean_g_x_hat = sum_gh / count - mean_g * mean_h  # = mean(wdy * x_hat), since mean(x_hat) = 0
    return input_gradient_of_means(mean_h, mean_g, mean_g_x_hat, rstd)


@scalar
def input_gradient(g, h, rstd, slope, offset):
    """dx = rstd * g + slope * h + offset."""
    return rstd * g + (slope * h + offset)
