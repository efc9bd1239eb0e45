"""Loops over runs of memory, a vector at a time, from a body that is written for one value.

LLVM vectorises a loop over several arrays only behind checks that they do not overlap, which cost as much as a short
run itself and send a call in place to the scalar loop. So bodies read and write through `at`, `put` and `add_to`, at an
index that says how many values it stands for; `elementwise` runs them over whole vectors, and over what is left value
by value. Arithmetic on vectors is written as on numbers, so that the formulas of `numbanorm._math` serve both.

Results may be streamed: such stores go to memory past the caches, whole lines at a time, and spare it the reading of
what they overwrite. Results that a cache can hold are better left there.
"""

import operator
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, lower_cast, overload, register_model

from numbanorm.cpu.jit import loop

LINE_BYTES = 64  # to a vector of x's dtype: a cache line, whatever the registers of the machine
STREAMABLE = 256  # values: a shorter run is not worth taking apart to begin cache lines, and streaming it is slow


class Vector(types.Type):
    """Several numbers of one type."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype} x {lanes})")


class Index(types.Type):
    """Where so many values begin in an array; with streams, results begin a cache line there."""

    def __init__(self, lanes, streams=False):
        self.lanes, self.streams = lanes, streams
        super().__init__(f"Index({lanes}, streams={streams})")


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, _llvm_type(manager, vector.dtype, vector.lanes))


@register_model(Index)
class _IndexModel(PrimitiveModel):
    def __init__(self, manager, index):
        super().__init__(manager, index, manager.lookup(types.intp).get_value_type())


def _llvm_type(manager, dtype, lanes):
    number = manager.lookup(dtype).get_value_type()
    return number if lanes == 1 else ir.VectorType(number, lanes)


def _values(dtype, lanes):
    """The type of what an index of so many lanes reads."""
    return dtype if lanes == 1 else Vector(dtype, lanes)


def at(operand, j):
    """The values of an array at index j; of a number, itself in every lane."""


@overload(at)
def _at(operand, j):
    if isinstance(operand, types.Array):
        return lambda operand, j: _load(operand, j)
    if j.lanes == 1:
        return lambda operand, j: operand
    return lambda operand, j: _splat(operand, j)


def item(operand, k):
    """operand[k], or operand itself when it is a number."""


def run_of(operand, run):
    """operand[run], or operand itself when it is a number."""


@overload(item)
def _item(operand, k):
    if isinstance(operand, types.Array):
        return lambda operand, k: operand[k]
    return lambda operand, k: operand


@overload(run_of)
def _run_of(operand, run):
    if isinstance(operand, types.Array):
        return lambda operand, run: operand[run]
    return lambda operand, run: operand


@intrinsic
def put(typing_context, array, j, values):
    """Store results in an array at index j."""

    def codegen(context, builder, signature, args):
        store = _store(context, builder, signature, args, LINE_BYTES if j.streams else array.dtype.bitwidth // 8)
        if j.streams:
            store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(array, j, _values(array.dtype, j.lanes)), codegen


@intrinsic
def _keep(typing_context, array, j, values):
    """Store what will be read again."""

    def codegen(context, builder, signature, args):
        _store(context, builder, signature, args, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, j, _values(array.dtype, j.lanes)), codegen


def _store(context, builder, signature, args, align):
    return builder.store(args[2], _pointer(context, builder, signature, args), align=align)


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
def add_to(array, j, values):
    """Add values to those of an array at index j."""
    _keep(array, j, at(array, j) + values)


@intrinsic
def _load(typing_context, array, j):
    def codegen(context, builder, signature, args):
        return builder.load(_pointer(context, builder, signature, args), align=array.dtype.bitwidth // 8)

    return _values(array.dtype, j.lanes)(array, j), codegen


def _pointer(context, builder, signature, args):
    array, index = signature.args[:2]
    first = builder.gep(context.make_array(array)(context, builder, args[0]).data, [args[1]])
    return builder.bitcast(first, _llvm_type(context.data_model_manager, array.dtype, index.lanes).as_pointer())


@intrinsic
def _splat(typing_context, number, j):
    vector = Vector(number, j.lanes)

    def codegen(context, builder, signature, args):
        return _in_every_lane(context, builder, vector, args[0])

    return vector(number, j), codegen


def _in_every_lane(context, builder, vector, number):
    undefined = ir.Constant(context.get_value_type(vector), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(one, undefined, lanes)


def _arithmetic(operation, instruction):
    @intrinsic
    def compute(typing_context, a, b):
        widest = max(a.dtype, b.dtype, key=lambda dtype: dtype.bitwidth)
        result = Vector(widest, a.lanes)

        def codegen(context, builder, signature, args):
            wide = [context.cast(builder, value, vector, result) for value, vector in zip(args, (a, b), strict=True)]
            return getattr(builder, instruction)(*wide)

        return result(a, b), codegen

    @overload(operation)
    def of_vectors(a, b):
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: compute(a, b)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.iadd, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")


@lower_cast(Vector, Vector)
def _widen_vector(context, builder, narrow, wide, value):
    return value if narrow == wide else builder.fpext(value, context.get_value_type(wide))


@intrinsic
def lanes(typing_context, x):
    """How many values of x's dtype make a vector."""
    return types.intp(x), lambda context, builder, signature, args: ir.Constant(
        ir.IntType(types.intp.bitwidth), _lanes(x)
    )


def _lanes(x):
    return 8 * LINE_BYTES // x.dtype.bitwidth


@intrinsic
def _vector_index(typing_context, j, x):
    return Index(_lanes(x))(j, x), lambda context, builder, signature, args: args[0]


@intrinsic
def _streaming_index(typing_context, j, x):
    return Index(_lanes(x), streams=True)(j, x), lambda context, builder, signature, args: args[0]


@intrinsic
def _value_index(typing_context, j):
    return Index(1)(j), lambda context, builder, signature, args: args[0]


@loop
def finish_stores(streams):
    """What has streamed may be read by others after it."""
    if streams:
        store_fence()


def elementwise(body):
    """``run(x, *operands)``: body(j, x, *operands) at every index of a run x (or lines), vector by vector."""
    body = loop(body)

    @loop
    def run(x, *operands):
        end = x.shape[-1] // lanes(x) * lanes(x)
        for j in range(0, end, lanes(x)):
            body(_vector_index(j, x), x, *operands)
        for j in range(end, x.shape[-1]):
            body(_value_index(j), x, *operands)

    return run


def streamable(body):
    """``run(streams, y, *operands)``: as `elementwise`; if streams, what it puts into y streams."""
    body = loop(body)

    @loop
    def run(streams, y, *operands):
        size = y.shape[-1]
        first = _before_a_line(y) if streams else 0
        if size < STREAMABLE:
            streams, first = False, 0
        end = first + (size - first) // lanes(y) * lanes(y)
        if streams:
            for j in range(first, end, lanes(y)):
                body(_streaming_index(j, y), y, *operands)
        else:
            for j in range(first, end, lanes(y)):
                body(_vector_index(j, y), y, *operands)
        for rest in range(first + size - end):
            body(_value_index(rest if rest < first else rest - first + end), y, *operands)

    return run


@loop
def _before_a_line(y):
    """Values before the first that begins a cache line."""
    return -np.intp(y.ctypes.data) % LINE_BYTES // y.itemsize
