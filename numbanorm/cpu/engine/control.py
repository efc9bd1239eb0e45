"""Read and set how a thread computes with floating-point numbers: rounding, and whether denormals count as zero.

Each thread has its own setting, which other libraries may change (`torch.set_flush_denormal`). A result must not depend
on the thread that computed it. So all threads that take part in a launch take over the setting of the one that calls.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numbanorm.cpu.compiling.numba_internals import cgutils

_SETTING = 0xFFC0  # the bits of MXCSR that are the setting; the others note which exceptions have occurred
_REGISTER = ir.IntType(32)
_X86 = "x86_64"
_ARM = "aarch64", "arm64"


@intrinsic
def control(typing_context):
    """Return the setting of this thread, or 0 on processors that this file does not know."""

    def codegen(context, builder, signature, args):
        triple = builder.module.triple
        if triple.startswith(_X86):
            setting = builder.and_(builder.load(_mxcsr(builder)), _REGISTER(_SETTING))
            return builder.zext(setting, context.get_value_type(types.intp))
        if triple.startswith(_ARM):
            word = context.get_value_type(types.intp)
            return _call(builder, "llvm.aarch64.get.fpcr", word)
        return context.get_constant(types.intp, 0)

    return types.intp(), codegen


@intrinsic
def set_control(typing_context, setting):
    """Give this thread a setting."""

    def codegen(context, builder, signature, args):
        triple = builder.module.triple
        if triple.startswith(_X86):
            place = _mxcsr(builder)
            noted = builder.and_(builder.load(place), _REGISTER(0xFFFFFFFF ^ _SETTING))
            builder.store(builder.or_(noted, builder.trunc(args[0], _REGISTER)), place)
            _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(place, cgutils.voidptr_t))
        elif triple.startswith(_ARM):
            _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), args[0])
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def _mxcsr(builder):
    """Copy the register to memory. Return the place of the copy."""
    place = cgutils.alloca_once(builder, _REGISTER)
    _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, cgutils.voidptr_t))
    return place


def _call(builder, name, returned, *args):
    function = ir.FunctionType(returned, [arg.type for arg in args])
    return builder.call(builder.module.declare_intrinsic(name, (), function), args)
