"""Vectors for kernels: several numbers of a type as one value, read from runs of memory and written to them.

A run is a pointer and a size, or an array: LLVM would check arrays for overlap, which costs as much as a short run, and
send a call in place to a scalar loop; and slices of arrays are most of what there would be to compile. An index says
where a vector begins in a run and how much of it counts: all, or, at the ends of a run, some of its values. Arithmetic
on vectors is written as on numbers, so that the formulas of `numbanorm._math` serve both.

All of it is LLVM in place. A function compiled for each pair of types would be most of what there is to compile.
"""

import math
import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel, StructModel
from numba.extending import intrinsic, lower_builtin, lower_cast, register_model, type_callable

from numbanorm.cpu.compiling.jit import loop

LINE_BYTES = 64  # to a vector of x's dtype: a cache line, whatever the registers of the machine
LANES = 16  # to the longest vectors, those of float32
FEW = 8  # lanes to the vector of a few values, of whatever dtype

_INT32, _INT = ir.IntType(32), ir.IntType(types.intp.bitwidth)


class Vector(types.Type):
    """Several numbers of one type."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")


class Index(types.Type):
    """Where a vector begins in a run: one that counts as a WHOLE, a PART of one, or one whose results STREAM.

    A part begins after some lanes to skip and ends with a count of lanes.
    """

    def __init__(self, lanes, kind):
        self.lanes, self.kind = lanes, kind
        super().__init__(f"Index({lanes}, {kind})")


WHOLE, PART, STREAM = "whole", "part", "stream"  # kinds of index


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.dtype).get_value_type(), vector.lanes))


@register_model(Index)
class _IndexModel(StructModel):
    def __init__(self, manager, index):
        super().__init__(manager, index, [("start", types.intp), ("skip", types.intp), ("count", types.intp)])


def _lanes(run):
    return 8 * LINE_BYTES // run.dtype.bitwidth


@intrinsic
def lanes(typing_context, run):
    """How many values of a run make a vector."""
    return types.intp(run), lambda context, builder, signature, args: _INT(_lanes(run))


def _index(kind, lanes=None):
    """``index(run, start, skip, count)``, of as many lanes as values of the run make a cache line, if not told."""

    @intrinsic
    def index(typing_context, run, start, skip, count):
        def codegen(context, builder, signature, args):
            return cgutils.pack_struct(builder, args[1:])

        return Index(lanes or _lanes(run), kind)(run, types.intp, types.intp, types.intp), codegen

    return index


whole, part, stream = _index(WHOLE), _index(PART), _index(STREAM)
_few, _first = _index(PART, FEW), _index(WHOLE, FEW)


@loop
def few(run, count):
    """The index of the first `count` values of a run, at most FEW."""
    return _few(run, 0, 0, count)


@loop
def first_few(run):
    """The index of the first FEW values of a run."""
    return _first(run, 0, 0, FEW)


@intrinsic
def pointer(typing_context, run, offset):
    """A run that begins so many values into an array or another run."""

    def codegen(context, builder, signature, args):
        return builder.gep(data(context, builder, run, args[0]), [args[1]])

    return types.CPointer(run.dtype)(run, types.intp), codegen


def data(context, builder, run, value):
    return context.make_array(run)(context, builder, value).data if isinstance(run, types.Array) else value


def _is_run(operand):
    return isinstance(operand, types.Array | types.CPointer)


@intrinsic
def at(typing_context, operand, j):
    """The values of a run at index j; of a number, itself in every lane."""
    vector = Vector(operand.dtype if _is_run(operand) else operand, j.lanes)

    def codegen(context, builder, signature, args):
        if not _is_run(operand):
            return _in_every_lane(builder, args[0], j.lanes)
        return _read(context, builder, vector, _place(context, builder, operand, vector, args), j, args[1])

    return vector(operand, j), codegen


@intrinsic
def item(typing_context, operand, k):
    """operand[k] of a run, or a number itself."""
    number = operand.dtype if _is_run(operand) else operand

    def codegen(context, builder, signature, args):
        if not _is_run(operand):
            return args[0]
        return builder.load(builder.gep(data(context, builder, operand, args[0]), [args[1]]))

    return number(operand, k), codegen


@intrinsic
def put(typing_context, run, j, values):
    """Store results in a run at index j."""

    def codegen(context, builder, signature, args):
        wide = context.cast(builder, args[2], values, Vector(run.dtype, j.lanes))
        _write(context, builder, wide, _place(context, builder, run, values, args), run, j, args[1])
        return context.get_dummy_value()

    return types.void(run, j, values), codegen


@intrinsic
def add_to(typing_context, run, stride, j, terms):
    """Add each of a tuple of vectors to the values at index j of as many runs, `stride` values apart.

    Of a part, the lanes that do not count are written as they were, for which the runs need room: LANES values around.
    A masked store would make the next load wait until it has left the core.
    """
    whole, vector = Index(j.lanes, WHOLE), Vector(run.dtype, j.lanes)

    def codegen(context, builder, signature, args):
        for k, term in enumerate(terms):
            begin = builder.gep(data(context, builder, run, args[0]), [builder.mul(args[1], _INT(k))])
            place = _place(context, builder, types.CPointer(run.dtype), vector, (begin, args[2]))
            own = context.cast(builder, builder.extract_value(args[3], k), term, vector)
            before = _read(context, builder, vector, place, whole, args[2])
            _write(context, builder, _add_what_counts(builder, before, own, j, args[2]), place, run, whole, args[2])
        return context.get_dummy_value()

    return types.void(run, types.intp, j, terms), codegen


def _add_what_counts(builder, before, values, index, j):
    """The sum, and what was before in the lanes that do not count.

    Chosen after the addition: with a product it is one operation, whose result is rounded once, for all kinds of index.
    """
    after = builder.fadd(before, values)
    if not isinstance(index, Index) or index.kind != PART:
        return after
    return builder.select(_mask(builder, index, j), after, before)


def _place(context, builder, run, vector, args):
    first = builder.gep(data(context, builder, run, args[0]), [builder.extract_value(args[1], 0)])
    number = context.get_value_type(run.dtype)
    return builder.bitcast(first, ir.VectorType(number, vector.lanes).as_pointer())


def _read(context, builder, vector, place, index, j):
    align = vector.dtype.bitwidth // 8
    if index.kind != PART:
        return builder.load(place, align=align)
    llvm_type = context.get_value_type(vector)
    mask = _mask(builder, index, j)
    nothing = ir.Constant(llvm_type, None)
    function = _masked(builder, "load", vector, llvm_type, [place.type, _INT32, mask.type, llvm_type])
    return builder.call(function, [place, _INT32(align), mask, nothing])


def _write(context, builder, values, place, run, index, j):
    align = run.dtype.bitwidth // 8
    if index.kind == PART:
        mask, vector = _mask(builder, index, j), Vector(run.dtype, index.lanes)
        function = _masked(builder, "store", vector, ir.VoidType(), [values.type, place.type, _INT32, mask.type])
        builder.call(function, [values, place, _INT32(align), mask])
        return
    store = builder.store(values, place, align=LINE_BYTES if index.kind == STREAM else align)
    if index.kind == STREAM:
        store.set_metadata("nontemporal", builder.module.add_metadata([_INT32(1)]))


def _masked(builder, operation, vector, result, arguments):
    name = f"llvm.masked.{operation}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _mask(builder, index, j):
    """Which lanes count."""
    lane = ir.Constant(ir.VectorType(_INT32, index.lanes), list(range(index.lanes)))
    skip, count = (builder.trunc(builder.extract_value(j, k), _INT32) for k in (1, 2))
    first, end = (_in_every_lane(builder, bound, index.lanes) for bound in (skip, count))
    return builder.and_(builder.icmp_signed("<=", first, lane), builder.icmp_signed("<", lane, end))


def _in_every_lane(builder, number, lanes):
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


@lower_cast(Vector, Vector)
def _convert_vector(context, builder, own, other, value):
    if own.dtype == other.dtype:
        return value
    convert = builder.fpext if own.dtype.bitwidth < other.dtype.bitwidth else builder.fptrunc
    return convert(value, context.get_value_type(other))


@lower_cast(types.Number, Vector)
def _number_in_every_lane(context, builder, number, vector, value):
    return _in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)


def _operator(operation, instruction, *predicate):
    """Of two vectors, in the wider type, or of a vector and a number, in the vector's; a predicate makes it one."""

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
        wide = (context.cast(builder, *one, common) for one in zip(args, signature.args, strict=True))
        return getattr(builder, instruction)(*predicate, *wide)

    for kinds in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(operation, *kinds)(lower)


def _common(*operands):
    """The vector type that holds both operands; None of two numbers."""
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
    """An operation on vectors of one type that gives one of that type: build(builder, vector, *values)."""

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
    def build(builder, vector, value):
        own = f"llvm.{name}.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = ir.FunctionType(value.type, [value.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, own), [value])

    return build


_same_type(operator.neg, lambda builder, vector, value: builder.fneg(value))
_same_type(math.sqrt, _llvm_function("sqrt"))
_same_type(abs, _llvm_function("fabs"))
_same_type(operator.invert, lambda builder, condition, value: builder.not_(value))
_same_type(operator.and_, lambda builder, condition, a, b: builder.and_(a, b), arity=2)


@intrinsic
def every(typing_context, condition, j):
    """Whether a condition holds in all lanes that count at index j."""

    def codegen(context, builder, signature, args):
        own = args[0]
        if j.kind == PART:
            own = builder.or_(own, builder.not_(_mask(builder, j, args[1])))
        bits = builder.bitcast(own, ir.IntType(j.lanes))
        return builder.icmp_unsigned("==", bits, bits.type((1 << j.lanes) - 1))

    return types.boolean(condition, j), codegen


def _zeros(wide):
    @intrinsic(prefer_literal=True)
    def zeros(typing_context, run, count):
        vector = Vector(types.float64 if wide else run.dtype, _lanes(run))

        def codegen(context, builder, signature, args):
            return ir.Constant(context.get_value_type(signature.return_type), None)

        return types.UniTuple(vector, count.literal_value)(run, count), codegen

    return zeros


narrow_zeros, wide_zeros = _zeros(wide=False), _zeros(wide=True)


@intrinsic
def plus(typing_context, sums, j, terms):
    """The sums of two tuples of vectors, in the type of the first; of the second only what counts at index j."""

    def codegen(context, builder, signature, args):
        values = []
        for k, (total, term) in enumerate(zip(sums, terms, strict=True)):
            own = context.cast(builder, builder.extract_value(args[2], k), term, total)
            values.append(_add_what_counts(builder, builder.extract_value(args[0], k), own, j, args[1]))
        return context.make_tuple(builder, sums, values)

    return sums(sums, j, terms), codegen


@intrinsic
def across(typing_context, sums):
    """The sum of the lanes of each of a tuple of vectors, in pairs: the same on every machine."""

    def codegen(context, builder, signature, args):
        values = [_add_lanes(builder, builder.extract_value(args[0], k), vector.lanes) for k, vector in enumerate(sums)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(sums.dtype.dtype, len(sums))(sums), codegen


@intrinsic
def across_rows(typing_context, run, j):
    """The sums of the lanes of each of FEW vectors of FEW lanes or more, as wide as index j, that follow each other.

    One sum to a lane, each in pairs as `across` adds them.
    """

    def codegen(context, builder, signature, args):
        vector = Vector(run.dtype, j.lanes)
        begin = data(context, builder, run, args[0])
        rows = []
        for k in range(FEW):
            place = builder.gep(begin, [_INT(k * j.lanes)])
            place = builder.bitcast(place, context.get_value_type(vector).as_pointer())
            rows.append(_half_lanes(builder, builder.load(place, align=8), j.lanes, FEW))
        width = FEW  # lanes to a row, in vectors that hold ever more rows
        while width > 1:
            width //= 2
            first = [i for i in range(2 * FEW) if i % (2 * width) < width]
            halves = [ir.Constant(ir.VectorType(_INT32, FEW), [i + half for i in first]) for half in (0, width)]
            rows = [
                builder.fadd(*(builder.shuffle_vector(a, b, half) for half in halves))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return Vector(run.dtype, FEW)(run, j), codegen


def _add_lanes(builder, vector, lanes):
    return builder.extract_element(_half_lanes(builder, vector, lanes, 1), _INT32(0))


def _half_lanes(builder, vector, lanes, until):
    """Add the second half of the lanes to the first, until so many are left."""
    while lanes > until:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(_INT32, lanes), [*range(k, k + lanes)]) for k in (0, lanes)]
        vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return vector


@loop
def total(vector):
    """The sum of its lanes."""
    return across((vector,))[0]


@intrinsic
def with_lane(typing_context, vector, k, number):
    """A vector with another number in lane k: unlike through memory, without waiting for stores."""

    def codegen(context, builder, signature, args):
        return builder.insert_element(args[0], context.cast(builder, args[2], number, vector.dtype), args[1])

    return vector(vector, k, number), codegen


@loop
def eight(number):
    """A vector of FEW lanes."""
    return at(number, first_few(number))


@intrinsic
def lane(typing_context, vector, k):
    """The number in lane k."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], args[1])

    return vector.dtype(vector, k), codegen
