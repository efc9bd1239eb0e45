"""Define vectors for kernels. A vector is several numbers of one type, read from memory and written to it at once.

A run is a sequence of numbers in memory: a pointer, or an array. Kernels mostly use pointers. For loops over arrays,
LLVM checks whether these overlap. The check costs as much as a short run, and an in-place call would fail it and take
a slow loop. Slices of arrays would also take most of the time to compile.

An index says where a vector begins in a run, and which of its lanes count: all, or at the ends of a run some of them.
`numbanorm.cpu.vectors.arithmetic` has what is computed with vectors.

Each operation writes LLVM code at the place of its call. To compile a function for each pair of types would take most
of the time to compile.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_cast, models, register_model

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.compiling.numba_internals import cgutils

LINE_BYTES = 64  # a vector of x's dtype is a cache line, whatever registers the machine has
LANES = 16  # of the longest vectors, those of float32
FEW = 8  # lanes of the short vectors that hold a few values of any dtype

INT32, INT = ir.IntType(32), ir.IntType(types.intp.bitwidth)


class Vector(types.Type):
    """Represent several numbers of one type."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")


class Index(types.Type):
    """Represent the place of a vector in a run, and which of its lanes count.

    An index has one of three kinds. Of a WHOLE all lanes count. Of a PART those lanes k count for which skip <= k <
    count. STREAM is a whole whose results are streamed past the caches.
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


def lane_count(run):
    """Return how many values of a run make a vector, as a number of Python's."""
    return 8 * LINE_BYTES // run.dtype.bitwidth


@intrinsic
def lanes(typing_context, run):
    """Return how many values of a run make a vector."""
    return types.intp(run), lambda context, builder, signature, args: INT(lane_count(run))


def _index(kind, lanes=None):
    """Make ``index(run, start, skip, count)`` of this kind. By default, its vectors are a cache line of the run."""

    @intrinsic
    def index(typing_context, run, start, skip, count):
        def codegen(context, builder, signature, args):
            return cgutils.pack_struct(builder, args[1:])

        return Index(lanes or lane_count(run), kind)(run, types.intp, types.intp, types.intp), codegen

    return index


whole, part, stream = _index(WHOLE), _index(PART), _index(STREAM)
_few, _first = _index(PART, FEW), _index(WHOLE, FEW)


@loop
def few(run, count):
    """Return the index of the first `count` values of a run, at most FEW."""
    return _few(run, 0, 0, count)


@loop
def first_few(run):
    """Return the index of the first FEW values of a run."""
    return _first(run, 0, 0, FEW)


@intrinsic
def pointer(typing_context, run, offset):
    """Return the run that begins `offset` values after another run or an array does. A number stays what it is."""
    if not _is_run(run):
        return run(run, types.intp), lambda context, builder, signature, args: args[0]

    def codegen(context, builder, signature, args):
        return builder.gep(data(context, builder, run, args[0]), [args[1]])

    return types.CPointer(run.dtype)(run, types.intp), codegen


def data(context, builder, run, value):
    """Return the LLVM pointer to the first value of a run."""
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
            begin = builder.gep(data(context, builder, run, args[0]), [builder.mul(args[1], INT(k))])
            place = _place(context, builder, types.CPointer(run.dtype), vector, (begin, args[2]))
            added = context.cast(builder, builder.extract_value(args[3], k), term, vector)
            before = _read(context, builder, vector, place, whole, args[2])
            _write(context, builder, add_what_counts(builder, before, added, j, args[2]), place, run, whole, args[2])
        return context.get_dummy_value()

    return types.void(run, types.intp, j, terms), codegen


def add_what_counts(builder, before, values, index, j):
    """Add values to the lanes that count. The other lanes stay as before.

    The choice follows the addition. So a product that is added is rounded once with its sum, for all kinds of index.
    """
    after = builder.fadd(before, values)
    if not isinstance(index, Index) or index.kind != PART:
        return after
    return builder.select(counting_lanes(builder, index, j), after, before)


def _place(context, builder, run, vector, args):
    """Return the LLVM pointer to a vector of a run; args: the run, and the index."""
    first = builder.gep(data(context, builder, run, args[0]), [builder.extract_value(args[1], 0)])
    number = context.get_value_type(run.dtype)
    return builder.bitcast(first, ir.VectorType(number, vector.lanes).as_pointer())


def _read(context, builder, vector, place, index, j):
    """Read a vector. Lanes that do not count are 0."""
    align = vector.dtype.bitwidth // 8
    if index.kind != PART:
        return builder.load(place, align=align)
    llvm_type = context.get_value_type(vector)
    mask = counting_lanes(builder, index, j)
    nothing = ir.Constant(llvm_type, None)
    function = _masked(builder, "load", vector, llvm_type, [place.type, INT32, mask.type, llvm_type])
    return builder.call(function, [place, INT32(align), mask, nothing])


def _write(context, builder, values, place, run, index, j):
    """Write the lanes of a vector that count."""
    align = run.dtype.bitwidth // 8
    if index.kind == PART:
        mask, vector = counting_lanes(builder, index, j), Vector(run.dtype, index.lanes)
        function = _masked(builder, "store", vector, ir.VoidType(), [values.type, place.type, INT32, mask.type])
        builder.call(function, [values, place, INT32(align), mask])
        return
    store = builder.store(values, place, align=LINE_BYTES if index.kind == STREAM else align)
    if index.kind == STREAM:
        store.set_metadata("nontemporal", builder.module.add_metadata([INT32(1)]))


def _masked(builder, operation, vector, result, arguments):
    """Return LLVM's function that loads or stores some lanes of a vector."""
    name = f"llvm.masked.{operation}.v{vector.lanes}f{vector.dtype.bitwidth}.p0"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def counting_lanes(builder, index, j):
    """Return a boolean for each lane: whether it counts."""
    lane = ir.Constant(ir.VectorType(INT32, index.lanes), list(range(index.lanes)))
    skip, count = (builder.trunc(builder.extract_value(j, k), INT32) for k in (1, 2))
    first, end = (_in_every_lane(builder, bound, index.lanes) for bound in (skip, count))
    return builder.and_(builder.icmp_signed("<=", first, lane), builder.icmp_signed("<", lane, end))


def _in_every_lane(builder, number, lanes):
    undefined = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
    one = builder.insert_element(undefined, number, INT32(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


@lower_cast(Vector, Vector)
def _convert_vector(context, builder, from_type, to_type, value):
    if from_type.dtype == to_type.dtype:
        return value
    convert = builder.fpext if from_type.dtype.bitwidth < to_type.dtype.bitwidth else builder.fptrunc
    return convert(value, context.get_value_type(to_type))


@lower_cast(types.Number, Vector)
def _number_in_every_lane(context, builder, number, vector, value):
    return _in_every_lane(builder, context.cast(builder, value, number, vector.dtype), vector.lanes)
