"""Define arithmetic on vectors: operators, comparisons, choices and the functions that the formulas call.

Kernels write it as arithmetic on numbers, and a number beside a vector takes the vector's type. So the formulas of
`numbanorm._math`, with their constants, are float32 where the vector is. This also holds for a vector of one lane. A
plain Numba number would become float64 beside any literal.
"""

import math
import operator

from llvmlite import ir

from numbanorm._math import choose
from numbanorm.cuda import cgutils, extending, types
from numbanorm.cuda.vectors.simd import INT32, Vector, in_every_lane


def _common(*operands):
    """Return the type that a result has: that of the operand with the most lanes, or None if no operand is a vector."""
    vectors = [operand for operand in operands if isinstance(operand, Vector)]
    return max(vectors, key=lambda vector: vector.lanes, default=None)


def _operator(operation, instruction, *predicate):
    """Define an operator on two vectors, or on a vector and a number. A predicate makes it a comparison."""

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
    """Define an operation on vectors of one type with a result of that type, by ``build(builder, vector, *values)``."""

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
    """Make a builder for `_same_type` that calls a function of NVVM or its library for each lane.

    The function is `single` for float32 and `double` for float64.
    """

    def build(builder, vector, value):
        number, name = (ir.FloatType(), single) if vector.dtype == types.float32 else (ir.DoubleType(), double)
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(number, [number]), name)
        if vector.lanes == 1:
            return builder.call(function, [value])
        for k in range(vector.lanes):
            result = builder.call(function, [builder.extract_element(value, INT32(k))])
            value = builder.insert_element(value, result, INT32(k))
        return value

    return build


def _negative(builder, vector, value):
    """Subtract the value from -0.0, since NVVM has no fneg."""
    zero = ir.Constant(value.type, -0.0 if vector.lanes == 1 else [-0.0] * vector.lanes)
    return builder.fsub(zero, value)


_same_type(operator.neg, _negative)
_same_type(abs, _of_each_lane("__nv_fabsf", "__nv_fabs"))
_same_type(math.sqrt, _of_each_lane("llvm.sqrt.f32", "llvm.sqrt.f64"))
_same_type(operator.and_, lambda builder, vector, a, b: builder.and_(a, b), arity=2)
_same_type(operator.invert, lambda builder, vector, value: builder.not_(value))


def _chosen(context, builder, which, condition, operands, common):
    if isinstance(condition, Vector) and condition.lanes != common.lanes:
        which = in_every_lane(builder, which, common.lanes)
    return builder.select(which, *(context.cast(builder, value, given, common) for value, given in operands))


@extending.intrinsic
def select(typing_context, condition, a, b):
    """Return a where the condition holds, else b. A number takes the type of the vector beside it."""
    common = _common(a, b)

    def codegen(context, builder, signature, args):
        operands = (args[1], a), (args[2], b)
        return _chosen(context, builder, args[0], condition, operands, common)

    return common(condition, a, b), codegen


@extending.type_callable(choose)
def _type_of_choice(context):
    """Give `choose` of the formulas a type where b is a vector.

    Numba may find the CPU's `choose` first, which does the same.
    """

    def typer(condition, a, b):
        if isinstance(condition, Vector) and isinstance(b, Vector):
            return b

    return typer


@extending.lower_builtin(choose, Vector, types.Any, Vector)
def _choose(context, builder, signature, args):
    condition, a, b = signature.args
    return _chosen(context, builder, args[0], condition, ((args[1], a), (args[2], b)), b)


@extending.intrinsic
def quotient(typing_context, a, b):
    """Return a // b of numbers from 0 to 2**32 - 1, at a fifth of the cost of a division in 64 bits."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.udiv(*(builder.trunc(operand, INT32) for operand in args)), ir.IntType(64))

    return types.int64(types.int64, types.int64), codegen
