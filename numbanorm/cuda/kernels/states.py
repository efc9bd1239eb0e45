"""Mean and variance of any number of values, and the same of two kinds of values together, by merging.

A *state* is (count, mean, low, m2, m2_low, unit) of some values: their mean is (mean + low) * unit, the sum of the
squares of what they differ from it (m2 + m2_low) * unit**2. States of disjoint values merge into that of all of them
[1]_, all terms of m2 being positive: no guess at the mean is needed, and none can be bad. Sums and means are kept in
two parts, since float32 sums over many values would lose digits. The unit, a power of two near the largest magnitude,
keeps differences and squares within the range. Threads make states of runs of a few values, which they hold in
registers, and merge these.

A *gradient state* is (count, mean_h, mean_g, low, c, c_low): the means of h and of g, and the sum of the products of
what they differ from them.

.. [1] Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
"""

from functools import lru_cache
from typing import NamedTuple

from numbanorm._math import scaled_difference, two_sum
from numbanorm.cuda import cuda
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.memory import each, load, registers, store
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import first_half, holds, number, second_half, select
from numbanorm.cuda.vectors.units import halved, scale_for, scale_of, unit_for

FIELDS = 6  # of a state
SLOTS = 256  # threads of a block whose states are merged


@device
def merge(a, b):
    """The state of the values of two."""
    count_a, mean_a, low_a, m2_a, m2_low_a, unit_a = a
    count_b, mean_b, low_b, m2_b, m2_low_b, unit_b = b
    if holds(count_b <= 0.0):
        return a
    if holds(count_a <= 0.0):
        return b
    share = count_b / (count_a + count_b)
    unit = larger(unit_a, unit_b)
    scale = scale_of(unit)
    own_a, own_b = unit_a * scale, unit_b * scale
    mean_a, low_a, mean_b, low_b = mean_a * own_a, low_a * own_a, mean_b * own_b, low_b * own_b
    apart = (mean_b - mean_a) + (low_b - low_a)
    m2, lost = two_sum(m2_a * own_a * own_a, m2_b * own_b * own_b)
    m2, lost_too = two_sum(m2, apart * apart * (count_a * share))
    m2_low = m2_low_a * own_a * own_a + m2_low_b * own_b * own_b + (lost + lost_too)
    mean, rest = two_sum(mean_a, apart * share)
    mean, low = two_sum(mean, low_a + rest)
    return count_a + count_b, mean, low, m2, m2_low, unit


@device
def merge_gradients(a, b):
    """The gradient state of the values of two."""
    count_a, h_a, g_a, low_a, c_a, c_low_a = a
    count_b, h_b, g_b, low_b, c_b, c_low_b = b
    if holds(count_b <= 0.0):
        return a
    if holds(count_a <= 0.0):
        return b
    share = count_b / (count_a + count_b)
    h_apart, g_apart = h_b - h_a, (g_b - g_a) + (low_b - low_a)
    c, lost = two_sum(c_a, c_b)
    c, lost_too = two_sum(c, h_apart * g_apart * (count_a * share))
    mean_g, rest = two_sum(g_a, g_apart * share)
    mean_g, low = two_sum(mean_g, low_a + rest)
    return count_a + count_b, h_a + h_apart * share, mean_g, low, c, c_low_a + c_low_b + (lost + lost_too)


@device
def finished(state, eps):
    """m, delta, var and scale, of the values times scale: the mean, rounded, what rounding took, and the variance."""
    count, mean, low, m2, m2_low, unit = state
    scale = scale_for(unit, eps)
    own = unit * scale
    m, delta = two_sum(mean * own, low * own)
    var = (m2 + m2_low) / count * own * own
    return select(count > 0.0, m, var), delta, var, scale  # of no value: NaN


class States(NamedTuple):
    """Device functions on states of vectors of so many lanes; `merged` is `merge` or `merge_gradients`."""

    nothing: object  # (like): the state of no value
    load: object  # (run, index, step): from numbers `step` apart
    store: object  # (run, index, step, state)
    of_all_lanes: object  # (state): of one lane
    of_threads: object  # (room, state, own, threads, apart, slot): see below


@lru_cache(None)
def states(merged, lanes):
    """For vectors of 1, 2 or 4 lanes."""

    @device
    def nothing(like):
        zero = number(0.0, like, lanes)
        return number(0.0, like, 1), zero, zero, zero, zero, zero

    @device
    def load_state(run, index, step):
        count = load(run, index, 1)
        a, b = load(run, index + step, lanes), load(run, index + 2 * step, lanes)
        c, d = load(run, index + 3 * step, lanes), load(run, index + 4 * step, lanes)
        return count, a, b, c, d, load(run, index + 5 * step, lanes)

    @device
    def store_state(run, index, step, state):
        count, a, b, c, d, e = state
        store(run, index, number(count, a, lanes))
        store(run, index + step, a)
        store(run, index + 2 * step, b)
        store(run, index + 3 * step, c)
        store(run, index + 4 * step, d)
        store(run, index + 5 * step, e)

    @device
    def of_one(state):
        return state

    @device
    def of_two(state):
        count, a, b, c, d, e = state
        first = count, first_half(a), first_half(b), first_half(c), first_half(d), first_half(e)
        second = count, second_half(a), second_half(b), second_half(c), second_half(d), second_half(e)
        return merged(first, second)

    @device
    def of_four(state):
        return of_two(of_two(state))

    @device
    def of_threads(room, state, own, threads, apart, slot):
        """For the first of so many threads, a power of two, whose slots in shared memory lie `apart`: the state of the
        values of all of them. As nobody writes where another has read, one barrier a step is enough.
        """
        half = threads // 2
        while half > 0:
            if half <= own < 2 * half:
                store_state(room, slot * lanes, SLOTS * lanes, state)
            cuda.syncthreads()
            if own < half:
                state = merged(state, load_state(room, (slot + half * apart) * lanes, SLOTS * lanes))
            half //= 2
        return state

    return States(nothing, load_state, store_state, {1: of_one, 2: of_two, 4: of_four}[lanes], of_threads)


class Source(NamedTuple):
    """Device functions that say where values lie; they get the place of a vector among those of a thread's share, and
    `geometry`, a tuple of integers.
    """

    address: object  # (place, geometry): in x
    weighs: object  # (place, geometry, mask): whether the vector counts
    position: object = None  # (place, geometry): among the N * L of a channel, if that is asked for


@device
def always(place, geometry, mask):
    """Of a `Source` of which every vector counts."""
    return True


@device
def _once(values, weight):
    return values


@device
def _times(values, weight):
    return values * weight


@lru_cache(None)
def _moments_of_run(lanes, terms, weighed):
    """A device function: the state of a run of vectors with weights `keep`, of which those of weight 0 are 0 and do not
    count.

    weighed: `_once` where all others are 1, else `_times`.
    """

    @device
    def of_run(x, values, keep):
        count, base, peak = number(0.0, x, 1), number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            count += keep[k]
            base = select(keep[k] > 0.0, values[k], base)
            peak = larger(peak, abs(values[k]))
        unit = unit_for(peak)
        scale, share = scale_of(unit), 1.0 / select(count > 0.0, count, 1.0)
        base, mean = base * scale, number(0.0, x, lanes)
        for k in each(terms):
            mean += weighed(select(keep[k] > 0.0, values[k] * scale - base, 0.0), keep[k]) * share
        rest, m2 = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            e = select(keep[k] > 0.0, (values[k] * scale - base) - mean, 0.0)
            rest += weighed(e, keep[k]) * share
            m2 += weighed(e * e, keep[k])
        m2 += -rest * rest * count
        high, low = two_sum(base, mean)
        return count, high, low + rest, select(m2 < 0.0, 0.0, m2), number(0.0, x, lanes), unit

    return of_run


@device
def _one(value, place, geometry, mask):
    return number(1.0, value, 1)


@lru_cache(None)
def summed_moments(lanes, terms, source, weight_of=None):
    """A device function: the state, of the type of `like`, of x at places first, first + step and so on up to end.

    weight_of: a device function of (value, place, geometry, mask); vectors of weight 0 do not count. None: all are 1.
    """
    address, weighs = source.address, source.weighs
    of_run = _moments_of_run(lanes, terms, _times if weight_of else _once)
    nothing, weight_of = states(merge, lanes).nothing, weight_of or _one

    @device
    def sum_over(like, x, mask, first, end, step, geometry):
        state = nothing(like)
        values, keep = registers(like, lanes, terms), registers(like, 1, terms)
        place = first
        while place < end:
            for k in each(terms):
                own = place + k * step
                values[k], keep[k] = number(0.0, like, lanes), number(0.0, like, 1)
                if own < end and weighs(own, geometry, mask):
                    value = number(load(x, address(own, geometry), lanes), like, lanes)
                    keep[k] = weight_of(value, own, geometry, mask)
                    values[k] = select(keep[k] > 0.0, value, 0.0)
            state = merge(state, of_run(like, values, keep))
            place += terms * step
        return state

    return sum_over


@lru_cache(None)
def _gradients_of_run(lanes, terms):
    """A device function: the gradient state of a run of vectors, of which those count whose `keep` is 1, not 0."""

    @device
    def of_run(x, hs, gs, keep):
        count = number(0.0, x, 1)
        for k in each(terms):
            count += keep[k]
        share = 1.0 / select(count > 0.0, count, 1.0)
        mean_h, mean_g = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            mean_h += hs[k] * share
            mean_g += gs[k] * share
        low, c = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            g = select(keep[k] > 0.0, gs[k] - mean_g, 0.0)
            low += g * share
            c += g * select(keep[k] > 0.0, hs[k] - mean_h, 0.0)
        return count, mean_h, mean_g, low, c, number(0.0, x, lanes)

    return of_run


@lru_cache(None)
def summed_gradients(lanes, terms, source, factor):
    """A device function: the gradient state, of the type of m and rstd, of h = (x - m) * rstd and
    g = dy * factor(place, geometry, weight), at places first, first + step and so on up to end.
    """
    address, weighs = source.address, source.weighs
    of_run, nothing = _gradients_of_run(lanes, terms), states(merge_gradients, lanes).nothing

    @device
    def sum_over(like, dy, x, m, rstd, weight, mask, first, end, step, geometry):
        state, (scale, m, rstd) = nothing(like), halved(m, rstd)
        hs, gs, keep = registers(like, lanes, terms), registers(like, lanes, terms), registers(like, 1, terms)
        place = first
        while place < end:
            for k in each(terms):
                own = place + k * step
                hs[k], gs[k], keep[k] = number(0.0, like, lanes), number(0.0, like, lanes), number(0.0, like, 1)
                if own < end and weighs(own, geometry, mask):
                    where = address(own, geometry)
                    hs[k] = scaled_difference(number(load(x, where, lanes), like, lanes) * scale, m, rstd)
                    gs[k] = number(load(dy, where, lanes), like, lanes) * factor(own, geometry, weight)
                    keep[k] = number(1.0, like, 1)
            state = merge_gradients(state, of_run(like, hs, gs, keep))
            place += terms * step
        return state

    return sum_over
