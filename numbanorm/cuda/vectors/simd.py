"""Define vectors for kernels. A vector is one or several numbers of a type, as one value.

This file has their type and their lanes; `numbanorm.cuda.vectors.arithmetic` has the arithmetic.
"""

from llvmlite import ir

from numbanorm.cuda import extending, types

INT32 = ir.IntType(32)


class Vector(types.Type):
    """Represent one or several numbers of one type."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")

    def unify(self, context, other):
        """Return the type of a variable that is a vector on one branch and a number on another."""
        return self if isinstance(other, types.Number) else None


def llvm_type(manager, vector):
    """Return the LLVM type of a vector. A vector of one lane is a number there."""
    number = manager.lookup(vector.dtype).get_value_type()
    return number if vector.lanes == 1 else ir.VectorType(number, vector.lanes)


@extending.register_model(Vector)
class _VectorModel(extending.models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_type(manager, vector))


def lanes_named(operand):
    """Return the number of lanes that a literal gives, or that a vector has."""
    return operand.lanes if isinstance(operand, Vector) else operand.literal_value


def known(*numbers):
    """Return whether each number is a literal, or a vector that stands for its number of lanes.

    Numba first asks an intrinsic without literals. The intrinsic then returns None, and Numba asks again with them.
    """
    return all(isinstance(number, types.IntegerLiteral | Vector) for number in numbers)


@extending.intrinsic
def number(typing_context, value, like, lanes):
    """Return a vector that has a number in every lane and the dtype of `like`, a run or a vector."""
    if not known(lanes):
        return None
    vector = Vector(like.dtype, lanes_named(lanes))

    def codegen(context, builder, signature, args):
        return context.cast(builder, args[0], value, vector)

    return vector(value, like, lanes), codegen


@extending.intrinsic
def lanes_of(typing_context, vector):
    """Return how many lanes a vector has."""
    return types.int64(vector), lambda context, builder, signature, args: ir.IntType(64)(vector.lanes)


@extending.intrinsic
def join(typing_context, *vectors):
    """Join vectors of one lane into one vector."""
    joined = Vector(vectors[0].dtype, len(vectors))

    def codegen(context, builder, signature, args):
        value = ir.Constant(context.get_value_type(joined), ir.Undefined)
        for k in range(joined.lanes):
            value = builder.insert_element(value, builder.extract_value(args[0], k), INT32(k))
        return value

    return joined(types.StarArgTuple(vectors)), codegen


@extending.intrinsic
def lane(typing_context, vector, k):
    """Return one lane, as a vector of one lane."""
    if not known(k):
        return None
    which = k.literal_value

    def codegen(context, builder, signature, args):
        return args[0] if vector.lanes == 1 else builder.extract_element(args[0], INT32(which))

    return Vector(vector.dtype, 1)(vector, k), codegen


def _half(which):
    @extending.intrinsic
    def half(typing_context, vector):
        result = Vector(vector.dtype, vector.lanes // 2)

        def codegen(context, builder, signature, args):
            if result.lanes == 1:
                return builder.extract_element(args[0], INT32(which))
            first = which * result.lanes
            lanes = ir.Constant(ir.VectorType(INT32, result.lanes), [first + k for k in range(result.lanes)])
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
                values = [builder.extract_element(args[0], INT32(k)) for k in range(vector.lanes)]
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
    """Return a condition of one lane as a boolean, for an if."""
    return types.boolean(condition), lambda context, builder, signature, args: args[0]


def in_every_lane(builder, value, lanes):
    """Return the value of a vector that has a number in each of so many lanes."""
    if lanes == 1:
        return value
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


@extending.lower_cast(Vector, Vector)
def _convert_vector(context, builder, given, wanted, value):
    if given.dtype != wanted.dtype and given.dtype in (types.float32, types.float64):
        convert = builder.fpext if given.dtype.bitwidth < wanted.dtype.bitwidth else builder.fptrunc
        value = convert(value, context.get_value_type(Vector(wanted.dtype, given.lanes)))
    return value if given.lanes == wanted.lanes else in_every_lane(builder, value, wanted.lanes)


@extending.lower_cast(types.Number, Vector)
def _convert_number(context, builder, number, vector, value):
    return in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)
