"""Vectors for kernels: one or several numbers of a type as one value.

Arithmetic on vectors is written as on numbers, and a number beside a vector takes its type: so the formulas of
`numbanorm._math`, constants and all, are float32 where the vector is. A vector of one lane is a number of which that
holds too: one of Numba's own would turn float64 beside any literal.
"""

import math
import operator

from llvmlite import ir

from numbanorm._math import choose
from numbanorm.cuda import cgutils, extending, types

_INT32 = ir.IntType(32)


class Vector(types.Type):
    """Several numbers of one type, or one."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")

    def unify(self, context, other):
        """The type of a variable that is a vector on one way and a number on another."""
        return self if isinstance(other, types.Number) else None


def llvm_type(manager, vector):
    """Of a vector: of one lane, that of a number."""
    number = manager.lookup(vector.dtype).get_value_type()
    return number if vector.lanes == 1 else ir.VectorType(number, vector.lanes)


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_type(manager, vector))


def lanes_named(operand):
    """What a literal says, or as many as a vector has."""
    return operand.lanes if isinstance(operand, Vector) else operand.literal_value


def known(*numbers):
    """Whether all are literals. Numba tries an intrinsic without them first: it then gives None, and is asked anew."""
    return all(isinstance(number, types.IntegerLiteral | Vector) for number in numbers)


@extending.intrinsic
def number(typing_context, value, like, lanes):
    """A number in every lane of a vector of the type that a run or a vector is of."""
    if not known(lanes):
        return None
    vector = Vector(like.dtype, lanes_named(lanes))

    def codegen(context, builder, signature, args):
        return context.cast(builder, args[0], value, vector)

    return vector(value, like, lanes), codegen


@extending.intrinsic
def lanes_of(typing_context, vector):
    """How many lanes a vector has."""
    return types.int64(vector), lambda context, builder, signature, args: ir.IntType(64)(vector.lanes)


@extending.intrinsic
def join(typing_context, *vectors):
    """Vectors of one lane as one vector."""
    joined = Vector(vectors[0].dtype, len(vectors))

    def codegen(context, builder, signature, args):
        value = ir.Constant(context.get_value_type(joined), ir.Undefined)
        for k in range(joined.lanes):
            value = builder.insert_element(value, builder.extract_value(args[0], k), _INT32(k))
        return value

    return joined(types.StarArgTuple(vectors)), codegen


@extending.intrinsic
def lane(typing_context, vector, k):
    """One lane, as a vector of one lane."""
    if not known(k):
        return None
    which = k.literal_value

    def codegen(context, builder, signature, args):
        return args[0] if vector.lanes == 1 else builder.extract_element(args[0], _INT32(which))

    return Vector(vector.dtype, 1)(vector, k), codegen


def _half(which):
    @extending.intrinsic
    def half(typing_context, vector):
        result = Vector(vector.dtype, vector.lanes // 2)

        def codegen(context, builder, signature, args):
            if result.lanes == 1:
                return builder.extract_element(args[0], _INT32(which))
            first = which * result.lanes
            lanes = ir.Constant(ir.VectorType(_INT32, result.lanes), [first + k for k in range(result.lanes)])
            return builder.shuffle_vector(args[0], args[0], lanes)

        return result(vector), codegen

    return half


first_half, second_half = _half(0), _half(1)  # of the lanes


def _across(combine):
    @extending.intrinsic
    def across(typing_context, vector):
        def codegen(context, builder, signature, args):
            values = [args[0]]
            if vector.lanes > 1:
                values = [builder.extract_element(args[0], _INT32(k)) for k in range(vector.lanes)]
            while len(values) > 1:
                values = [combine(builder, *pair) for pair in zip(values[::2], values[1::2], strict=True)]
            return values[0]

        return Vector(vector.dtype, 1)(vector), codegen

    return across


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


total = _across(lambda builder, a, b: builder.fadd(a, b))  # of the lanes, in pairs
largest = _across(_larger)


@extending.intrinsic
def holds(typing_context, condition):
    """A condition of one lane, for an if."""
    return types.boolean(condition), lambda context, builder, signature, args: args[0]


def _in_every_lane(builder, value, lanes):
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


@extending.lower_cast(Vector, Vector)
def _convert_vector(context, builder, given, wanted, value):
    if given.dtype != wanted.dtype and given.dtype in (types.float32, types.float64):
        convert = builder.fpext if given.dtype.bitwidth < wanted.dtype.bitwidth else builder.fptrunc
        value = convert(value, context.get_value_type(Vector(wanted.dtype, given.lanes)))
    return value if given.lanes == wanted.lanes else _in_every_lane(builder, value, wanted.lanes)


@extending.lower_cast(types.Number, Vector)
def _convert_number(context, builder, number, vector, value):
    return _in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)


def _common(*operands):
    """The type of what operands give together: that of the vector among them, or of the longer one of two."""
    vectors = [operand for operand in operands if isinstance(operand, Vector)]
    return max(vectors, key=lambda vector: vector.lanes, default=None)


def _operator(operation, instruction, *predicate):
    """Of two vectors, or of a vector and a number; a predicate makes it a condition."""

    @extending.type_callable(operation)
    def result(context):
        def typer(a, b):
            common = _common(a, b)
            if common and all(isinstance(operand, Vector | types.Number) for operand in (a, b)):
                return Vector(types.boolean, common.lanes) if predicate else common

        return typer

    def lower(context, builder, signature, args):
        common = _common(*signature.args)
        vectors = (context.cast(builder, *one, common) for one in zip(args, signature.args, strict=True))
        return getattr(builder, instruction)(*predicate, *vectors)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        extending.lower_builtin(operation, *kinds)(lower)


for _operation in (operator.add, operator.iadd):
    _operator(_operation, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")
for _operation, _sign in ((operator.lt, "<"), (operator.le, "<="), (operator.gt, ">"), (operator.ge, ">=")):
    _operator(_operation, "fcmp_ordered", _sign)


def _same_type(operation, build, arity=1):
    """An operation on vectors of one type that gives one of that type: build(builder, vector, *values)."""

    @extending.type_callable(operation)
    def result(context):
        def typer(*operands):
            if isinstance(operands[0], Vector) and all(operand == operands[0] for operand in operands):
                return operands[0]

        return (lambda a: typer(a)) if arity == 1 else (lambda a, b: typer(a, b))

    @extending.lower_builtin(operation, *[Vector] * arity)
    def lower(context, builder, signature, args):
        return build(builder, signature.return_type, *args)


def _of_each_lane(single, double):
    """Two functions that NVVM or its library has, for float32 and for float64."""

    def build(builder, vector, value):
        number, name = (ir.FloatType(), single) if vector.dtype == types.float32 else (ir.DoubleType(), double)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
        if vector.lanes == 1:
            return builder.call(function, [value])
        for k in range(vector.lanes):
            result = builder.call(function, [builder.extract_element(value, _INT32(k))])
            value = builder.insert_element(value, result, _INT32(k))
        return value

    return build


def _negative(builder, vector, value):
    """NVVM knows no fneg."""
    zero = ir.Constant(value.type, -0.0 if vector.lanes == 1 else [-0.0] * vector.lanes)
    return builder.fsub(zero, value)


_same_type(operator.neg, _negative)
_same_type(abs, _of_each_lane("__nv_fabsf", "__nv_fabs"))
_same_type(math.sqrt, _of_each_lane("llvm.sqrt.f32", "llvm.sqrt.f64"))
_same_type(operator.and_, lambda builder, vector, a, b: builder.and_(a, b), arity=2)
_same_type(operator.invert, lambda builder, vector, value: builder.not_(value))


def _chosen(context, builder, which, condition, operands, common):
    if isinstance(condition, Vector) and condition.lanes != common.lanes:
        which = _in_every_lane(builder, which, common.lanes)
    return builder.select(which, *(context.cast(builder, value, given, common) for value, given in operands))


@extending.intrinsic
def select(typing_context, condition, a, b):
    """a where the condition holds, else b; a number takes the type of the vector beside it."""
    common = _common(a, b)

    def codegen(context, builder, signature, args):
        operands = (args[1], a), (args[2], b)
        return _chosen(context, builder, args[0], condition, operands, common)

    return common(condition, a, b), codegen


@extending.type_callable(choose)
def _type_of_choice(context):
    """In the formulas, where b is a vector. Numba may find its own first, made for the CPU, which does the same."""

    def typer(condition, a, b):
        if isinstance(condition, Vector) and isinstance(b, Vector):
            return b

    return typer


@extending.lower_builtin(choose, Vector, types.Any, Vector)
def _choose(context, builder, signature, args):
    condition, a, b = signature.args
    return _chosen(context, builder, args[0], condition, ((args[1], a), (args[2], b)), b)


@extending.intrinsic
def any_lane(typing_context, condition):
    """Whether a condition of one lane holds in any thread of the warp, every one of them asking."""

    def codegen(context, builder, signature, args):
        function = ir.FunctionType(ir.LiteralStructType([_INT32, ir.IntType(1)]), [_INT32, _INT32, ir.IntType(1)])
        vote = cgutils.get_or_insert_function(builder.module, function, "llvm.nvvm.vote.sync")
        every_lane, any_of_them = _INT32(-1), _INT32(1)
        return builder.extract_value(builder.call(vote, [every_lane, any_of_them, args[0]]), 1)

    return types.boolean(condition), codegen


@extending.intrinsic
def quotient(typing_context, a, b):
    """a // b of numbers from 0 to 2**32 - 1: a fifth of what 64 bits take."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.udiv(*(builder.trunc(operand, _INT32) for operand in args)), ir.IntType(64))

    return types.int64(types.int64, types.int64), codegen
