"""Vectors for kernels. A vector is several numbers of one type, read from memory and written to it at once.

A run is a sequence of numbers in memory: a pointer, or an array. Kernels mostly use pointers. For loops over arrays,
LLVM checks whether these overlap. The check costs as much as a short run, and an in-place call would fail it and take
a slow loop. Slices of arrays would also take most of the time to compile.

An index says where a vector begins in a run, and which of its lanes count: all, or at the ends of a run some of them.
Arithmetic on vectors is written as on numbers, so that the formulas of `numbanorm._math` serve both.

Each operation writes LLVM code at the place of its call. To compile a function for each pair of types would take most
of the time to compile.
"""

import math
import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, lower_cast, models, register_model, type_callable

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.compiling.numba_internals import cgutils

LINE_BYTES = 64  # a vector of x's dtype is a cache line, whatever registers the machine has
LANES = 16  # of the longest vectors, those of float32
FEW = 8  # lanes of the short vectors that hold a few values of any dtype

_INT32, _INT = ir.IntType(32), ir.IntType(types.intp.bitwidth)


class Vector(types.Type):
    """Several numbers of one type."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")


class Index(types.Type):
    """The place of a vector in a run, of one of three kinds.

    Of a WHOLE all lanes count. Of a PART those lanes k count for which skip <= k < count. STREAM is a whole whose
    results are streamed past the caches.
    """

    def __init__(self, lanes, kind):
        self.lanes, self.kind = lanes, kind
        super().__init__(f"Index({lanes}, {kind})")


WHOLE, PART, STREAM = "whole", "part", "stream"


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.dtype).get_value_type(), vector.lanes))


@register_model(Index)
class _IndexModel(models.StructModel):
    def __init__(self, manager, index):
        super().__init__(manager, index, [("start", types.intp), ("skip", types.intp), ("count", types.intp)])


def _lanes(run):
    """How many values of a run make a vector, as a number of Python's."""
    return 8 * LINE_BYTES // run.dtype.bitwidth


@intrinsic
def lanes(typing_context, run):
    """How many values of a run make a vector."""
    return types.intp(run), lambda context, builder, signature, args: _INT(_lanes(run))


def _index(kind, lanes=None):
    """Make ``index(run, start, skip, count)`` of this kind. By default, its vectors are a cache line of the run."""

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
    """The run that begins `offset` values after another run or an array does."""

    def codegen(context, builder, signature, args):
        return builder.gep(data(context, builder, run, args[0]), [args[1]])

    return types.CPointer(run.dtype)(run, types.intp), codegen


def data(context, builder, run, value):
    """The LLVM pointer to the first value of a run."""
    return context.make_array(run)(context, builder, value).data if isinstance(run, types.Array) else value


def _is_run(operand):
    return isinstance(operand, types.Array | types.CPointer)


@intrinsic
def at(typing_context, operand, j):
    """Read a run at index j. A number in place of a run is read as a vector with that number in every lane."""
    vector = Vector(operand.dtype if _is_run(operand) else operand, j.lanes)

    def codegen(context, builder, signature, args):
        if not _is_run(operand):
            return _in_every_lane(builder, args[0], j.lanes)
        return _read(context, builder, vector, _place(context, builder, operand, vector, args), j, args[1])

    return vector(operand, j), codegen


@intrinsic
def item(typing_context, operand, k):
    """Return operand[k] of a run. A number in place of a run is returned as it is."""
    number = operand.dtype if _is_run(operand) else operand

    def codegen(context, builder, signature, args):
        if not _is_run(operand):
            return args[0]
        return builder.load(builder.gep(data(context, builder, operand, args[0]), [args[1]]))

    return number(operand, k), codegen


@intrinsic
def put(typing_context, run, j, values):
    """Write values to a run at index j."""

    def codegen(context, builder, signature, args):
        vector = context.cast(builder, args[2], values, Vector(run.dtype, j.lanes))
        _write(context, builder, vector, _place(context, builder, run, values, args), run, j, args[1])
        return context.get_dummy_value()

    return types.void(run, j, values), codegen


@intrinsic
def add_to(typing_context, run, stride, j, terms):
    """Add the vectors of a tuple to as many runs at index j. The runs begin `stride` values apart.

    Of a part, the lanes that do not count are written back unchanged. So the runs need room for LANES values before and
    after. A masked store would make the next load wait until the store has left the core.
    """
    whole, vector = Index(j.lanes, WHOLE), Vector(run.dtype, j.lanes)

    def codegen(context, builder, signature, args):
        for k, term in enumerate(terms):
            begin = builder.gep(data(context, builder, run, args[0]), [builder.mul(args[1], _INT(k))])
            place = _place(context, builder, types.CPointer(run.dtype), vector, (begin, args[2]))
            added = context.cast(builder, builder.extract_value(args[3], k), term, vector)
            before = _read(context, builder, vector, place, whole, args[2])
            _write(context, builder, _add_what_counts(builder, before, added, j, args[2]), place, run, whole, args[2])
        return context.get_dummy_value()

    return types.void(run, types.intp, j, terms), codegen


def _add_what_counts(builder, before, values, index, j):
    """Add values to the lanes that count. The other lanes stay as before.

    The choice follows the addition. So a product that is added is rounded once with its sum, for all kinds of index.
    """
    after = builder.fadd(before, values)
    if not isinstance(index, Index) or index.kind != PART:
        return after
    return builder.select(_mask(builder, index, j), after, before)


def _place(context, builder, run, vector, args):
    """The LLVM pointer to a vector of a run; args: the run, and the index."""
    first = builder.gep(data(context, builder, run, args[0]), [builder.extract_value(args[1], 0)])
    number = context.get_value_type(run.dtype)
    return builder.bitcast(first, ir.VectorType(number, vector.lanes).as_pointer())


def _read(context, builder, vector, place, index, j):
    """Read a vector. Lanes that do not count are 0."""
    align = vector.dtype.bitwidth // 8
    if index.kind != PART:
        return builder.load(place, align=align)
    llvm_type = context.get_value_type(vector)
    mask = _mask(builder, index, j)
    nothing = ir.Constant(llvm_type, None)
    function = _masked(builder, "load", vector, llvm_type, [place.type, _INT32, mask.type, llvm_type])
    return builder.call(function, [place, _INT32(align), mask, nothing])


def _write(context, builder, values, place, run, index, j):
    """Write the lanes of a vector that count."""
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
    """LLVM's function that loads or stores some lanes of a vector."""
    name = f"llvm.masked.{operation}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def _mask(builder, index, j):
    """A boolean for each lane: whether it counts."""
    lane = ir.Constant(ir.VectorType(_INT32, index.lanes), list(range(index.lanes)))
    skip, count = (builder.trunc(builder.extract_value(j, k), _INT32) for k in (1, 2))
    first, end = (_in_every_lane(builder, bound, index.lanes) for bound in (skip, count))
    return builder.and_(builder.icmp_signed("<=", first, lane), builder.icmp_signed("<", lane, end))


def _in_every_lane(builder, number, lanes):
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


@lower_cast(Vector, Vector)
def _convert_vector(context, builder, from_type, to_type, value):
    if from_type.dtype == to_type.dtype:
        return value
    convert = builder.fpext if from_type.dtype.bitwidth < to_type.dtype.bitwidth else builder.fptrunc
    return convert(value, context.get_value_type(to_type))


@lower_cast(types.Number, Vector)
def _number_in_every_lane(context, builder, number, vector, value):
    return _in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)


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
    """The vector type that holds both operands, or None if both are numbers."""
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
    """A builder for `_same_type` that calls LLVM's function of this name."""

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
    """Whether a condition holds in all lanes that count at index j."""

    def codegen(context, builder, signature, args):
        holds = args[0]
        if j.kind == PART:
            holds = builder.or_(holds, builder.not_(_mask(builder, j, args[1])))
        bits = builder.bitcast(holds, ir.IntType(j.lanes))
        return builder.icmp_unsigned("==", bits, bits.type((1 << j.lanes) - 1))

    return types.boolean(condition, j), codegen


def _zeros(in_float64):
    """Make ``zeros(run, count)``, a tuple of so many vectors of zeros, of the run's dtype or of float64."""

    @intrinsic(prefer_literal=True)
    def zeros(typing_context, run, count):
        vector = Vector(types.float64 if in_float64 else run.dtype, _lanes(run))

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
            values.append(_add_what_counts(builder, builder.extract_value(args[0], k), added, j, args[1]))
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
            place = builder.gep(begin, [_INT(k * j.lanes)])
            place = builder.bitcast(place, context.get_value_type(vector).as_pointer())
            rows.append(_half_lanes(builder, builder.load(place, align=8), j.lanes, FEW))
        width = FEW  # lanes of a row, in vectors that hold more rows at each step
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
    """The sum of all lanes."""
    return builder.extract_element(_half_lanes(builder, vector, lanes, 1), _INT32(0))


def _half_lanes(builder, vector, lanes, until):
    """Add the second half of the lanes to the first half, until `until` lanes are left."""
    while lanes > until:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(_INT32, lanes), [*range(k, k + lanes)]) for k in (0, lanes)]
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
    """A vector with the number in each of FEW lanes."""
    return at(number, first_few(number))


@intrinsic
def lane(typing_context, vector, k):
    """The number in lane k."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], args[1])

    return vector.dtype(vector, k), codegen
