"""Arithmetic, logic and comparison: which function each instruction is."""

import numpy as np

from tests.ptx import approximate, exact, integers
from tests.ptx.faults import Unsupported
from tests.ptx.steps import copy, flushed, flushing, saturating, step

_ROUNDINGS = {"rz", "rm", "rp"}


def _least(a, b):
    """The other operand beside NaN; of two zeros the negative one."""
    return np.where(a == b, _bitwise(np.bitwise_or, a, b), np.fmin(a, b))


def _greatest(a, b):
    return np.where(a == b, _bitwise(np.bitwise_and, a, b), np.fmax(a, b))


def _bitwise(function, a, b):
    bits = f"u{a.itemsize}"
    return function(a.view(bits), b.view(bits)).view(a.dtype)


def _reciprocal(a):
    return np.divide(1, a, dtype=a.dtype)


def _multiply_add(a, b, c):
    return a * b + c


def _half_fma(a, b, c):
    return (a.astype(np.float64) * b + c).astype(np.float16)


_ALL = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert}
_INTEGER = {
    **_ALL,
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "mad": _multiply_add, "neg": np.negative, "abs": np.abs},
    **{"min": np.minimum, "max": np.maximum, "div": integers.divide, "rem": integers.remainder},
    **{"popc": np.bitwise_count, "clz": integers.leading_zeros, "brev": integers.reverse},
    **{"prmt": integers.permute},
}
_FLOAT = {
    **{"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative, "abs": np.abs},
    **{"min": _least, "max": _greatest, "sqrt": np.sqrt, "rcp": _reciprocal},
    "copysign": lambda sign, size: np.copysign(size, sign),
}
_FMA = {"f32": exact.fma32, "f64": exact.fma64, "f32x2": exact.fma32, "f16": _half_fma}
_APPROXIMATE = {
    **{("rsqrt", "f32"): approximate.rsqrt32, ("sqrt", "f32"): approximate.sqrt32, ("rcp", "f32"): approximate.rcp32},
    **{("ex2", "f32"): approximate.exp2_32, ("lg2", "f32"): approximate.log2_32, ("tanh", "f32"): approximate.tanh32},
    **{("sin", "f32"): approximate.sin32, ("cos", "f32"): approximate.cos32, ("div", "f32"): approximate.div32},
    **{("rsqrt", "f64"): approximate.rsqrt64},
}
_COARSE = {"rsqrt": approximate.rsqrt64_coarse, "rcp": approximate.rcp64_coarse}
_COMPARISONS = {
    **{"eq": np.equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
    **{"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal},
}
_TESTS = {
    **{"finite": np.isfinite, "infinite": np.isinf, "notanumber": np.isnan, "number": lambda a: ~np.isnan(a)},
    "normal": lambda a: np.isfinite(a) & (np.abs(a) >= np.finfo(a.dtype).tiny),
    "subnormal": lambda a: (a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny),
}


def arithmetic(instruction, operands):
    """Operands and result of one type, the last part of the opcode."""
    name, *how, of_type = instruction.parts
    if of_type in ("f16x2", "bf16", "bf16x2") or {"cc", *_ROUNDINGS} & {*how}:
        raise Unsupported("arithmetic of this kind")
    target, *sources = instruction.operands
    function = _float_function(name, how, of_type) if of_type[0] == "f" else _integer_function(name, how, of_type)
    slots = [operands.read(source, of_type) for source in sources]
    result = of_type
    if "wide" in how:
        result = f"{of_type[0]}{2 * int(of_type[1:])}"
        slots[2:] = [operands.read(source, result) for source in sources[2:]]
    elif name in ("popc", "clz"):
        result = "u32"
    return step(function, operands.write(target, result), *slots)


def _integer_function(name, how, of_type):
    if of_type == "pred":
        return _ALL[name]
    if name in ("mul", "mad") and {"wide", "hi"} & {*how}:
        product = integers.multiply_wide if "wide" in how else integers.multiply_high
        return product if name == "mul" else lambda a, b, c: product(a, b) + c
    if "sat" in how or name not in _INTEGER:
        raise Unsupported("arithmetic of this kind")
    return _INTEGER[name]


def _float_function(name, how, of_type):
    if name in ("fma", "mad"):
        function = _FMA[of_type]
    elif "full" in how:
        function = approximate.div32_full
    elif "approx" in how and of_type == "f64" and "ftz" in how:
        return _COARSE[name]
    elif "approx" in how:
        function = _APPROXIMATE[name, of_type]
    elif name in ("min", "max") and {"NaN", "xorsign"} & {*how}:
        function = np.minimum if name == "min" else np.maximum
    else:
        function = _FLOAT[name]
    if "ftz" in how:
        function = flushing(function)
    return saturating(function) if "sat" in how else function


def shift(instruction, operands):
    """Further than the width: nothing is left but the sign. NumPy has it so too."""
    name, of_type = instruction.parts
    target, value, count = instruction.operands
    function = np.left_shift if name == "shl" else np.right_shift
    return step(function, operands.write(target, of_type), operands.read(value, of_type), operands.read(count, "u32"))


def bit_field(instruction, operands):
    name, of_type = instruction.parts
    target, *sources = instruction.operands
    slots = [operands.read(source, of_type) for source in sources[:-2]]
    slots += [operands.read(source, "u32") for source in sources[-2:]]
    function = integers.extract_field if name == "bfe" else integers.insert_field
    return step(function, operands.write(target, of_type), *slots)


def funnel_shift(instruction, operands):
    _, direction, mode, of_type = instruction.parts
    shifted = integers.shift_left_funnel if direction == "l" else integers.shift_right_funnel
    limited = integers.wrapped if mode == "wrap" else integers.clamped
    target, *sources = instruction.operands
    slots = [operands.read(source, "u32") for source in sources]
    return step(lambda a, b, count: shifted(a, b, limited(count)), operands.write(target, of_type), *slots)


def three_way_logic(instruction, operands):
    target, *sources, table = instruction.operands
    slots = [operands.read(source, "b32") for source in sources]
    return step(integers.logic(int(table, 0)), operands.write(target, "b32"), *slots)


def select(instruction, operands):
    of_type = instruction.parts[-1]
    target, first, second, which = instruction.operands
    slots = operands.read(which, "pred"), operands.read(first, of_type), operands.read(second, of_type)
    return step(np.where, operands.write(target, of_type), *slots)


def test_property(instruction, operands):
    _, what, of_type = instruction.parts
    target, value = instruction.operands
    return step(_TESTS[what], operands.write(target, "pred"), operands.read(value, of_type))


test_property.__test__ = False  # no test, whatever its name


def compare(instruction, operands):
    """setp: one predicate, or it and its opposite, each combined with a third where there is one."""
    _, comparison, *how, of_type = instruction.parts
    names, first, second, *third = instruction.operands
    function = _comparison(comparison, of_type)
    if "ftz" in how:
        function = _comparing_flushed(function)
    targets = [operands.write(name.strip(), "pred") for name in names.split("|")]
    slots = operands.read(first, of_type), operands.read(second, of_type)
    combine = next((_ALL[part] for part in how if part in _ALL), None)
    if combine is None and len(targets) == 1:
        return step(function, *targets, *slots)
    other = operands.read(third[0].lstrip("!"), "pred") if combine else None
    return _several_comparisons(function, targets, slots, combine, other, bool(third) and third[0].startswith("!"))


def _several_comparisons(function, targets, slots, combine, other, negated):
    def run(wave, lanes):
        views, index = wave.views, lanes.index
        result = function(*[views[slot][index] for slot in slots])
        results = [result, ~result]
        if combine:
            third = views[other][index] ^ negated
            results = [combine(result, third) for result in results]
        for target, result in zip(targets, results, strict=False):
            views[target][index] = result

    return run


def _comparison(name, of_type):
    if name in ("num", "nan"):
        return (lambda a, b: np.isnan(a) | np.isnan(b)) if name == "nan" else lambda a, b: ~(np.isnan(a) | np.isnan(b))
    if of_type[0] != "f":
        return np.not_equal if name == "ne" else _COMPARISONS[name]
    if name == "ne":
        return lambda a, b: (a < b) | (a > b)
    if name == "neu":
        return np.not_equal
    if name.endswith("u"):
        opposite = {"equ": None, "ltu": np.greater_equal, "leu": np.greater, "gtu": np.less_equal, "geu": np.less}[name]
        return (lambda a, b: ~opposite(a, b)) if opposite else lambda a, b: ~((a < b) | (a > b))
    return _COMPARISONS[name]


def _comparing_flushed(function):
    return lambda a, b: function(flushed(a), flushed(b))


def move(instruction, operands):
    """One register to another, or several small ones to a large one and back."""
    of_type = instruction.parts[-1]
    target, source = instruction.operands
    if target.startswith("{") or source.startswith("{"):
        return _move_parts(of_type, operands.vector(target), operands.vector(source), operands)
    return copy(operands.write(target, of_type), operands.read(source, of_type))


def _move_parts(of_type, targets, sources, operands):
    count = max(len(targets), len(sources))
    part = f"b{int(of_type[1:]) // count}"
    if len(targets) > 1:
        kept = [(i, name) for i, name in enumerate(targets) if name != "_"]
        pairs = [(operands.write(name, part), operands.part(sources[0], part, i)) for i, name in kept]
    else:
        pairs = [(operands.part(targets[0], part, i), operands.read(name, part)) for i, name in enumerate(sources)]

    def run(wave, lanes):
        views, index = wave.views, lanes.index
        values = [views[source][index].copy() for _, source in pairs]
        for (target, _), value in zip(pairs, values, strict=True):
            views[target][index] = value

    return run


OPERATIONS = {
    **dict.fromkeys([*_INTEGER, *_FLOAT, "fma", "rsqrt", "ex2", "lg2", "tanh", "sin", "cos"], arithmetic),
    **{"shl": shift, "shr": shift, "bfe": bit_field, "bfi": bit_field, "shf": funnel_shift, "lop3": three_way_logic},
    **{"selp": select, "setp": compare, "testp": test_property, "mov": move},
}
