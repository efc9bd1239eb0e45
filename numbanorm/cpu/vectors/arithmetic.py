"""Define arithmetic on vectors. It is written as on numbers, so that the formulas of `numbanorm._math` serve both."""

import math
import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, type_callable

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.compiling.numba_internals import cgutils
from numbanorm.cpu.vectors.simd import (
    FEW,
    INT,
    INT32,
    PART,
    Vector,
    add_what_counts,
    at,
    counting_lanes,
    data,
    first_few,
    lane_count,
)


def _operator(operation, instruction, *predicate):
    """Define an operator by an LLVM instruction, which takes a predicate if it compares.

    Two vectors are converted to the wider one's type first. A number is converted to the type of the vector beside it.
    """

    @type_callable(operation)
    def result(context):
        def typer(a, b):
            if (
                isinstance(a, Vector | types.Number)
                and isinstance(b, Vector | types.Number)
                and (common := _common(a, b))
            ):
                return Vector(types.boolean, common.lanes) if predicate else common

        return typer

    def lower(context, builder, signature, args):
        common = _common(*signature.args)
        operands = (context.cast(builder, *pair, common) for pair in zip(args, signature.args, strict=True))
        return getattr(builder, instruction)(*predicate, *operands)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(operation, *kinds)(lower)


def _common(*operands):
    """Return the vector type that holds both operands, or None if both are numbers."""
    vectors = [operand for operand in operands if isinstance(operand, Vector)]
    return max(vectors, key=lambda vector: vector.dtype.bitwidth, default=None)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")
_operator(operator.lt, "fcmp_ordered", "<")
_operator(operator.le, "fcmp_ordered", "<=")
_operator(operator.ge, "fcmp_ordered", ">=")


def _same_type(operation, build, arity=1):
    """Define an operation on vectors of one type with a result of that type, by ``build(builder, vector, *values)``."""

    @type_callable(operation)
    def result(context):
        def typer(*operands):
            if isinstance(operands[0], Vector) and all(operand == operands[0] for operand in operands):
                return operands[0]

        return (lambda a: typer(a)) if arity == 1 else (lambda a, b: typer(a, b))

    @lower_builtin(operation, *[Vector] * arity)
    def lower(context, builder, signature, args):
        return build(builder, signature.return_type, *args)


def _llvm_function(name):
    """Make a builder for `_same_type` that calls LLVM's function of this name."""

    def build(builder, vector, value):
        full_name = f"llvm.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = ir.FunctionType(value.type, [value.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, full_name), [value])

    return build


_same_type(operator.neg, lambda builder, vector, value: builder.fneg(value))
_same_type(math.sqrt, _llvm_function("sqrt"))
_same_type(abs, _llvm_function("fabs"))
_same_type(operator.invert, lambda builder, condition, value: builder.not_(value))
_same_type(operator.and_, lambda builder, condition, a, b: builder.and_(a, b), arity=2)


@intrinsic
def every(typing_context, condition, j):
    """Return whether a condition holds in all lanes that count at index j."""

    def codegen(context, builder, signature, args):
        holds = args[0]
        if j.kind == PART:
            holds = builder.or_(holds, builder.not_(counting_lanes(builder, j, args[1])))
        bits = builder.bitcast(holds, ir.IntType(j.lanes))
        return builder.icmp_unsigned("==", bits, bits.type((1 << j.lanes) - 1))

    return types.boolean(condition, j), codegen


def _zeros(in_float64):
    """Make ``zeros(run, count)``, a tuple of so many vectors of zeros, of the run's dtype or of float64."""

    @intrinsic(prefer_literal=True)
    def zeros(typing_context, run, count):
        vector = Vector(types.float64 if in_float64 else run.dtype, lane_count(run))

        def codegen(context, builder, signature, args):
            return ir.Constant(context.get_value_type(signature.return_type), None)

        return types.UniTuple(vector, count.literal_value)(run, count), codegen

    return zeros


zeros, float64_zeros = _zeros(in_float64=False), _zeros(in_float64=True)


@intrinsic
def plus(typing_context, sums, j, terms):
    """Add two tuples of vectors, in the type of the first. Only lanes that count at index j are added."""

    def codegen(context, builder, signature, args):
        values = []
        for k, (total, term) in enumerate(zip(sums, terms, strict=True)):
            added = context.cast(builder, builder.extract_value(args[2], k), term, total)
            values.append(add_what_counts(builder, builder.extract_value(args[0], k), added, j, args[1]))
        return context.make_tuple(builder, sums, values)

    return sums(sums, j, terms), codegen


@intrinsic
def across(typing_context, sums):
    """Sum the lanes of each vector of a tuple. Lanes are added in pairs, in the same order on every machine."""

    def codegen(context, builder, signature, args):
        values = [_add_lanes(builder, builder.extract_value(args[0], k), vector.lanes) for k, vector in enumerate(sums)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(sums.dtype.dtype, len(sums))(sums), codegen


@intrinsic
def across_rows(typing_context, run, j):
    """Sum the lanes of each of FEW vectors that follow each other in a run. Return the sums as the lanes of a vector.

    The vectors have as many lanes as index j, FEW or more. Lanes are added in pairs, in the order of `across`.
    """

    def codegen(context, builder, signature, args):
        vector = Vector(run.dtype, j.lanes)
        begin = data(context, builder, run, args[0])
        rows = []
        for k in range(FEW):
            place = builder.gep(begin, [INT(k * j.lanes)])
            place = builder.bitcast(place, context.get_value_type(vector).as_pointer())
            rows.append(_half_lanes(builder, builder.load(place, align=8), j.lanes, FEW))
        width = FEW  # lanes of a row, in vectors that hold more rows at each step
        while width > 1:
            width //= 2
            first = [i for i in range(2 * FEW) if i % (2 * width) < width]
            halves = [ir.Constant(ir.VectorType(INT32, FEW), [i + half for i in first]) for half in (0, width)]
            rows = [
                builder.fadd(*(builder.shuffle_vector(a, b, half) for half in halves))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return Vector(run.dtype, FEW)(run, j), codegen


def _add_lanes(builder, vector, lanes):
    """Return the sum of all lanes."""
    return builder.extract_element(_half_lanes(builder, vector, lanes, 1), INT32(0))


def _half_lanes(builder, vector, lanes, until):
    """Add the second half of the lanes to the first half, until `until` lanes are left."""
    while lanes > until:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(INT32, lanes), [*range(k, k + lanes)]) for k in (0, lanes)]
        vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return vector


@loop
def total(vector):
    """Sum the lanes of a vector."""
    return across((vector,))[0]


@intrinsic
def with_lane(typing_context, vector, k, number):
    """Replace lane k of a vector by a number. To do so in memory would wait for stores."""

    def codegen(context, builder, signature, args):
        return builder.insert_element(args[0], context.cast(builder, args[2], number, vector.dtype), args[1])

    return vector(vector, k, number), codegen


@loop
def eight(number):
    """Return a vector with the number in each of FEW lanes."""
    return at(number, first_few(number))


@intrinsic
def lane(typing_context, vector, k):
    """Return the number in lane k."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], args[1])

    return vector.dtype(vector, k), codegen
