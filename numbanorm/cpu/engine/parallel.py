"""Run kernels on several threads.

A *range kernel* is a compiled function ``kernel(lo, hi, *args)``. It does the items lo <= i < hi of its work in one
thread. ``parallel_for(kernel)`` makes ``launch(engine, items, grain, args)``, which compiled code calls to do all
items. The engine does them in pieces of at least `grain` items. If they are one piece, or the engine is SERIAL, the
caller does them at once.

An engine is the address of a block of memory. The block begins with the address of a compiled function
``entry(engine, kernel, context, items, grain)``. There `kernel` is the address of a function ``kernel(context, lo,
hi)`` that reads its arguments from the caller's stack. So no kernel is compiled for an engine, and what a kernel
computes cannot depend on the engine. `numbanorm.cpu.engine.engines` has the engines; nothing else knows about threads.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numbanorm.cpu.compiling.numba_internals import call_compiled, cgutils, compile_and_link, return_error
from numbanorm.cpu.engine.atomic import WORD
from numbanorm.cpu.engine.engines import SERIAL, engine

__all__ = ["SERIAL", "engine", "parallel_for"]

_FLAG = ir.IntType(1)
_KERNEL = ir.FunctionType(ir.VoidType(), [WORD] * 3)  # context, lo, hi
_ENTRY = ir.FunctionType(ir.VoidType(), [WORD] * 5)  # engine, kernel, context, items, grain


def parallel_for(kernel):
    """Make ``launch(engine, items, grain, args)`` for one range kernel, as the top of this file describes it.

    The kernel may launch, too: its own thread then does that work. It must neither fork nor set the number of threads,
    since both would wait for the kernel to end.
    """

    @intrinsic
    def launch(typing_context, engine, items, grain, args):
        kernel_args = (types.intp, types.intp, *args)
        descriptor_of = compile_and_link(typing_context, kernel, kernel_args)

        def codegen(target, builder, signature, values):
            engine, items, grain, packed = values
            descriptor = descriptor_of(target)
            call = cgutils.alloca_once_value(builder, cgutils.make_anonymous_struct(builder, [packed, _FLAG(0)]))
            trampoline = _unpacking(target, builder.module, descriptor, call.type)
            context = builder.ptrtoint(call, WORD)
            several = builder.icmp_signed(">", items, grain)
            with builder.if_else(builder.and_(several, cgutils.is_not_null(builder, engine))) as (then, otherwise):
                with then:
                    entry = builder.load(builder.inttoptr(engine, _ENTRY.as_pointer().as_pointer()))
                    builder.call(entry, [engine, builder.ptrtoint(trampoline, WORD), context, items, grain])
                with otherwise:
                    builder.call(trampoline, [context, items.type(0), items])
            with builder.if_then(builder.load(_failed(builder, call))):
                return_error(target, builder, MemoryError, "a kernel found no memory for its work")
            return target.get_dummy_value()

        return types.void(types.intp, types.intp, types.intp, args), codegen

    return launch


def _unpacking(target, module, descriptor, call_type):
    """Make ``kernel(context, lo, hi)`` in C's convention. It calls the compiled kernel with arguments read at context.

    The only error that a kernel can raise is a lack of memory. No error can pass through an engine, so it is noted at
    the context.
    """
    function = ir.Function(module, _KERNEL, module.get_unique_name(f"{descriptor.qualname}.unpacking"))
    function.linkage = "internal"
    context, lo, hi = function.args
    builder = ir.IRBuilder(function.append_basic_block())
    call = builder.inttoptr(context, call_type)
    packed = builder.load(cgutils.gep_inbounds(builder, call, 0, 0))
    args = [lo, hi]
    for i, argument_type in enumerate(descriptor.argtypes[2:]):
        argument = builder.extract_value(packed, i)
        if isinstance(argument_type, types.Array):
            # The caller owns the array. With no owner here, its slices count no references: threads would contend for
            # the count.
            argument = builder.insert_value(argument, argument.type.elements[0](None), 0)
        args.append(argument)
    with builder.if_then(call_compiled(target, builder, descriptor, args), likely=False):
        builder.store(_FLAG(1), _failed(builder, call))
    builder.ret_void()
    return function


def _failed(builder, call):
    """Return a pointer to the second part of a call, which says whether the kernel failed.

    The first part holds the arguments.
    """
    return cgutils.gep_inbounds(builder, call, 0, 1)
