"""Loop over runs of memory, a vector at a time. The body of a loop is a function that is written for one vector."""

from numbanorm.cpu.compiling.jit import compact, loop
from numbanorm.cpu.vectors.arithmetic import across, every, float64_zeros, plus, zeros
from numbanorm.cpu.vectors.simd import add_to, at, lanes, part, pointer, put, stream, whole
from numbanorm.cpu.vectors.streaming import STREAMABLE, before_a_line

TERMS = 16  # how many values of x's dtype a lane adds up, before their sum is added to one of float64
TOGETHER = 4  # how many lines are added up in registers, before their sum is added to memory; a divisor of TERMS
LINES_AHEAD = 2 * TOGETHER  # lines to prefetch from memory: the processor does not foresee so many


def elementwise(body):
    """Make ``run(streams, size, y, *operands)``, which calls body(j, y, *operands) at every index of a run.

    With `streams`, y is streamed.
    """
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
    """Make ``run(streams, size, y, state, *operands)``, as `elementwise` does, of a body that returns a state.

    It does state = body(j, y, state, *operands) at every index, and returns the last state.
    """
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
    """Make ``run(size, y, *operands)``, which calls body(j, y, *operands) at every index of a run."""
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


def summing(count, in_float64=False, by_lane=False):
    """Make ``sums(size, x, *operands)``, which adds up terms(j, x, *operands), a tuple of `count` vectors, over a run.

    The sums are float64. With `in_float64`, the terms are, too. With `by_lane`, a sum is a vector of sums of lanes.
    """
    zero_terms = float64_zeros if in_float64 else zeros

    def decorate(terms):
        terms = loop(terms)

        @loop
        def sums(size, x, *operands):
            compact()
            step = lanes(x)
            total = float64_zeros(x, count)
            for start in range(0, size, 2 * TERMS * step):
                end = min(start + 2 * TERMS * step, size)
                pairs = start + (end - start) // (2 * step) * (2 * step)
                even, odd = zero_terms(x, count), zero_terms(x, count)
                for j in range(start, pairs, 2 * step):
                    even = plus(even, None, terms(whole(x, j, 0, step), x, *operands))
                    odd = plus(odd, None, terms(whole(x, j + step, 0, step), x, *operands))
                for j in range(pairs, end, step):
                    last = part(x, j, 0, end - j)
                    even = plus(even, last, terms(last, x, *operands))
                total = plus(total, None, plus(even, None, odd))
            return total if by_lane else across(total)

        return sums

    return decorate


def checking(condition):
    """Make ``holds(size, x, *operands)``.

    It returns whether condition(j, x, *operands) is true at every index of a run.
    """
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
def _move_sums(j, long_sums, short_sums):
    """Add sums to those of float64, and set them to 0."""
    put(long_sums, j, at(long_sums, j) + at(short_sums, j))
    put(short_sums, j, at(0.0, j))


def adding_lines(count, in_float64=False):
    """Make ``add(long_sums, short_sums, lines, width, x, *operands)``.

    It adds up terms(j, k, x, *operands), a tuple of `count` vectors, over lines k, at every index j of a line. The sums
    are in long_sums at the end. Both arrays of sums are (count, width + LANES) and 0 before. long_sums is float64;
    short_sums has the dtype of the terms, which is float64 with `in_float64`, or else x's.
    """
    zero_terms = float64_zeros if in_float64 else zeros

    def decorate(terms):
        terms = loop(terms)

        @loop
        def add(long_sums, short_sums, lines, width, x, *operands):
            compact()
            step, stride = lanes(x), long_sums.shape[1]
            end = width // step * step
            for first in range(0, lines, TOGETHER):
                last = min(first + TOGETHER, lines)
                for start in range(0, end, step):
                    j, added = whole(x, start, 0, step), zero_terms(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(j, k, x, *operands))
                    add_to(short_sums, stride, j, added)
                if end < width:
                    rest, added = part(x, end, 0, width - end), zero_terms(x, count)
                    for k in range(first, last):
                        added = plus(added, None, terms(rest, k, x, *operands))
                    add_to(short_sums, stride, rest, added)
                if last % TERMS == 0 or last == lines:
                    _move_sums(count * stride, pointer(long_sums, 0), short_sums)

        return add

    return decorate
