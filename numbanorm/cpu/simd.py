"""Loops over runs of memory, a vector at a time, from a body that is written for one vector.

A run is a pointer and a size: LLVM would check arrays for overlap, which costs as much as a short run, and send a call
in place to a scalar loop; and slices of arrays are most of what there would be to compile. Bodies read and write
through `at`, `put` and `add_to`, at an index that says where a vector begins and how much of it counts: all, or, at the
ends of a run, the first few values. Arithmetic on vectors is written as on numbers, so that the formulas of
`numbanorm._math` serve both.

Results may be streamed: such stores go to memory past the caches, whole lines at a time, and spare it the reading of
what they overwrite. Results that a cache can hold are better left there.
"""

import math
import operator
import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel, StructModel
from numba.extending import intrinsic, lower_cast, overload, register_model

from numbanorm._math import choose
from numbanorm.cpu.jit import compact, loop

LINE_BYTES = 64  # to a vector of x's dtype: a cache line, whatever the registers of the machine
TERMS = 16  # values of x's dtype to an accumulator, before it is added to one of float64
LANES = 16  # to the longest vectors, those of float32
AHEAD = 8  # cache lines
STREAMABLE = 256  # values: streaming shorter runs is slow, unless they are whole lines
FEW = 8  # lanes to the vector of a few values, of whatever dtype
TOGETHER = 4  # lines to add up in registers, before memory is added to; at most TERMS
LINES_AHEAD = 2 * TOGETHER  # to fetch, of lines from memory: the processor does not foresee so many

_BIT, _INT32, _INT = ir.IntType(1), ir.IntType(32), ir.IntType(types.intp.bitwidth)


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


WHOLE, PART, STREAM = "whole", "part", "stream"


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


_whole, _part, _stream = _index(WHOLE), _index(PART), _index(STREAM)
_few, _eight = _index(PART, FEW), _index(WHOLE, FEW)


@loop
def few(run, count):
    """The index of the first `count` values of a run, at most FEW."""
    return _few(run, 0, 0, count)


@intrinsic
def pointer(typing_context, run, offset):
    """A run that begins so many values into an array or another run."""

    def codegen(context, builder, signature, args):
        return builder.gep(_data(context, builder, run, args[0]), [args[1]])

    return types.CPointer(run.dtype)(run, types.intp), codegen


def _data(context, builder, run, value):
    return context.make_array(run)(context, builder, value).data if isinstance(run, types.Array) else value


def at(operand, j):
    """The values of a run at index j; of a number, itself in every lane."""


@overload(at)
def _at(operand, j):
    if isinstance(operand, types.Array | types.CPointer):
        return lambda operand, j: _load(operand, j)
    return lambda operand, j: _splat(operand, j)


def item(operand, k):
    """operand[k], or operand itself when it is a number."""


@overload(item)
def _item(operand, k):
    if isinstance(operand, types.Array | types.CPointer):
        return lambda operand, k: operand[k]
    return lambda operand, k: operand


@intrinsic
def _load(typing_context, run, j):
    vector = Vector(run.dtype, j.lanes)

    def codegen(context, builder, signature, args):
        return _read(context, builder, vector, _place(context, builder, run, vector, args), j, args[1])

    return vector(run, j), codegen


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

    Of a part, zeros are added to the lanes that do not count, for which the runs need room: LANES values around them.
    A masked store would make the next load wait until it has left the core.
    """
    whole, vector = Index(j.lanes, WHOLE), Vector(run.dtype, j.lanes)

    def codegen(context, builder, signature, args):
        for k, term in enumerate(terms):
            begin = builder.gep(_data(context, builder, run, args[0]), [builder.mul(args[1], _INT(k))])
            place = _place(context, builder, types.CPointer(run.dtype), vector, (begin, args[2]))
            own = context.cast(builder, builder.extract_value(args[3], k), term, vector)
            own = _what_counts(builder, own, j, args[2])
            before = _read(context, builder, vector, place, whole, args[2])
            _write(context, builder, builder.fadd(before, own), place, run, whole, args[2])
        return context.get_dummy_value()

    return types.void(run, types.intp, j, terms), codegen


def _what_counts(builder, values, index, j):
    """Zeros in the lanes that do not count."""
    if not isinstance(index, Index) or index.kind != PART:
        return values
    return builder.select(_mask(builder, index, j), values, ir.Constant(values.type, None))


def _place(context, builder, run, vector, args):
    first = builder.gep(_data(context, builder, run, args[0]), [builder.extract_value(args[1], 0)])
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


@intrinsic
def _splat(typing_context, number, j):
    def codegen(context, builder, signature, args):
        return _in_every_lane(builder, args[0], j.lanes)

    return Vector(number, j.lanes)(number, j), codegen


def _in_every_lane(builder, number, lanes):
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, number, _INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes))


def _operator(operation, instruction, *predicate):
    """Of two vectors, in the wider type, or of a vector and a number, in the vector's; with a predicate, a comparison."""

    @intrinsic
    def compute(typing_context, a, b):
        vectors = [operand for operand in (a, b) if isinstance(operand, Vector)]
        widest = max((vector.dtype for vector in vectors), key=lambda dtype: dtype.bitwidth)
        common = Vector(widest, vectors[0].lanes)

        def codegen(context, builder, signature, args):
            wide = [context.cast(builder, value, own, common) for value, own in zip(args, (a, b), strict=True)]
            return getattr(builder, instruction)(*predicate, *wide)

        result = Vector(types.boolean, common.lanes) if predicate else common
        return result(a, b), codegen

    @overload(operation)
    def of_vectors(a, b):
        if isinstance(a, Vector) and isinstance(b, Vector | types.Number):
            return lambda a, b: compute(a, b)
        if isinstance(a, types.Number) and isinstance(b, Vector):
            return lambda a, b: compute(a, b)


_operator(operator.add, "fadd")
_operator(operator.sub, "fsub")
_operator(operator.mul, "fmul")
_operator(operator.truediv, "fdiv")
_operator(operator.lt, "fcmp_ordered", "<")
_operator(operator.le, "fcmp_ordered", "<=")
_operator(operator.ge, "fcmp_ordered", ">=")


@lower_cast(Vector, Vector)
def _convert_vector(context, builder, own, other, value):
    if own.dtype == other.dtype:
        return value
    convert = builder.fpext if own.dtype.bitwidth < other.dtype.bitwidth else builder.fptrunc
    return convert(value, context.get_value_type(other))


@lower_cast(types.Number, Vector)
def _number_in_every_lane(context, builder, number, vector, value):
    return _in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)


@intrinsic
def _negative(typing_context, vector):
    return vector(vector), lambda context, builder, signature, args: builder.fneg(args[0])


@overload(operator.neg)
def _neg(vector):
    if isinstance(vector, Vector):
        return lambda vector: _negative(vector)


@intrinsic
def _root(typing_context, vector):
    def codegen(context, builder, signature, args):
        name = f"llvm.sqrt.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = ir.FunctionType(args[0].type, [args[0].type])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)

    return vector(vector), codegen


@overload(math.sqrt)
def _sqrt(vector):
    if isinstance(vector, Vector):
        return lambda vector: _root(vector)


@intrinsic
def _absolute(typing_context, vector):
    def codegen(context, builder, signature, args):
        name = f"llvm.fabs.v{vector.lanes}f{vector.dtype.bitwidth}"
        function = ir.FunctionType(args[0].type, [args[0].type])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)

    return vector(vector), codegen


@overload(abs)
def _abs(vector):
    if isinstance(vector, Vector):
        return lambda vector: _absolute(vector)


@intrinsic
def _both(typing_context, a, b):
    return a(a, b), lambda context, builder, signature, args: builder.and_(*args)


@overload(operator.and_)
def _and(a, b):
    if isinstance(a, Vector) and a == b:
        return lambda a, b: _both(a, b)


@intrinsic
def _opposite(typing_context, condition):
    return condition(condition), lambda context, builder, signature, args: builder.not_(args[0])


@overload(operator.invert)
def _not(condition):
    if isinstance(condition, Vector):
        return lambda condition: _opposite(condition)


@intrinsic
def _choice(typing_context, condition, a, b):
    """The lanes of a where the condition holds, of b elsewhere."""
    vector = a if isinstance(a, Vector) else b

    def codegen(context, builder, signature, args):
        wide = [context.cast(builder, value, own, vector) for value, own in zip(args[1:], (a, b), strict=True)]
        return builder.select(args[0], *wide)

    return vector(condition, a, b), codegen


@overload(choose)
def _of_vectors(condition, a, b):
    if isinstance(condition, Vector):
        return lambda condition, a, b: _choice(condition, a, b)


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


_narrow_zeros, _wide_zeros = _zeros(wide=False), _zeros(wide=True)


@intrinsic
def plus(typing_context, sums, j, terms):
    """The sums of two tuples of vectors, in the type of the first; of the second only what counts at index j."""

    def codegen(context, builder, signature, args):
        values = []
        for k, (total, term) in enumerate(zip(sums, terms, strict=True)):
            own = context.cast(builder, builder.extract_value(args[2], k), term, total)
            own = _what_counts(builder, own, j, args[1])
            values.append(builder.fadd(builder.extract_value(args[0], k), own))
        return context.make_tuple(builder, sums, values)

    return sums(sums, j, terms), codegen


@intrinsic
def across(typing_context, sums):
    """The sum of the lanes of each of a tuple of vectors, in pairs: the same on every machine."""

    def codegen(context, builder, signature, args):
        values = [_add_lanes(builder, builder.extract_value(args[0], k), vector.lanes) for k, vector in enumerate(sums)]
        return context.make_tuple(builder, signature.return_type, values)

    return types.UniTuple(sums.dtype.dtype, len(sums))(sums), codegen


def _add_lanes(builder, vector, lanes):
    while lanes > 1:
        lanes //= 2
        halves = [ir.Constant(ir.VectorType(_INT32, lanes), [*range(k, k + lanes)]) for k in (0, lanes)]
        vector = builder.fadd(*(builder.shuffle_vector(vector, vector, half) for half in halves))
    return builder.extract_element(vector, _INT32(0))


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
    return at(number, _eight(number, 0, 0, FEW))


@intrinsic
def lane(typing_context, vector, k):
    """The number in lane k."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(args[0], args[1])

    return vector.dtype(vector, k), codegen


def _prefetch(to_write):
    @intrinsic
    def prefetch(typing_context, run):
        def codegen(context, builder, signature, args):
            byte = ir.IntType(8).as_pointer()
            function = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
            hint = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
            place = builder.bitcast(_data(context, builder, run, args[0]), byte)
            builder.call(hint, [place, _INT32(int(to_write)), _INT32(3), _INT32(1)])
            return context.get_dummy_value()

        return types.void(run), codegen

    return prefetch


_prefetch_to_read, _prefetch_to_write = _prefetch(to_write=False), _prefetch(to_write=True)


@loop
def expect(run):
    """Fetch the first cache lines of a run that does not follow the one being read: the processor finds the others."""
    for j in range(0, AHEAD * lanes(run), lanes(run)):
        _prefetch_to_read(pointer(run, j))


@loop
def expect_at(run, j):
    """Fetch the cache line of a run at index j."""
    _prefetch_to_read(pointer(run, _start(j)))


@intrinsic
def _start(typing_context, j):
    return types.intp(j), lambda context, builder, signature, args: builder.extract_value(args[0], 0)


@loop
def expect_edges(streams, run, size):
    """Fetch the cache lines in which a run to be streamed begins and ends, if they are not all its own."""
    if streams:
        for edge in (pointer(run, 0), pointer(run, size)):
            if before_a_line(edge) > 0:
                _prefetch_to_write(edge)


@intrinsic
def store_fence(typing_context):
    """Streaming stores are weakly ordered: wait for them before others may read."""

    def codegen(context, builder, signature, args):
        if platform.machine().lower() in ("x86_64", "amd64"):
            fence = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, fence, "llvm.x86.sse.sfence"), [])
        else:
            builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), codegen


@loop
def finish_stores(streams):
    """What has streamed may be read by others after it."""
    if streams:
        store_fence()


def elementwise(body):
    """``run(streams, size, y, *operands)``: body(j, y, *operands) at every index of a run; y streams if asked to."""
    body = loop(body)

    @loop
    def run(streams, size, y, *operands):
        compact()
        step = lanes(y)
        first = 0
        if streams:
            first = min(size, before_a_line(y))
            if first > 0 and size < STREAMABLE:
                streams, first = False, 0
        end = first + (size - first) // step * step
        if streams:
            for j in range(first, end, step):
                body(_stream(y, j, 0, step), y, *operands)
        else:
            for j in range(first, end, step):
                body(_whole(y, j, 0, step), y, *operands)
        for start, skip, count in ((first - step, step - first, step), (end, 0, size - end)):
            if skip < count:
                body(_part(y, start, skip, count), y, *operands)

    return run


@intrinsic
def _address(typing_context, run):
    def codegen(context, builder, signature, args):
        return builder.ptrtoint(_data(context, builder, run, args[0]), _INT)

    return types.intp(run), codegen


@loop
def before_a_line(y):
    """Values before the first that begins a cache line."""
    return -_address(y) % LINE_BYTES // (LINE_BYTES // lanes(y))


def summing(count, wide=False):
    """``sums(size, x, *operands)``: the float64 sums of each of `count` terms(j, x, *operands) over a run.

    With `wide`, the terms are float64 too.
    """
    zeros = _wide_zeros if wide else _narrow_zeros

    def decorate(terms):
        terms = loop(terms)

        @loop
        def sums(size, x, *operands):
            compact()
            step = lanes(x)
            total = _wide_zeros(x, count)
            for start in range(0, size, 2 * TERMS * step):
                end = min(start + 2 * TERMS * step, size)
                pairs = start + (end - start) // (2 * step) * (2 * step)
                even, odd = zeros(x, count), zeros(x, count)
                for j in range(start, pairs, 2 * step):
                    even = plus(even, None, terms(_whole(x, j, 0, step), x, *operands))
                    odd = plus(odd, None, terms(_whole(x, j + step, 0, step), x, *operands))
                for j in range(pairs, end, step):
                    last = _part(x, j, 0, end - j)
                    even = plus(even, last, terms(last, x, *operands))
                total = plus(total, None, plus(even, None, odd))
            return across(total)

        return sums

    return decorate


def checking(condition):
    """``holds(size, x, *operands)``: whether condition(j, x, *operands) is true at every index of a run."""
    condition = loop(condition)

    @loop
    def holds(size, x, *operands):
        compact()
        step, result = lanes(x), True
        for start in range(0, size, step):
            j = _part(x, start, 0, size - start)
            result &= every(condition(j, x, *operands), j)
        return result

    return holds


def adding_lines(count):
    """``add(sums, lines, width, x, *operands)``: add up terms(j, k, x, *operands) over lines k, for every index j.

    sums is a float64 array of (count, width + LANES).
    """

    def decorate(terms):
        terms = loop(terms)

        @loop
        def add(sums, lines, width, x, *operands):
            compact()
            step, stride = lanes(x), sums.shape[1]
            end = width // step * step
            for first in range(0, lines, TOGETHER):
                last = min(first + TOGETHER, lines)
                for start in range(0, end, step):
                    j, added = _whole(x, start, 0, step), _narrow_zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(j, k, x, *operands))
                    add_to(sums, stride, j, added)
                if end < width:
                    rest, added = _part(x, end, 0, width - end), _narrow_zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(rest, k, x, *operands))
                    add_to(sums, stride, rest, added)

        return add

    return decorate
