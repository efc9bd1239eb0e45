"""Define where kernels keep vectors: in global memory, in shared memory, or in registers that are numbered.

A run is a pointer of Numba's, which points to global memory, or room in shared memory. Loads and stores move whole
vectors, at most 128 bits to and from global memory. The size of a vector must divide its address.
"""

import operator
from functools import lru_cache

from llvmlite import ir

from numbanorm.cuda import cgutils, extending, imputils, types
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.simd import Vector, known, lanes_named, llvm_type, number

BYTES = 16  # to the widest access of global memory
_INT32 = ir.IntType(32)
_GLOBAL, _SHARED = 1, 3  # address spaces
_WIDEST = 4 * 8  # bytes to a vector


class Registers(types.Type):
    """Represent numbered vectors. They are in registers where the compiler knows every number that is used."""

    def __init__(self, vector, count):
        self.vector, self.count = vector, count
        super().__init__(f"Registers({vector} x {count})")


class Shared(types.Type):
    """Represent numbers in memory that the threads of a block share."""

    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Shared({dtype})")


@extending.register_model(Registers)
class _RegistersModel(extending.models.PrimitiveModel):
    def __init__(self, manager, registers):
        array = ir.ArrayType(llvm_type(manager, registers.vector), registers.count)
        super().__init__(manager, registers, array.as_pointer())


@extending.register_model(Shared)
class _SharedModel(extending.models.PrimitiveModel):
    def __init__(self, manager, shared):
        number = manager.lookup(shared.dtype).get_value_type()
        super().__init__(manager, shared, ir.PointerType(number, _SHARED))


@extending.intrinsic
def shared(typing_context, like, count):
    """Reserve shared memory for `count` numbers of the dtype of `like`, a run or a vector."""
    if not known(count):
        return None
    found = Shared(like.dtype)

    def codegen(context, builder, signature, args):
        array = ir.ArrayType(context.get_value_type(like.dtype), count.literal_value)
        room = cgutils.add_global_variable(builder.module, array, "shared", _SHARED)
        room.linkage, room.align, room.initializer = "internal", _WIDEST, ir.Constant(array, ir.Undefined)
        return builder.gep(room, [_INT32(0), _INT32(0)])

    return found(like, count), codegen


@extending.intrinsic
def registers(typing_context, like, lanes, count):
    """Reserve `count` vectors of the dtype of `like`, without any values."""
    if not known(lanes, count):
        return None
    found = Registers(Vector(like.dtype, lanes_named(lanes)), count.literal_value)

    def codegen(context, builder, signature, args):
        return cgutils.alloca_once(builder, context.get_value_type(found).pointee)

    return found(like, lanes, count), codegen


@extending.type_callable(operator.getitem)
def _type_of_register(context):
    def typer(registers, k):
        if isinstance(registers, Registers) and isinstance(k, types.Integer):
            return registers.vector

    return typer


@extending.lower_builtin(operator.getitem, Registers, types.Integer)
def _load_register(context, builder, signature, args):
    return builder.load(builder.gep(args[0], [_INT32(0), builder.trunc(args[1], _INT32)]))


@extending.type_callable(operator.setitem)
def _type_of_setting(context):
    def typer(registers, k, vector):
        if isinstance(registers, Registers) and isinstance(k, types.Integer):
            return types.none

    return typer


@extending.lower_builtin(operator.setitem, Registers, types.Integer, types.Any)
def _store_register(context, builder, signature, args):
    registers, _, given = signature.args
    place = builder.gep(args[0], [_INT32(0), builder.trunc(args[1], _INT32)])
    builder.store(context.cast(builder, args[2], given, registers.vector), place)
    return context.get_dummy_value()


def _place(context, builder, run, value, index, vector):
    """Return a pointer to a vector of a run. A run that is a pointer of Numba's points to global memory."""
    if isinstance(run, types.CPointer):
        value = builder.addrspacecast(value, ir.PointerType(value.type.pointee, _GLOBAL))
    place = builder.gep(value, [index])
    return builder.bitcast(place, ir.PointerType(context.get_value_type(vector), place.type.addrspace))


def _loading(constant):
    @extending.intrinsic
    def load(typing_context, run, index, lanes):
        if not known(lanes):
            return None
        vector = Vector(run.dtype, lanes_named(lanes))

        def codegen(context, builder, signature, args):
            place = _place(context, builder, run, args[0], args[1], vector)
            found = builder.load(place, align=vector.lanes * run.dtype.bitwidth // 8)
            if constant:
                found.set_metadata("invariant.load", builder.module.add_metadata([]))
            return found

        return vector(run, types.int64, lanes), codegen

    return load


load = _loading(constant=False)  # a vector of so many lanes; its size must divide the address
load_constant = _loading(constant=True)  # what nobody writes while the kernel runs: other stores need not wait for it


@lru_cache(None)
def parameter_at(lanes):
    """Make a device function that returns a parameter's vector at an index, or `otherwise` if `count` is 0."""

    @device
    def at(parameter, index, count, otherwise):
        found = number(otherwise, parameter, lanes)
        if count > 0:
            found = load_constant(parameter, index, lanes)
        return found

    return at


@extending.intrinsic
def store(typing_context, run, index, vector):
    """Write a vector, converted to the dtype of the run, to where `load` would find it."""
    stored = Vector(run.dtype, vector.lanes if isinstance(vector, Vector) else 1)

    def codegen(context, builder, signature, args):
        place = _place(context, builder, run, args[0], args[1], stored)
        value = context.cast(builder, args[2], vector, stored)
        builder.store(value, place, align=stored.lanes * run.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(run, types.int64, vector), codegen


@extending.intrinsic
def is_set(typing_context, mask, index):
    """Return whether a byte of a mask is not 0."""

    def codegen(context, builder, signature, args):
        place = builder.addrspacecast(args[0], ir.PointerType(args[0].type.pointee, _GLOBAL))
        found = builder.load(builder.gep(place, [args[1]]), align=1)
        found.set_metadata("invariant.load", builder.module.add_metadata([]))
        return builder.icmp_unsigned("!=", found, found.type(0))

    return types.boolean(mask, types.int64), codegen


class Steps(types.IteratorType):
    """Represent the numbers from 0 to count - 1, where the compiler knows the count."""

    def __init__(self, count):
        self.count = count
        super().__init__(f"Steps({count})")

    @property
    def yield_type(self):
        """Return the type of each number."""
        return types.int64


@extending.register_model(Steps)
class _StepsModel(extending.models.PrimitiveModel):
    def __init__(self, manager, steps):
        super().__init__(manager, steps, ir.IntType(64).as_pointer())


@extending.intrinsic
def each(typing_context, count):
    """Return an iterator: ``for k in each(count)`` is unrolled, so vectors numbered by k can stay in registers.

    NVVM does not always unroll `range`, which branches on its way to the next number.
    """
    if not known(count):
        return None

    def codegen(context, builder, signature, args):
        place = cgutils.alloca_once(builder, ir.IntType(64))
        builder.store(ir.IntType(64)(0), place)
        return place

    return Steps(count.literal_value)(count), codegen


@extending.lower_builtin("getiter", Steps)
def _begin_steps(context, builder, signature, args):
    return args[0]


@extending.lower_builtin("iternext", Steps)
@imputils.iternext_impl(imputils.RefType.UNTRACKED)
def _next_step(context, builder, signature, args, result):
    k = builder.load(args[0])
    result.set_valid(builder.icmp_signed("<", k, k.type(signature.args[0].count)))
    result.yield_(k)
    builder.store(builder.add(k, k.type(1)), args[0])
