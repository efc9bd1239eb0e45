"""How kernels come to run on several threads.

A *range kernel* is a compiled function ``kernel(lo, hi, *args)`` that does items lo <= i < hi of its work, alone.
``parallel_for(kernel)`` makes ``launch(engine, items, grain, args)``, callable from compiled code, which runs all of
them: by the engine in pieces of `grain` items, or at once by the caller when they are one piece or engine is SERIAL.

An engine is the address of a block of memory that begins with the address of a compiled
``entry(engine, kernel, context, items, grain)``; a kernel reaches it as the address of a ``kernel(context, lo, hi)``
that unpacks its arguments from the caller's stack. So no kernel is compiled for an engine, and what a kernel computes
cannot depend on one. `numbanorm.cpu.engine.engines` says which there are; nothing else knows about threads.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbanorm.cpu.engine.atomic import WORD
from numbanorm.cpu.engine.engines import SERIAL, engine

__all__ = ["SERIAL", "engine", "parallel_for"]

_FLAG = ir.IntType(1)
_KERNEL = ir.FunctionType(ir.VoidType(), [WORD] * 3)  # context, lo, hi
_ENTRY = ir.FunctionType(ir.VoidType(), [WORD] * 5)  # engine, kernel, context, items, grain


def parallel_for(kernel):
    """``launch(engine, items, grain, args)`` for one range kernel; see the top of this file.

    The kernel may launch, too, and is served by its own thread then. It must neither fork nor set the number of
    threads, which both wait for its end.
    """

    @intrinsic
    def launch(typing_context, engine, items, grain, args):
        kernel_args = (types.intp, types.intp, *args)
        kernel_signature = typing_context.resolve_function_type(types.Dispatcher(kernel), kernel_args, {})

        def codegen(target, builder, signature, values):
            engine, items, grain, packed = values
            compiled = kernel.overloads[kernel_signature.args]
            target.active_code_library.add_linking_library(compiled.library)
            call = cgutils.alloca_once_value(builder, cgutils.make_anonymous_struct(builder, [packed, _FLAG(0)]))
            trampoline = _unpacking(target, builder.module, compiled.fndesc, call.type)
            context = builder.ptrtoint(call, WORD)
            several = builder.icmp_signed(">", items, grain)
            with builder.if_else(builder.and_(several, cgutils.is_not_null(builder, engine))) as (then, otherwise):
                with then:
                    entry = builder.load(builder.inttoptr(engine, _ENTRY.as_pointer().as_pointer()))
                    builder.call(entry, [engine, builder.ptrtoint(trampoline, WORD), context, items, grain])
                with otherwise:
                    builder.call(trampoline, [context, items.type(0), items])
            with builder.if_then(builder.load(_failed(builder, call))):
                target.call_conv.return_user_exc(builder, MemoryError, ("a kernel found no memory for its work",))
            return target.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, args), codegen

    return launch


def _unpacking(target, module, kernel, call_type):
    """kernel(context, lo, hi) in C's convention: calls the compiled kernel with the arguments packed at context.

    An error, of which kernels have none but a lack of memory, is noted there, since none may pass through an engine.
    """
    function = ir.Function(module, _KERNEL, module.get_unique_name(f"{kernel.qualname}.unpacking"))
    function.linkage = "internal"
    context, lo, hi = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    call = builder.inttoptr(context, call_type)
    packed = builder.load(cgutils.gep_inbounds(builder, call, 0, 0))
    args = [lo, hi]
    for i, argument_type in enumerate(kernel.argtypes[2:]):
        argument = builder.extract_value(packed, i)
        if isinstance(argument_type, types.Array):
            # Borrowed from the caller: with no owner, its slices count no references, which threads would contend for.
            argument = builder.insert_value(argument, argument.type.elements[0](None), 0)
        args.append(argument)
    callee = target.declare_function(module, kernel)
    status, _ = target.call_conv.call_function(builder, callee, kernel.restype, kernel.argtypes, args)
    with builder.if_then(status.is_error, likely=False):
        builder.store(_FLAG(1), _failed(builder, call))
    builder.ret_void()
    return function


def _failed(builder, call):
    """Where a call's second part lies, after its arguments."""
    return cgutils.gep_inbounds(builder, call, 0, 1)
