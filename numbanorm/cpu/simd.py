"""Loops over runs of memory, a vector at a time, from a body that is written for one vector.

Results may be streamed: such stores go to memory past the caches, whole lines at a time, and spare it the reading of
what they overwrite. Results that a cache can hold are better left there.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from numbanorm.cpu.jit import compact, loop
from numbanorm.cpu.vectors import (
    LINE_BYTES,
    across,
    add_to,
    at,
    data,
    every,
    lanes,
    narrow_zeros,
    part,
    plus,
    pointer,
    put,
    stream,
    whole,
    wide_zeros,
)

TERMS = 16  # values of x's dtype to an accumulator, before it is added to one of float64
AHEAD = 8  # cache lines
STREAMABLE = 256  # values: streaming shorter runs is slow, unless they are whole lines
TOGETHER = 4  # lines to add up in registers, before memory is added to; a divisor of TERMS
LINES_AHEAD = 2 * TOGETHER  # to fetch, of lines from memory: the processor does not foresee so many

_INT32, _INT = ir.IntType(32), ir.IntType(types.intp.bitwidth)


def _prefetch(to_write):
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


@intrinsic
def _address(typing_context, run):
    def codegen(context, builder, signature, args):
        return builder.ptrtoint(data(context, builder, run, args[0]), _INT)

    return types.intp(run), codegen


@loop
def before_a_line(y):
    """Values before the first that begins a cache line."""
    return -_address(y) % LINE_BYTES // (LINE_BYTES // lanes(y))


@loop
def needs_stage(streams, y, size):
    """Whether rows of y are too short to stream one by one, and share cache lines."""
    return streams and size < STREAMABLE and (size % lanes(y) > 0 or before_a_line(y) > 0)


@loop
def stream_staged(stage, lead, size, skip, y):
    """Stream what is staged: `size` results for y, after `lead` values of the cache line in which y begins.

    The first `skip` of those are not ours. What does not fill a line stays in the stage: the next lead and skip.
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
    """The rest of it, with y where the next results would begin."""
    if lead > skip:
        j = part(y, 0, skip, lead)
        put(pointer(y, -lead), j, at(stage, j))


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
                body(stream(y, j, 0, step), y, *operands)
        else:
            for j in range(first, end, step):
                body(whole(y, j, 0, step), y, *operands)
        for start, skip, count in ((first - step, step - first, step), (end, 0, size - end)):
            if skip < count:
                body(part(y, start, skip, count), y, *operands)

    return run


def each_vector(body):
    """``run(size, y, *operands)``: body(j, y, *operands) at every index of a run."""
    body = loop(body)

    @loop
    def run(size, y, *operands):
        compact()
        step = lanes(y)
        end = size // step * step
        for j in range(0, end, step):
            body(whole(y, j, 0, step), y, *operands)
        if end < size:
            body(part(y, end, 0, size - end), y, *operands)

    return run


def summing(count, wide=False):
    """``sums(size, x, *operands)``: the float64 sums of each of `count` terms(j, x, *operands) over a run.

    With `wide`, the terms are float64 too.
    """
    zeros = wide_zeros if wide else narrow_zeros

    def decorate(terms):
        terms = loop(terms)

        @loop
        def sums(size, x, *operands):
            compact()
            step = lanes(x)
            total = wide_zeros(x, count)
            for start in range(0, size, 2 * TERMS * step):
                end = min(start + 2 * TERMS * step, size)
                pairs = start + (end - start) // (2 * step) * (2 * step)
                even, odd = zeros(x, count), zeros(x, count)
                for j in range(start, pairs, 2 * step):
                    even = plus(even, None, terms(whole(x, j, 0, step), x, *operands))
                    odd = plus(odd, None, terms(whole(x, j + step, 0, step), x, *operands))
                for j in range(pairs, end, step):
                    last = part(x, j, 0, end - j)
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
            j = part(x, start, 0, size - start)
            result &= every(condition(j, x, *operands), j)
        return result

    return holds


@each_vector
def _move_sums(j, long, short):
    """Add to sums of float64, and begin anew."""
    put(long, j, at(long, j) + at(short, j))
    put(short, j, at(0.0, j))


def adding_lines(count):
    """``add(long, short, lines, width, x, *operands)``: add up terms(j, k, x, *operands) over lines k, at every j.

    long and short are zero arrays (count, width + LANES) of float64 and of x's dtype; the sums end in long.
    """

    def decorate(terms):
        terms = loop(terms)

        @loop
        def add(long, short, lines, width, x, *operands):
            compact()
            step, stride = lanes(x), long.shape[1]
            end = width // step * step
            for first in range(0, lines, TOGETHER):
                last = min(first + TOGETHER, lines)
                for start in range(0, end, step):
                    j, added = whole(x, start, 0, step), narrow_zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(j, k, x, *operands))
                    add_to(short, stride, j, added)
                if end < width:
                    rest, added = part(x, end, 0, width - end), narrow_zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(rest, k, x, *operands))
                    add_to(short, stride, rest, added)
                if last % TERMS == 0 or last == lines:
                    _move_sums(count * stride, pointer(long, 0), short)

        return add

    return decorate
