"""cvt: between all types of numbers."""

import numpy as np

from tests.ptx.faults import Unsupported
from tests.ptx.operands import DTYPES
from tests.ptx.steps import copy, flushed, flushing, step

_TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
_PACKED = {"bf16x2": "bf16", "f16x2": "f16"}


def convert(instruction, operands):
    *how, target_type, source_type = instruction.parts[1:]
    target, *sources = instruction.operands
    if target_type in _PACKED:
        return _packed(how, _PACKED[target_type], operands.write(target, target_type), sources, operands)
    function = _function(how, target_type, source_type)
    slots = operands.write(target, target_type), operands.read(sources[0], source_type)
    return step(function, *slots) if function else copy(*slots)


def _packed(how, part, target, sources, operands):
    """Two float32 to 16 bits each, the first to the upper half."""
    function = _function(how, part, "f32")

    def pack(upper, lower):
        halves = [np.asarray(function(a)).view(np.uint16).astype(np.uint32) for a in (upper, lower)]
        return halves[0] << np.uint32(16) | halves[1]

    return step(pack, target, *[operands.read(source, "f32") for source in sources])


def _function(how, target_type, source_type):
    """None where NumPy converts as it copies: integers, and floats rounded to nearest."""
    integral = next((_TO_INTEGRAL[part] for part in how if part in _TO_INTEGRAL), None)
    to_float, from_float = target_type[0] == "f", source_type[0] == "f"
    if "bf16" in (target_type, source_type):
        function = _bfloat16(how, target_type, source_type)
    elif {"rz", "rm", "rp"} & {*how} and not (from_float and to_float and _widens(target_type, source_type)):
        raise Unsupported("conversion with this rounding")
    elif from_float and not to_float:
        function = _to_integer(integral or np.trunc, DTYPES[target_type])
    elif from_float and integral and target_type == source_type:
        function = integral
    elif not to_float and "sat" in how:
        function = _saturated(DTYPES[target_type])
    else:
        function = _narrowing(DTYPES[target_type]) if to_float else None
    if "sat" in how and to_float:
        inner = function
        function = lambda a: np.fmin(np.fmax(inner(a), 0), 1)  # noqa: E731
    if "ftz" in how and function:
        function = _flushing(function, to_float)
    return function


def _widens(target_type, source_type):
    return DTYPES[target_type].itemsize >= DTYPES[source_type].itemsize


def _flushing(function, to_float):
    if to_float:
        return flushing(function)
    return lambda a: function(flushed(a))


def _narrowing(dtype):
    return lambda a: a.astype(dtype)


def _to_integer(integral, dtype):
    """What lies beyond becomes the nearest that there is, NaN becomes 0."""
    limits = np.iinfo(dtype)
    above = float(limits.max) + 1 if dtype.itemsize < 8 else 2.0 ** (64 if dtype.kind == "u" else 63)

    def run(a):
        whole = integral(a.astype(np.float64))
        inside = (whole >= limits.min) & (whole < above)
        result = np.where(inside, whole, 0).astype(dtype)
        return np.where(inside | np.isnan(whole), result, np.where(whole > 0, limits.max, limits.min).astype(dtype))

    return run


def _saturated(dtype):
    limits = np.iinfo(dtype)

    def run(a):
        source = np.iinfo(a.dtype)
        return np.clip(a, max(limits.min, source.min), min(limits.max, source.max)).astype(dtype)

    return run


def _bfloat16(how, target_type, source_type):
    if source_type == "bf16" and target_type == "f32":
        return lambda a: (a.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if target_type == "bf16" and source_type == "f32" and "rn" in how:
        return _to_bfloat16
    raise Unsupported("this conversion of bfloat16")


def _to_bfloat16(a):
    """To nearest, ties to even."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)) >> np.uint32(16)
    return np.where(np.isnan(a), 0x7FFF, rounded).astype(np.uint16)


OPERATIONS = {"cvt": convert}
