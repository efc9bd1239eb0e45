"""Compute powers of two that bring values near 1. Differences, squares and reciprocals then stay within the range.

Scaling by them rounds nothing, so a result of scaled values has the bits that it would have of the values themselves.
"""

import math

from llvmlite import ir

from numbanorm._math import reciprocal_std, scaled_variance
from numbanorm.cuda import extending, types
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import number

_FORMATS = {types.float32: (8, 23), types.float64: (11, 52)}  # bits of the exponent and of the fraction


def _of_bits(build):
    """Make a device function that computes a vector from the bits of another, by ``build(builder, bits, power)``.

    There power(e) returns the bits of the power of two with the biased exponent e. The exponent -1 is the largest, that
    of infinity.
    """

    @extending.intrinsic
    def result(typing_context, vector):
        exponent, fraction = _FORMATS[vector.dtype]
        kind = ir.IntType(1 + exponent + fraction)

        def codegen(context, builder, signature, args):
            integers = kind if vector.lanes == 1 else ir.VectorType(kind, vector.lanes)

            def power(e):
                bits = (e % (1 << exponent)) << fraction
                return ir.Constant(integers, bits if vector.lanes == 1 else [bits] * vector.lanes)

            return builder.bitcast(build(builder, builder.bitcast(args[0], integers), power), args[0].type)

        return vector(vector), codegen

    return result


def _power_of_two(builder, bits, power):
    bits = builder.and_(bits, power(-1))
    for bound, beyond in ((power(1), "<"), (power(-3), ">")):
        bits = builder.select(builder.icmp_signed(beyond, bits, bound), bound, bits)
    return bits


unit_for = _of_bits(_power_of_two)  # the greatest power of two up to a number from 0 on, if its reciprocal is normal
scale_of = _of_bits(lambda builder, bits, power: builder.sub(power(-2), bits))  # 1 / unit


@device
def scale_for(peak, eps):
    """Return the scale at which neither eps nor the squares of values up to a peak leave the range."""
    return scale_of(unit_for(larger(peak, math.sqrt(number(eps, peak, 1)))))


@device
def rstd_of(var, eps, scale):
    """Return rstd of the values times scale, whose variance is var, and rstd of the values themselves.

    An eps above 0 stays above 0 when it is scaled. Where that changes rstd, all values are equal: x_hat is 0.
    """
    zero = number(0.0, var, 1)
    least = select(eps > 0.0, unit_for(zero), zero)
    rstd = reciprocal_std(var, larger(scaled_variance(eps, scale), least))
    return rstd, select(var <= 0.0, reciprocal_std(zero, eps), rstd * scale)


@device
def halved(m, rstd):
    """Return scale, m * scale and rstd / scale, where scale is 0.5 or 1.

    (x * scale - m * scale) * (rstd / scale) is (x - m) * rstd, even where x - m leaves the range and the product does
    not.
    """
    is_small = rstd < 1.0
    scale = select(is_small, 0.5, number(1.0, rstd, rstd))
    return scale, m * scale, rstd * select(is_small, 2.0, number(1.0, rstd, rstd))


@device
def whole(m, rstd):
    """Return 1, m and rstd, in place of `halved` where m is 0: x - m is then never beyond the range."""
    return 1.0, m, rstd
