"""How a thread computes with floating-point numbers: rounding, and whether the smallest ones count as zero.

Each thread has its own setting, which others may change (`torch.set_flush_denormal`). A result must not depend on which
thread computed it, so all that take part in a launch compute as the thread that calls does.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_SETTING = 0xFFC0  # of MXCSR, the rest of which notes what exceptions there were
_REGISTER = ir.IntType(32)
_X86 = "x86_64"
_ARM = "aarch64", "arm64"


@intrinsic
def control(typing_context):
    """The setting of this thread; 0 on processors that this file does not know."""

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
    """Compute so from now on."""

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
    """Where a copy of the register lies."""
    place = cgutils.alloca_once(builder, _REGISTER)
    _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(place, cgutils.voidptr_t))
    return place


def _call(builder, name, returned, *args):
    function = ir.FunctionType(returned, [arg.type for arg in args])
    return builder.call(builder.module.declare_intrinsic(name, (), function), args)
