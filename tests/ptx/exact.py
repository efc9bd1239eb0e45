"""Fused multiply-add with its one rounding, from operations that round each time."""

from fractions import Fraction

import numpy as np

_SPLITTER = 134217729.0  # 2**27 + 1
_LARGE, _SMALL = 2.0**500, 2.0**-400  # magnitudes between which the product's parts are exact


def fma32(a, b, c):
    """a * b + c in float32: the product is exact in float64, and so is all but the last bit of the sum.

    Rounding the sum to float32 is wrong only if it was first rounded to a tie, or where float32 has fewer bits, that
    is where the result is subnormal. These few are summed to odd (the last bit says that more follows) instead.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    tie = (total.view(np.int64) & 0x1FFFFFFF) == 0x10000000
    tie |= (np.abs(total) < 2.0**-125) & (total != 0)
    if not tie.any():
        return total.astype(np.float32)
    c = np.broadcast_to(c, total.shape)
    total[tie] = _sum_to_odd(product[tie], c[tie].astype(np.float64))
    return total.astype(np.float32)


def fma64(a, b, c):
    """a * b + c in float64, correctly rounded.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums" (IEEE Trans. Comput. 57, 2008): split the
    product and the sum in two each, add the small parts to odd. It holds unless something over- or underflows on
    the way; what might is computed as fractions.
    """
    a, b, c = np.broadcast_arrays(a, b, c)
    high, low = _two_product(a, b)
    sum_high, sum_low = _two_sum(c, low)
    result, rest = _two_sum(high, sum_high)
    result = result + _sum_to_odd(sum_low, rest)
    plain = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b) | ~np.isfinite(c)
    safe = (np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(c)) < _LARGE) & (np.abs(high) < _LARGE)
    safe &= np.abs(high) > _SMALL
    if not safe.all():
        result = np.where(plain, a * b + c, result)
        others = np.nonzero(~(safe | plain))
        result[others] = [
            _fma_fraction(*map(float, terms)) for terms in zip(a[others], b[others], c[others], strict=True)
        ]
    return result


def _two_sum(a, b):
    """The rounded sum, and what it lacks."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


def _two_product(a, b):
    """The rounded product, and what it lacks."""
    product = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a):
    scaled = a * _SPLITTER
    high = scaled - (scaled - a)
    return high, a - high


def _sum_to_odd(a, b):
    """The sum, of its two neighbours in float64 the odd one if it is neither."""
    total, lacking = _two_sum(a, b)
    bits = total.view(np.int64)
    even = (lacking != 0) & np.isfinite(total) & ((bits & 1) == 0)
    away = np.where((lacking > 0) == (total > 0), 1, -1)
    return (bits + np.where(even, away, 0)).view(np.float64)


def _fma_fraction(a, b, c):
    total = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        rounded = abs(total.numerator) / total.denominator
    except OverflowError:
        rounded = np.inf
    return -rounded if total < 0 else rounded
