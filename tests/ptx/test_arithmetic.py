"""Instructions against what Python and NumPy know exactly."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.snippets import evaluate

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


def integers(dtype, count=500):
    """Of all magnitudes, and all pairs of the extreme ones."""
    limits = np.iinfo(dtype)
    a, b = RANDOM.integers(limits.min, limits.max, (2, count), dtype, endpoint=True)
    b >>= RANDOM.integers(0, 8 * limits.dtype.itemsize, count, dtype)
    extreme = np.array([limits.min, limits.min + 1, limits.max, 0, 1, limits.max // 2], dtype)
    x, y = np.meshgrid(extreme, extreme)
    return np.concatenate([a, x.ravel()]), np.concatenate([b, y.ravel()])


def blocks(instruction, result, *operands):
    """`evaluate` for more operands than a block has threads."""
    pieces = range(0, len(operands[0]), 1024)
    return np.concatenate([evaluate(instruction, result, *[a[i : i + 1024] for a in operands]) for i in pieces])


def assert_same(actual, expected):
    """Also the sign of zeros."""
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(np.signbit(actual[~np.isnan(actual)]), np.signbit(expected[~np.isnan(expected)]))


def nearest(exact, dtype):
    """A fraction rounded, ties to even."""
    near = np.asarray(float(exact)).astype(dtype)[()]
    around = [near, np.nextafter(near, dtype(-np.inf)), np.nextafter(near, dtype(np.inf))]
    return min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(f"u{x.itemsize}")) & 1))


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


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64])
def test_integers(dtype):
    a, b = integers(dtype)
    bits = 8 * a.itemsize
    of_type = f"{'s' if a.dtype.kind == 'i' else 'u'}{bits}"
    pairs = list(zip(a.tolist(), b.tolist(), strict=True))
    quotients = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) if y else -1 for x, y in pairs]
    for text, expected in {
        "mul.lo": [x * y for x, y in pairs],
        "mul.hi": [x * y >> bits for x, y in pairs],
        "div": quotients,
        "rem": [x - q * y if y else x for (x, y), q in zip(pairs, quotients, strict=True)],
        "min": [min(pair) for pair in pairs],
        "max": [max(pair) for pair in pairs],
    }.items():
        wrapped = np.array([number % 2**bits for number in expected], f"u{a.itemsize}").view(dtype)
        np.testing.assert_array_equal(blocks(f"{text}.{of_type} $0, $1, $2", dtype, a, b), wrapped, text)
    if bits == 32:
        wide = f"{of_type[0]}{bits} $0, $1, $2"
        product = [x * y for x, y in pairs]
        np.testing.assert_array_equal(blocks(f"mul.wide.{wide}", np.dtype(f"{a.dtype.kind}8"), a, b), product)


def test_shifts_beyond_the_width():
    a, count = np.int32([-8] * 5), np.uint32([1, 31, 32, 33, 2**31])
    np.testing.assert_array_equal(evaluate("shr.s32 $0, $1, $2", np.int32, a, count), [-4, -1, -1, -1, -1])
    np.testing.assert_array_equal(evaluate("shr.u32 $0, $1, $2", np.uint32, a, count), [2**31 - 4, 1, 0, 0, 0])
    np.testing.assert_array_equal(evaluate("shl.b32 $0, $1, $2", np.int32, a, count), [-16, 0, 0, 0, 0])
    long = np.int64([-8] * 5)
    np.testing.assert_array_equal(evaluate("shr.s64 $0, $1, $2", np.int64, long, 2 * count), [-2, -1, -1, -1, -8])
    np.testing.assert_array_equal(
        evaluate("shf.r.wrap.b32 $0, $1, $1, 4", np.uint32, np.uint32([0x12345678])), 0x81234567
    )


def test_bits():
    a = np.uint32([0, 1, 0x80000000, 0x00F0F000, 0xFFFFFFFF])
    np.testing.assert_array_equal(evaluate("popc.b32 $0, $1", np.uint32, a), [0, 1, 1, 8, 32])
    np.testing.assert_array_equal(evaluate("clz.b32 $0, $1", np.uint32, a), [32, 31, 0, 8, 0])
    np.testing.assert_array_equal(evaluate("clz.b64 $0, $1", np.uint32, a.astype(np.uint64)), [64, 63, 32, 40, 32])
    np.testing.assert_array_equal(evaluate("brev.b32 $0, $1", np.uint32, a)[1:4], [2**31, 1, 0x000F0F00])
    np.testing.assert_array_equal(evaluate("bfe.u32 $0, $1, 12, 8", np.uint32, a), [0, 0, 0, 0x0F, 0xFF])
    np.testing.assert_array_equal(evaluate("bfe.s32 $0, $1, 20, 4", np.int32, a), [0, 0, 0, -1, -1])
    np.testing.assert_array_equal(evaluate("bfi.b32 $0, 5, $1, 4, 4", np.uint32, a)[:2], [0x50, 0x51])
    np.testing.assert_array_equal(evaluate("prmt.b32 $0, $1, 0x11223344, 0x4301", np.uint32, a)[3], 0x440000F0)
    np.testing.assert_array_equal(evaluate("lop3.b32 $0, $1, 0xFF, 0xF0, 0x96", np.uint32, a), a ^ 0xFF ^ 0xF0)


@pytest.mark.parametrize("of_type", ["f32", "f64"])
def test_comparisons_with_nan(of_type):
    dtype = np.dtype(of_type.replace("f32", "f4").replace("f64", "f8"))
    a, b = np.array([[1, 2, 2, np.nan, 1, np.nan], [2, 1, 2, 1, np.nan, np.nan]], dtype)
    ordered = {"eq": a == b, "ne": (a < b) | (a > b), "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    nan = np.isnan(a) | np.isnan(b)
    expected = ordered | {name + "u": result | nan for name, result in ordered.items()} | {"nan": nan, "num": ~nan}
    for name, result in expected.items():
        text = f"setp.{name}.{of_type} %p1, $1, $2; selp.u32 $0, 1, 0, %p1"
        np.testing.assert_array_equal(evaluate(text, np.uint32, a, b), result, name)
        both = f"setp.{name}.and.{of_type} %p1|%p2, $1, $2, !%p3; selp.u32 $0, 1, 0, %p2"
        prepared = f"setp.eq.u32 %p3, %laneid, 1; {both}"
        np.testing.assert_array_equal(evaluate(prepared, np.uint32, a, b), ~result & (np.arange(6) != 1), name)


def test_comparisons_of_integers():
    a, b = np.int32([-1, 1, 5]), np.int32([1, -1, 5])
    for name, result in {"lt.s32": a < b, "lo.u32": a > b, "hs.u32": a <= b, "ne.s32": a != b}.items():
        text = f"setp.{name} %p1, $1, $2; selp.b32 $0, 1, 0, %p1"
        np.testing.assert_array_equal(evaluate(text, np.uint32, a, b), result, name)


def test_conversions():
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.7, 3e9, -3e9, 1e20, np.nan, np.inf, -np.inf])
    low, high = -(2**31), 2**31 - 1
    for text, dtype, expected in [
        ("rni.s32.f32", np.int32, [0, 2, 2, 0, -2, high, low, high, 0, high, low]),
        ("rzi.s32.f32", np.int32, [0, 1, 2, 0, -1, high, low, high, 0, high, low]),
        ("rmi.s32.f32", np.int32, [0, 1, 2, -1, -2, high, low, high, 0, high, low]),
        ("rpi.s32.f32", np.int32, [1, 2, 3, 0, -1, high, low, high, 0, high, low]),
        ("rzi.u32.f32", np.uint32, [0, 1, 2, 0, 0, 3000000000, 0, 2**32 - 1, 0, 2**32 - 1, 0]),
        ("rzi.s64.f32", np.int64, [0, 1, 2, 0, -1, 3 * 10**9, -3 * 10**9, 2**63 - 1, 0, 2**63 - 1, -(2**63)]),
        ("rzi.u64.f32", np.uint64, [0, 1, 2, 0, 0, 3 * 10**9, 0, 2**64 - 1, 0, 2**64 - 1, 0]),
        ("f64.f32", np.float64, x.astype(np.float64)),
        ("rni.f32.f32", np.float32, np.rint(x)),
    ]:
        actual = evaluate(f"cvt.{text} $0, $1", dtype, x)
        np.testing.assert_array_equal(actual, np.array(expected, dtype), text)
    long = np.array([2**24 + 1, 2**24 + 3, -(2**63), 2**53 + 1, 2**62 + 2**38 + 1])
    np.testing.assert_array_equal(
        evaluate("cvt.rn.f32.s64 $0, $1", np.float32, long), [nearest(Fraction(int(n)), np.float32) for n in long]
    )
    np.testing.assert_array_equal(evaluate("cvt.rn.f64.s64 $0, $1", np.float64, long), [float(int(n)) for n in long])
    np.testing.assert_array_equal(evaluate("cvt.u32.u64 $0, $1", np.uint32, long), long.astype(np.uint32))
    np.testing.assert_array_equal(evaluate("cvt.s64.s32 $0, $1", np.int64, np.int32([-5, 5])), [-5, 5])
    np.testing.assert_array_equal(evaluate("cvt.u64.u32 $0, $1", np.int64, np.int32([-5, 5])), [2**32 - 5, 5])
    np.testing.assert_array_equal(evaluate("cvt.s32.s8 $0, $1", np.int32, np.int32([0x1FF, 0x17F])), [-1, 127])
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    np.testing.assert_array_equal(evaluate("cvt.rn.f16.f32 $0, $1", np.uint16, x)[:8], half.view(np.uint16)[:8])
    np.testing.assert_array_equal(evaluate("cvt.f32.f16 $0, $1", np.float32, half), half.astype(np.float32))
    brain = evaluate("cvt.rn.bf16.f32 $0, $1", np.uint16, np.float32([1, 1 + 2.0**-8, 1 + 3 * 2.0**-8]))
    np.testing.assert_array_equal(brain, [0x3F80, 0x3F80, 0x3F82])


def test_packed_pairs():
    a, b, c = RANDOM.standard_normal((3, 200)).astype(np.float32)
    pairs = [x.view(np.uint64) for x in (a, b, c)]
    fma = evaluate("fma.rn.f32 $0, $1, $2, $3", np.float32, a, b, c)
    np.testing.assert_array_equal(evaluate("fma.rn.f32x2 $0, $1, $2, $3", np.uint64, *pairs).view(np.float32), fma)
    np.testing.assert_array_equal(evaluate("add.rn.f32x2 $0, $1, $2", np.uint64, *pairs).view(np.float32), a + b)
    np.testing.assert_array_equal(evaluate("mul.rn.f32x2 $0, $1, $2", np.uint64, *pairs).view(np.float32), a * b)
    swapped = evaluate("mov.b64 {%r20, %r21}, $1; mov.b64 $0, {%r21, %r20}", np.uint64, pairs[0]).view(np.float32)
    np.testing.assert_array_equal(swapped.reshape(-1, 2), a.reshape(-1, 2)[:, ::-1])


@pytest.mark.parametrize("distance", [0, 1, 3, 8, 31])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffles(mode, width, distance):
    lane = np.arange(64)
    first = lane % 32 // width * width
    other = {"up": lane % 32 - distance, "down": lane % 32 + distance, "bfly": lane % 32 ^ distance}
    other = other.get(mode, first + distance % width)
    inside = (other >= first) if mode == "up" else (other < first + width)
    expected = np.where(inside, lane // 32 * 32 + other, lane)
    clamp = 32 - width << 8 | (0 if mode == "up" else 31)
    x = np.arange(1000, 1064, dtype=np.uint32)
    text = f"shfl.sync.{mode}.b32 %r20|%p1, $1, {{}}, {clamp}, -1; selp.b32 $0, %r20, 7, %p1"
    same, own = (
        evaluate(text.format(distance), np.uint32, x),
        evaluate(text.format("$2"), np.uint32, x, x * 0 + distance),
    )
    np.testing.assert_array_equal(same, np.where(inside, x[expected], 7))
    np.testing.assert_array_equal(own, same)
    np.testing.assert_array_equal(
        evaluate(text.format(distance).replace("7, %p1", "%r20, %p1"), np.uint32, x), x[expected]
    )


def test_votes():
    lane = np.arange(64, dtype=np.uint32)
    for name, expected in {"ballot.b32 $0": [0x1F, 0xFFFFFFFF], "all.pred %p2": [0, 1], "any.pred %p2": [1, 1]}.items():
        text = f"setp.lt.u32 %p1, $1, 5; setp.gt.or.u32 %p1, $1, 31, %p1; vote.sync.{name}, %p1, -1"
        text += "" if "ballot" in name else "; selp.u32 $0, 1, 0, %p2"
        np.testing.assert_array_equal(evaluate(text, np.uint32, lane), np.repeat(np.uint32(expected), 32))
    np.testing.assert_array_equal(
        evaluate("redux.sync.add.u32 $0, $1, -1", np.uint32, lane), np.repeat([31 * 16, 31 * 16 + 32 * 32], 32)
    )
    np.testing.assert_array_equal(evaluate("activemask.b32 $0", np.uint32, lane[:40]), [0xFFFFFFFF] * 32 + [0xFF] * 8)
