"""Write by streaming stores, which go past the caches, and read ahead by prefetches.

A streaming store writes a whole cache line to memory. An ordinary store would first read the line that it overwrites.
Results that a cache can hold are better left there. So kernels take a flag `streams`: whether the arrays of the call
exceed the caches. If so, results are streamed, and lines of inputs are prefetched.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.compiling.numba_internals import cgutils
from numbanorm.cpu.vectors.simd import LINE_BYTES, at, data, lanes, part, pointer, put, stream, whole

AHEAD = 8  # cache lines to prefetch where a run begins
STREAMABLE = 256  # values: shorter runs are slow to stream, unless they are whole cache lines

_INT32, _INT = ir.IntType(32), ir.IntType(types.intp.bitwidth)


def _prefetch(to_write):
    """Make ``prefetch(run)``, which fetches the cache line in which a run begins."""

    @intrinsic
    def prefetch(typing_context, run):
        def codegen(context, builder, signature, args):
            byte = ir.IntType(8).as_pointer()
            function = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
            hint = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0")
            place = builder.bitcast(data(context, builder, run, args[0]), byte)
            builder.call(hint, [place, _INT32(int(to_write)), _INT32(3), _INT32(1)])
            return context.get_dummy_value()

        return types.void(run), codegen

    return prefetch


_prefetch_to_read, _prefetch_to_write = _prefetch(to_write=False), _prefetch(to_write=True)


@loop
def expect(run):
    """Prefetch the first cache lines of a run that does not follow the one being read. The processor finds the rest."""
    for j in range(0, AHEAD * lanes(run), lanes(run)):
        _prefetch_to_read(pointer(run, j))


@loop
def expect_row(row, ahead, size):
    """Prefetch `size` values that begin `ahead` values after a row does."""
    for j in range(ahead, ahead + size, lanes(row)):
        _prefetch_to_read(pointer(row, j))


@loop
def expect_at(run, j):
    """Prefetch the cache line of a run at index j."""
    _prefetch_to_read(pointer(run, _start(j)))


@intrinsic
def _start(typing_context, j):
    """Return where the vector at index j begins."""
    return types.intp(j), lambda context, builder, signature, args: builder.extract_value(args[0], 0)


@loop
def expect_edges(streams, run, size):
    """Prefetch the cache lines in which a run to be streamed begins and ends, where it shares them with others."""
    if streams:
        for edge in (pointer(run, 0), pointer(run, size)):
            if before_a_line(edge) > 0:
                _prefetch_to_write(edge)


@intrinsic
def store_fence(typing_context):
    """Wait for streaming stores. They are weakly ordered, so other threads must not read the results before."""

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
    """Call `store_fence` if results were streamed. Then other threads may read them."""
    if streams:
        store_fence()


@intrinsic
def _address(typing_context, run):
    """Return the address at which a run begins."""

    def codegen(context, builder, signature, args):
        return builder.ptrtoint(data(context, builder, run, args[0]), _INT)

    return types.intp(run), codegen


@loop
def before_a_line(y):
    """Return how many values of a run come before the first one that begins a cache line."""
    return -_address(y) % LINE_BYTES // (LINE_BYTES // lanes(y))


@loop
def needs_stage(streams, y, size):
    """Return whether rows of y share cache lines, and are too short to be streamed one by one."""
    return streams and size < STREAMABLE and (size % lanes(y) > 0 or before_a_line(y) > 0)


@loop
def stream_staged(stage, lead, size, skip, y):
    """Stream the results that lie in a stage: `size` results for y.

    They follow `lead` values, which fill the cache line in which y begins up to y. The first `skip` values of that line
    belong to another thread, and are not written. Results that do not fill a line are moved to the begin of the stage.
    Return the `lead` and the `skip` of the next call.
    """
    step = lanes(y)
    lines, end, start = pointer(y, -lead), (lead + size) // step * step, 0
    if skip > 0 and end > 0:
        j = part(y, 0, skip, step)
        put(lines, j, at(stage, j))
        start, skip = step, 0
    for k in range(start, end, step):
        put(lines, stream(y, k, 0, step), at(stage, whole(y, k, 0, step)))
    put(stage, whole(y, 0, 0, step), at(stage, whole(y, end, 0, step)))
    return lead + size - end, skip


@loop
def store_staged(stage, lead, skip, y):
    """Write the results that are left in a stage. y is where the next results would begin."""
    if lead > skip:
        j = part(y, 0, skip, lead)
        put(pointer(y, -lead), j, at(stage, j))
