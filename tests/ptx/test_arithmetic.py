"""Arithmetic of floats against what Python and NumPy know exactly."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.snippets import blocks, evaluate, nearest

RANDOM = np.random.default_rng(0)
SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-40, 3e38, 5e-324, 1e308]


def floats(dtype, count=4000):
    """Of all magnitudes, and all pairs of the special ones in three arrays."""
    bits = np.dtype(dtype).itemsize * 8
    with np.errstate(over="ignore", invalid="ignore"):
        a, b, c = RANDOM.integers(0, 2**bits, (3, count), f"u{bits // 8}").view(dtype)
        special = np.array(SPECIAL).astype(dtype)
    x, y = np.meshgrid(special, special)
    return [np.concatenate([a, x.ravel()]), np.concatenate([b, y.ravel()]), np.concatenate([c, y.ravel()])]


def assert_same(actual, expected):
    """Also the sign of zeros."""
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[~np.isnan(actual)]), np.signbit(expected[~np.isnan(expected)]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fma_rounds_once(dtype):
    bits = np.finfo(dtype).nmant + 1
    a, b = (RANDOM.standard_normal((2, 3000)) + 2).astype(dtype)
    c = np.concatenate([RANDOM.standard_normal(1000), np.zeros(2000)]).astype(dtype)
    c[1000:2000] = -(a * b)[1000:2000]  # cancels all but the rounding error
    half = 2.0**-bits
    a[2000:], b[2000:] = 1 + 2 * half * RANDOM.integers(1, 1 << bits // 2, (2, 1000))
    c[2000:] = (a * b)[2000:] * half * RANDOM.choice([1, -1, 3, -3, half], 1000)  # beside ties
    actual = blocks(f"fma.rn.f{8 * a.itemsize} $0, $1, $2, $3", dtype, a, b, c)
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    np.testing.assert_array_equal(actual, [nearest(number, dtype) for number in exact])
    assert (actual != a * b + c).sum() > 1000


def test_fma_of_all_magnitudes():
    a, b, c = floats(np.float64)
    actual = blocks("fma.rn.f64 $0, $1, $2, $3", np.float64, a, b, c)
    with np.errstate(all="ignore"):
        plain = a * b + c
        for i in range(len(a)):
            if np.isfinite([a[i], b[i], c[i]]).all():
                exact = Fraction(a[i]) * Fraction(b[i]) + Fraction(c[i])
                try:
                    plain[i] = exact.numerator / exact.denominator if exact else plain[i] if a[i] * b[i] == 0 else 0.0
                except OverflowError:
                    plain[i] = np.inf if exact > 0 else -np.inf
                if plain[i] == 0 and exact < 0:
                    plain[i] = -0.0
        assert_same(actual, plain)
        a, b, c = floats(np.float32)
        longer = (a.astype(np.longdouble) * b + c).astype(np.float32)  # twice rounded, but for few
        actual = blocks("fma.rn.f32 $0, $1, $2, $3", np.float32, a, b, c)
        np.testing.assert_allclose(actual, longer, rtol=2e-7, atol=2e-45)
        assert np.mean((actual == longer) | np.isnan(longer)) > 0.99


def test_fma_to_subnormal_numbers():
    """A tie of float32's subnormal numbers, and a little: as float64 the sum would be rounded to the tie."""
    a = np.float32([2.0**-75, 2.0**-75, 2.0**-75])
    b = np.float32([2.0**-75 * 1.5, -(2.0**-75), 2.0**-75])
    c = np.float32([2.0**-149, 2.0**-149, 2.0**-149])
    a, b = a * np.float32(1 + 2.0**-23), b * np.float32(1 + 2.0**-23)
    actual = evaluate("fma.rn.f32 $0, $1, $2, $3", np.float32, a, b, c)
    np.testing.assert_array_equal(actual, np.float32([2.0**-149 * 2, 0, 2.0**-149 * 2]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_arithmetic(dtype):
    a, b, _ = floats(dtype)
    of_type = f"f{8 * a.itemsize}"
    with np.errstate(all="ignore"):
        for text, expected in {
            "add.$ $0, $1, $2": a + b,
            "sub.rn.$ $0, $1, $2": a - b,
            "mul.$ $0, $1, $2": a * b,
            "div.rn.$ $0, $1, $2": a / b,
            "sqrt.rn.$ $0, $1": np.sqrt(a),
            "rcp.rn.$ $0, $1": 1 / a,
            "neg.$ $0, $1": -a,
            "abs.$ $0, $1": np.abs(a),
            "copysign.$ $0, $1, $2": np.copysign(b, a),
        }.items():
            assert_same(blocks(text.replace(".$ ", f".{of_type} "), dtype, a, b), expected)


def test_least_and_greatest():
    a = np.float32([np.nan, 1, np.nan, 0.0, -0.0, -np.inf, 2])
    b = np.float32([1, np.nan, np.nan, -0.0, 0.0, 5, 3])
    assert_same(evaluate("min.f32 $0, $1, $2", np.float32, a, b), np.float32([1, 1, np.nan, -0.0, -0.0, -np.inf, 2]))
    assert_same(evaluate("max.f32 $0, $1, $2", np.float32, a, b), np.float32([1, 1, np.nan, 0.0, 0.0, 5, 3]))
    assert_same(evaluate("max.NaN.f32 $0, $1, $2", np.float32, a, b)[:3], np.float32([np.nan] * 3))


def test_flush_to_zero():
    tiny = np.float32([1e-40, -1e-40, 2.0**-126, -1.0])
    assert_same(evaluate("add.ftz.f32 $0, $1, 0f80000000", np.float32, tiny), np.float32([0.0, -0.0, 2.0**-126, -1]))
    assert_same(evaluate("mul.ftz.f32 $0, $1, 0f3F000000", np.float32, tiny), np.float32([0.0, -0.0, 0, -0.5]))
    assert_same(evaluate("mul.sat.f32 $0, $1, 0fC0000000", np.float32, tiny[2:]), np.float32([0, 1]))


@pytest.mark.parametrize(
    ("text", "operands", "exact", "bound"),
    [
        ("rsqrt.approx.f32 $0, $1", 1, lambda a: 1 / np.sqrt(a), 2.0**-22.9),
        ("sqrt.approx.f32 $0, $1", 1, np.sqrt, 2.0**-23),
        ("rcp.approx.ftz.f32 $0, $1", 1, lambda a: 1 / a, 2.0**-23),
        ("div.full.f32 $0, $1, $2", 2, np.divide, 2.0**-22),
        ("div.approx.f32 $0, $1, $2", 2, np.divide, 2.0**-22),
        ("rsqrt.approx.ftz.f64 $0, $1", 1, lambda a: 1 / np.sqrt(a), 2.0**-20),
        ("rcp.approx.ftz.f64 $0, $1", 1, lambda a: 1 / a, 2.0**-20),
    ],
)
def test_approximations_err_as_much_as_they_may(text, operands, exact, bound):
    dtype = np.float64 if "f64" in text else np.float32
    a = np.exp(RANDOM.uniform(-20, 20, (operands, 1000))).astype(dtype)
    actual, right = evaluate(text, dtype, *a), exact(*a.astype(np.float64))
    error = np.abs(actual / right - 1)
    assert bound / 2 < error.max() <= bound
    assert (actual == right.astype(dtype)).mean() < 0.7
    np.testing.assert_array_equal(actual, evaluate(text, dtype, *a))
    if dtype is np.float64:
        assert not (actual.view(np.uint64) & np.uint64(0xFFFFFFFF)).any()
    zero = np.zeros((operands, 1), dtype)
    zero[:-1] = 1
    assert evaluate(text, dtype, *zero)[0] == (0 if "sqrt.approx.f32" in text and text[0] == "s" else np.inf)


def test_packed_pairs():
    a, b, c = RANDOM.standard_normal((3, 200)).astype(np.float32)
    pairs = [x.view(np.uint64) for x in (a, b, c)]
    fma = evaluate("fma.rn.f32 $0, $1, $2, $3", np.float32, a, b, c)
    np.testing.assert_array_equal(evaluate("fma.rn.f32x2 $0, $1, $2, $3", np.uint64, *pairs).view(np.float32), fma)
    np.testing.assert_array_equal(evaluate("add.rn.f32x2 $0, $1, $2", np.uint64, *pairs).view(np.float32), a + b)
    np.testing.assert_array_equal(evaluate("mul.rn.f32x2 $0, $1, $2", np.uint64, *pairs).view(np.float32), a * b)
    swapped = evaluate("mov.b64 {%r20, %r21}, $1; mov.b64 $0, {%r21, %r20}", np.uint64, pairs[0]).view(np.float32)
    np.testing.assert_array_equal(swapped.reshape(-1, 2), a.reshape(-1, 2)[:, ::-1])
