"""Loops over runs of memory, a vector at a time, from a body that is written for one vector."""

from numbanorm.cpu.compiling.jit import compact, loop
from numbanorm.cpu.vectors.simd import (
    across,
    add_to,
    at,
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
from numbanorm.cpu.vectors.streaming import STREAMABLE, before_a_line

TERMS = 16  # values of x's dtype to an accumulator, before it is added to one of float64
TOGETHER = 4  # lines to add up in registers, before memory is added to; a divisor of TERMS
LINES_AHEAD = 2 * TOGETHER  # to fetch, of lines from memory: the processor does not foresee so many


def elementwise(body):
    """``run(streams, size, y, *operands)``: body(j, y, *operands) at every index of a run; y streams if asked to."""
    body = loop(body)

    @elementwise_with_state
    def run_with_state(j, y, state, *operands):
        body(j, y, *operands)
        return state

    @loop
    def run(streams, size, y, *operands):
        run_with_state(streams, size, y, 0, *operands)

    return run


def elementwise_with_state(body):
    """``run(streams, size, y, state, *operands)``: state = body(j, y, state, *operands) at every index of a run."""
    body = loop(body)

    @loop
    def run(streams, size, y, state, *operands):
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
                state = body(stream(y, j, 0, step), y, state, *operands)
        else:
            for j in range(first, end, step):
                state = body(whole(y, j, 0, step), y, state, *operands)
        if first > 0 or end < size:
            for start, skip, count in ((first - step, step - first, step), (end, 0, size - end)):
                if skip < count:
                    state = body(part(y, start, skip, count), y, state, *operands)
        return state

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


def summing(count, wide=False, lanes_apart=False):
    """``sums(size, x, *operands)``: the float64 sums of each of `count` terms(j, x, *operands) over a run.

    With `wide`, the terms are float64 too. With `lanes_apart`, a sum is left as a vector of the sums of each lane.
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
            return total if lanes_apart else across(total)

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


def adding_lines(count, wide=False):
    """``add(long, short, lines, width, x, *operands)``: add up terms(j, k, x, *operands) over lines k, at every j.

    long and short are zero arrays (count, width + LANES) of float64 and of the terms' dtype, which is x's, or float64
    with `wide`; the sums end in long.
    """
    zeros = wide_zeros if wide else narrow_zeros

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
                    j, added = whole(x, start, 0, step), zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(j, k, x, *operands))
                    add_to(short, stride, j, added)
                if end < width:
                    rest, added = part(x, end, 0, width - end), zeros(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(rest, k, x, *operands))
                    add_to(short, stride, rest, added)
                if last % TERMS == 0 or last == lines:
                    _move_sums(count * stride, pointer(long, 0), short)

        return add

    return decorate
