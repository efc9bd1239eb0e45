"""Operations that hardware only approximates: as wrong here as its documentation allows.

The PTX ISA gives each a bound. Results err by minus the bound, nothing, or the bound, as a hash of the operands'
bits has it: the same on every run, and no kernel can rely on the last bit.
"""

import numpy as np

from tests.ptx.steps import flushed


def rsqrt32(a):
    """Relative error up to 2**-22.9."""
    return _relative(a, 1 / np.sqrt(a.astype(np.float64)), 2.0**-22.9)


def sqrt32(a):
    """Relative error up to 2**-23."""
    return _relative(a, np.sqrt(a.astype(np.float64)), 2.0**-23)


def rcp32(a):
    """Up to one unit in the last place."""
    return _units(_sign(a), 1 / a.astype(np.float64), 1)


def div32_full(a, b):
    """Up to two units in the last place."""
    return _units(_sign(a, b), a.astype(np.float64) / b, 2)


def div32(a, b):
    """The same; but by 2**126 and more gives 0."""
    quotient = div32_full(a, b)
    return np.where((np.abs(b) > 2.0**126) & np.isfinite(b), a * 0 * np.sign(b), quotient)


def exp2_32(a):
    """Up to two units in the last place."""
    return _units(_sign(a), np.exp2(a.astype(np.float64)), 2)


def log2_32(a):
    """Relative error up to 2**-22."""
    return _relative(a, np.log2(a.astype(np.float64)), 2.0**-22)


def tanh32(a):
    """Relative error up to 2**-11."""
    return _relative(a, np.tanh(a.astype(np.float64)), 2.0**-11)


def sin32(a):
    """Absolute error up to 2**-20.5."""
    return (np.sin(a.astype(np.float64)) + _sign(a) * 2.0**-20.5).astype(np.float32)


def cos32(a):
    """Absolute error up to 2**-20.5."""
    return (np.cos(a.astype(np.float64)) + _sign(a) * 2.0**-20.5).astype(np.float32)


def rsqrt64(a):
    """Up to two units in the last place: the documentation gives no bound."""
    exact = 1 / np.sqrt(a)
    return np.where(np.isfinite(exact), exact + _sign(a) * np.spacing(np.abs(exact)), exact)


def rsqrt64_coarse(a):
    """Relative error up to 2**-20, the lower 32 bits are 0."""
    return _upper_half(a, 1 / np.sqrt(flushed(a)))


def rcp64_coarse(a):
    """Relative error up to 2**-20, the lower 32 bits are 0."""
    return _upper_half(a, 1 / flushed(a))


def _sign(*operands):
    """-1, 0 or 1."""
    mixed = np.uint64(0)
    for operand in operands:
        bits = operand.view(f"u{operand.itemsize}").astype(np.uint64)
        mixed = (mixed + bits + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed >> np.uint64(32)).astype(np.int64) % 3 - 1


def _relative(a, exact, bound):
    """Half a unit of the bound is for the rounding that follows."""
    return (exact * (1 + _sign(a) * (bound - 2.0**-24))).astype(np.float32)


def _units(sign, exact, units):
    rounded = exact.astype(np.float32)
    unit = np.where(np.isfinite(rounded), np.spacing(np.abs(rounded)), 0)
    return np.where(np.isfinite(rounded), (exact + sign * (units - 0.5) * unit).astype(np.float32), rounded)


def _upper_half(a, exact):
    near = exact * (1 + _sign(a) * 2.0**-22)
    bits = near.view(np.uint64)
    rounded = np.where(np.isfinite(near), bits + np.uint64(1 << 31), bits)
    return (rounded & np.uint64(0xFFFF_FFFF_0000_0000)).view(np.float64)
