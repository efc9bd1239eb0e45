"""Read and write words of memory that threads share. Word i at an address is an intp.

All operations have one order, which every thread sees. A thread that reads a word also sees all that was written before
that word was.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = ir.IntType(types.intp.bitwidth)
BYTES = types.intp.bitwidth // 8
_ORDER = "seq_cst"


def _word(builder, address, i):
    return builder.gep(builder.inttoptr(address, WORD.as_pointer()), [i])


@intrinsic
def load(typing_context, address, i):
    """Read the word."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_word(builder, *args), _ORDER, BYTES)

    return types.intp(types.intp, types.intp), codegen


@intrinsic
def store(typing_context, address, i, value):
    """Write the word."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], _word(builder, *args[:2]), _ORDER, BYTES)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


@intrinsic
def add(typing_context, address, i, value):
    """Add to the word. Return what it was before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _word(builder, *args[:2]), args[2], _ORDER)

    return types.intp(types.intp, types.intp, types.intp), codegen


@intrinsic
def replace(typing_context, address, i, old, new):
    """Write `new` if the word is `old`. Return whether it was."""

    def codegen(context, builder, signature, args):
        address, i, old, new = args
        return builder.extract_value(builder.cmpxchg(_word(builder, address, i), old, new, _ORDER), 1)

    return types.boolean(*[types.intp] * 4), codegen


@intrinsic
def pause(typing_context):
    """Tell the processor that this thread spins. Some processors have no such instruction."""

    def codegen(context, builder, signature, args):
        if builder.module.triple.startswith(("x86_64", "i386", "i686")):
            builder.call(
                builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), ir.FunctionType(ir.VoidType(), [])), []
            )
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def call_kernel(typing_context, kernel, context, lo, hi):
    """Call kernel(context, lo, hi), a C function that is given by its address."""

    def codegen(target, builder, signature, args):
        pointer = ir.FunctionType(ir.VoidType(), [WORD] * 3).as_pointer()
        builder.call(builder.inttoptr(args[0], pointer), args[1:])
        return target.get_dummy_value()

    return types.void(*[types.intp] * 4), codegen
