"""Integers, comparisons and conversions against what Python knows exactly."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx import Unsupported
from tests.ptx.snippets import blocks, evaluate, nearest

RANDOM = np.random.default_rng(0)


def integers(dtype, count=500):
    """Of all magnitudes, and all pairs of the extreme ones."""
    limits = np.iinfo(dtype)
    a, b = RANDOM.integers(limits.min, limits.max, (2, count), dtype, endpoint=True)
    b >>= RANDOM.integers(0, 8 * limits.dtype.itemsize, count, dtype)
    extreme = np.array([limits.min, limits.min + 1, limits.max, 0, 1, limits.max // 2], dtype)
    x, y = np.meshgrid(extreme, extreme)
    return np.concatenate([a, x.ravel()]), np.concatenate([b, y.ravel()])


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


def test_conversions_that_flush_saturate_or_pack():
    x = np.float32([1e-40, -1e-40, 0.25, 1.5, -2, np.nan])
    assert_equal = np.testing.assert_array_equal
    assert_equal(evaluate("cvt.ftz.f64.f32 $0, $1", np.float64, x), np.float64([0, 0, 0.25, 1.5, -2, np.nan]))
    assert_equal(evaluate("cvt.ftz.rpi.s32.f32 $0, $1", np.int32, x), [0, 0, 1, 2, -2, 0])
    assert_equal(evaluate("cvt.sat.f32.f32 $0, $1", np.float32, x), np.float32([1e-40, 0, 0.25, 1, 0, 0]))
    assert_equal(evaluate("cvt.rn.ftz.f32.f64 $0, $1", np.float32, x.astype(np.float64)), np.where(x**2 < 1e-9, 0, x))
    numbers = np.int32([-5, 200, 300])
    assert_equal(evaluate("cvt.sat.u8.s32 $0, $1", np.uint32, numbers), [0, 200, 255])
    assert_equal(evaluate("cvt.sat.s8.s32 $0, $1", np.int32, numbers), [-5, 127, 127])
    packed = evaluate("cvt.rn.bf16x2.f32 $0, $1, 0f3F800000", np.uint32, x[2:5])
    assert_equal(packed, [0x3E803F80, 0x3FC03F80, 0xC0003F80])
    packed = evaluate("cvt.rn.f16x2.f32 $0, $1, $1", np.uint32, x[2:5])
    assert_equal(packed.view(np.float16), np.repeat(x[2:5], 2))
    assert_equal(evaluate("cvt.f32.bf16 $0, $1", np.float32, np.uint16([0x3FC0, 0x7F80])), [1.5, np.inf])


def test_properties_of_floats():
    x = np.array([1, 0, 1e-310, np.inf, np.nan])
    for name, expected in {
        "finite": [1, 1, 1, 0, 0],
        "infinite": [0, 0, 0, 1, 0],
        "number": [1, 1, 1, 1, 0],
        "notanumber": [0, 0, 0, 0, 1],
        "normal": [1, 0, 0, 0, 0],
        "subnormal": [0, 0, 1, 0, 0],
    }.items():
        text = f"testp.{name}.f64 %p1, $1; selp.u32 $0, 1, 0, %p1"
        np.testing.assert_array_equal(evaluate(text, np.uint32, x), expected, name)
    text = "setp.gt.ftz.f32 %p1, $1, 0f00000000; selp.u32 $0, 1, 0, %p1"
    np.testing.assert_array_equal(evaluate(text, np.uint32, np.float32([1e-40, 1e-30])), [0, 1])


def test_constants():
    x = np.float32([2])
    for text, expected in {
        "add.f32 $0, $1, 0f3F800000": 3,
        "add.f32 $0, $1, 1.5": 3.5,
        "add.f32 $0, $1, 0d3FF0000000000000": 3,
        "mov.b32 $0, 0f40A00000": 5,
        "mov.pred %p1, -1; selp.f32 $0, $1, 0f00000000, %p1": 2,
        "mov.b64 {_, %r20}, 0x4040000000000000; mov.b32 $0, %r20": 3,
        "mov.b64 {%r20, %r21}, 0x4040000000000000; mov.b32 $0, %r21": 3,
        "ld.global.v2.f32 {$0, _}, [%rd1]": 2,
        "cvt.rn.f32.u32 $0, %lanemask_lt": 0,
        "cvt.rn.f32.u32 $0, %lanemask_ge": 2.0**32,
    }.items():
        assert evaluate(text, np.float32, np.float32([2, 4]) if "v2" in text else x)[0] == expected, text
    half = np.float16([1.5])
    assert evaluate("fma.rn.f16 $0, $1, $1, $1", np.uint16, half).view(np.float16) == 3.75
    assert evaluate("shf.l.clamp.b32 $0, $1, $1, 40", np.uint32, np.uint32([0x12345678])) == 0x12345678
    assert evaluate("shf.l.wrap.b32 $0, $1, 1, 40", np.uint32, np.uint32([0x12345678])) == 0x112


@pytest.mark.parametrize(
    "text",
    [
        "add.rz.f32 $0, $1, $1",
        "add.cc.u32 $0, $1, $1",
        "add.f16x2 $0, $1, $1",
        "cvt.rz.f32.f64 $0, %fd1",
        "cvt.rn.bf16.f64 $0, $1",
        "mul24.lo.s32 $0, $1, $1",
        "ld.relaxed.gpu.global.f32 $0, [%rd1]",
        "ld.const.f32 $0, [%rd1]",
        "add.f32 $0, $1, other",
        "add.f64 $0, $1, $1",
        "bar.sync 0, 32",
        "bar.red.popc.u32 $0, 0, %p1",
        "match.any.sync.b32 $0, %r0, -1",
        "cp.async.ca.shared.global [$0], [%rd1], 4",
    ],
)
def test_what_is_not_interpreted(text):
    """Is said when it is executed, not when it is read."""
    with pytest.raises(Unsupported):
        evaluate(text, np.float32, np.float32([1]))
    evaluate(f"bra over; {text}; over: mov.f32 $0, $1", np.float32, np.float32([1]))
