"""Define states, which threads merge in pairs: the moments, gradient sums or extremes of any number of values.

A thread makes the states of runs of a few values, which it holds in registers, and merges these. Then the threads of a
block merge theirs through shared memory. So the order of all sums is fixed, and none needs a guess at the mean.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from numbanorm._math import merged_mean, merged_moments, merged_products, scaled_variance, share_of, two_sum
from numbanorm.cuda import cuda
from numbanorm.cuda.compiling import device
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import load, store
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import first_half, holds, number, second_half
from numbanorm.cuda.vectors.units import scale_for, scale_of

FIELDS = 6  # of each kind of state
SLOTS = 256  # threads of a block whose states are merged


class Moments(NamedTuple):
    """Hold the mean of some values, and M2, the sum of their squared differences from it.

    The mean is (mean + low) * unit, and M2 is (m2 + m2_low) * unit**2. Both have two parts, since float32 would lose
    digits where many values are added. The unit is a power of two near the largest magnitude. It keeps differences and
    squares within the range.
    """

    count: Any
    mean: Any
    low: Any
    m2: Any
    m2_low: Any
    unit: Any


class GradientSums(NamedTuple):
    """Hold the means of h and g, and the sum of (h - mean_h) * (g - mean_g).

    The mean of g is mean_g + low, and the sum is c + c_low.
    """

    count: Any
    mean_h: Any
    mean_g: Any
    low: Any
    c: Any
    c_low: Any


class Extremes(NamedTuple):
    """Hold the least and the greatest value. Three fields are unused, since every state has six."""

    count: Any
    least: Any
    greatest: Any
    unused_1: Any
    unused_2: Any
    unused_3: Any


class Kind(NamedTuple):
    """Describe a kind of state: the record that holds one, and the device function that merges two."""

    name: str
    record: type
    merge: Any


@device
def _scaled(moments, scale):
    """Return all fields but the unit, for the values times scale."""
    m2, m2_low = scaled_variance(moments.m2, scale), scaled_variance(moments.m2_low, scale)
    return moments.count, moments.mean * scale, moments.low * scale, m2, m2_low


@device
def merge_moments(a, b):
    """Return the moments of the values of both states, in the larger of both units. All terms of m2 are positive."""
    if holds(b.count <= 0.0):
        return a
    if holds(a.count <= 0.0):
        return b
    unit = larger(a.unit, b.unit)
    scale = scale_of(unit)
    count, mean, low, m2, m2_low = merged_moments(_scaled(a, a.unit * scale), _scaled(b, b.unit * scale))
    return Moments(count, mean, low, m2, m2_low, unit)


@device
def merge_gradients(a, b):
    """Return the sums of the pairs (h, g) of both states. They are merged as the moments are."""
    if holds(b.count <= 0.0):
        return a
    if holds(a.count <= 0.0):
        return b
    share = share_of(a.count, b.count)
    h_apart, g_apart = b.mean_h - a.mean_h, (b.mean_g - a.mean_g) + (b.low - a.low)
    c, c_low = merged_products(a.c, a.c_low, b.c, b.c_low, h_apart * g_apart * (a.count * share))
    mean_g, low = merged_mean(a.mean_g, a.low, g_apart, share)
    return GradientSums(a.count + b.count, a.mean_h + h_apart * share, mean_g, low, c, c_low)


@device
def merge_extremes(a, b):
    """Return the extremes of the values of both states."""
    if holds(b.count <= 0.0):
        return a
    if holds(a.count <= 0.0):
        return b
    least = select(b.least < a.least, b.least, a.least)
    greatest = larger(a.greatest, b.greatest)
    return Extremes(a.count + b.count, least, greatest, b.unused_3, b.unused_3, b.unused_3)


MOMENTS = Kind("moments", Moments, merge_moments)
GRADIENT_SUMS = Kind("gradient sums", GradientSums, merge_gradients)
EXTREMES = Kind("extremes", Extremes, merge_extremes)


@device
def finished(moments, eps):
    """Return m, delta, var and scale. The values times scale have the mean m + delta and the variance var.

    m is the rounded mean. If there are no values, m is NaN.
    """
    scale = scale_for(moments.unit, eps)
    ratio = moments.unit * scale
    m, delta = two_sum(moments.mean * ratio, moments.low * ratio)
    var = scaled_variance((moments.m2 + moments.m2_low) / moments.count, ratio)
    return select(moments.count > 0.0, m, var), delta, var, scale


class States(NamedTuple):
    """Hold device functions on states of one kind.

    The fields of a state, except the count, are vectors of so many lanes.
    """

    nothing: Any  # (like): the state of no values, of the type of `like`
    load: Any  # (run, index, step): a state from numbers `step` places apart
    store: Any  # (run, index, step, state): a state to numbers `step` places apart
    of_all_lanes: Any  # (state): the state, of one lane, of the values in all lanes
    of_threads: Any  # (room, state, index, threads, stride, slot): see below


@lru_cache(None)
def states(kind, lanes):
    """Make the `States` of a kind, for vectors of 1, 2 or 4 lanes."""
    record, merge = kind.record, kind.merge

    @device
    def nothing(like):
        zero = number(0.0, like, lanes)
        return record(number(0.0, like, 1), zero, zero, zero, zero, zero)

    @device
    def load_state(run, index, step):
        count = load(run, index, 1)
        a, b = load(run, index + step, lanes), load(run, index + 2 * step, lanes)
        c, d = load(run, index + 3 * step, lanes), load(run, index + 4 * step, lanes)
        return record(count, a, b, c, d, load(run, index + 5 * step, lanes))

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
        first = record(count, first_half(a), first_half(b), first_half(c), first_half(d), first_half(e))
        second = record(count, second_half(a), second_half(b), second_half(c), second_half(d), second_half(e))
        return merge(first, second)

    @device
    def of_four(state):
        return of_two(of_two(state))

    @device
    def of_threads(room, state, index, threads, stride, slot):
        """Return to the thread of index 0 the state of the values of all `threads`, a power of two.

        The slots of these threads in shared memory lie `stride` apart. Nobody writes where another has read, so one
        barrier a step is enough.
        """
        half = threads // 2
        while half > 0:
            if half <= index < 2 * half:
                store_state(room, slot * lanes, SLOTS * lanes, state)
            cuda.syncthreads()
            if index < half:
                state = merge(state, load_state(room, (slot + half * stride) * lanes, SLOTS * lanes))
            half //= 2
        return state

    return States(nothing, load_state, store_state, {1: of_one, 2: of_two, 4: of_four}[lanes], of_threads)
