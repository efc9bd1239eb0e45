"""Compute the state of the values that one thread reads.

The thread holds runs of a few vectors in registers, and merges the states of these runs.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from numbanorm._math import scaled_difference, two_sum
from numbanorm.cuda.compiling import device
from numbanorm.cuda.kernels.squares import PRODUCTS, SQUARES, products_of_run, squares_of_run
from numbanorm.cuda.kernels.states import GRADIENT_SUMS, MOMENTS, GradientSums, Moments, states
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each, load, registers
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import number
from numbanorm.cuda.vectors.units import halved, scale_of, unit_for, whole


class Source(NamedTuple):
    """Hold device functions that say where values lie.

    They take a vector's place among those that its thread reads, and `geometry`, a tuple of integers.
    """

    address: Any  # (place, geometry): where in x
    counts: Any  # (place, geometry, mask): whether the vector counts
    position: Any = None  # (place, geometry): which of the N * L values of a channel, if that is asked for


@device
def always(place, geometry, mask):
    """Return True, for a `Source` of which every vector counts."""
    return True


@device
def _unweighted(values, weight):
    return values


@device
def _weighted(values, weight):
    return values * weight


@lru_cache(None)
def _moments_of_run(lanes, terms, weighted):
    """Make a device function that returns the moments of a run of vectors with weights.

    Vectors of weight 0 do not count. weighted: `_unweighted` where all other weights are 1, else `_weighted`.
    """

    @device
    def of_run(x, values, weights):
        count, base, peak = number(0.0, x, 1), number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            count += weights[k]
            base = select(weights[k] > 0.0, values[k], base)
            peak = larger(peak, abs(values[k]))
        unit = unit_for(peak)
        scale, share = scale_of(unit), 1.0 / select(count > 0.0, count, 1.0)
        base, mean = base * scale, number(0.0, x, lanes)
        for k in each(terms):
            mean += weighted(select(weights[k] > 0.0, values[k] * scale - base, 0.0), weights[k]) * share
        rest, m2 = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            e = select(weights[k] > 0.0, (values[k] * scale - base) - mean, 0.0)
            rest += weighted(e, weights[k]) * share
            m2 += weighted(e * e, weights[k])
        m2 += -rest * rest * count
        high, low = two_sum(base, mean)
        return Moments(count, high, low + rest, select(m2 < 0.0, 0.0, m2), number(0.0, x, lanes), unit)

    return of_run


@device
def _one(value, place, geometry, mask):
    return number(1.0, value, 1)


@lru_cache(None)
def summed_moments(lanes, terms, source, weight_of=None):
    """Make a device function that returns the moments of x at the places first, first + step, ... below end.

    The moments are of the type of `like`. weight_of: a device function of (value, place, geometry, mask), or None if
    all weights are 1. Vectors of weight 0 do not count.
    """
    of_run = _moments_of_run(lanes, terms, _weighted if weight_of else _unweighted)
    return _summed(MOMENTS, of_run, lanes, terms, source, weight_of or _one)


@lru_cache(None)
def summed_squares(lanes, terms, source):
    """Make a device function that returns the squares of x, with the arguments of `summed_moments`."""
    return _summed(SQUARES, squares_of_run(lanes, terms), lanes, terms, source, _one)


def _summed(kind, of_run, lanes, terms, source, weight_of):
    address, counts = source.address, source.counts
    nothing, merge = states(kind, lanes).nothing, kind.merge

    @device
    def sum_over(like, x, mask, first, end, step, geometry):
        state = nothing(like)
        values, weights = registers(like, lanes, terms), registers(like, 1, terms)
        start = first
        while start < end:
            for k in each(terms):
                place = start + k * step
                values[k], weights[k] = number(0.0, like, lanes), number(0.0, like, 1)
                if place < end and counts(place, geometry, mask):
                    value = number(load(x, address(place, geometry), lanes), like, lanes)
                    weights[k] = weight_of(value, place, geometry, mask)
                    values[k] = select(weights[k] > 0.0, value, 0.0)
            state = merge(state, of_run(like, values, weights))
            start += terms * step
        return state

    return sum_over


@lru_cache(None)
def _gradients_of_run(lanes, terms):
    """Make a device function that returns the gradient sums of a run of vectors.

    A vector counts if its number in `weights` is 1, and does not if it is 0.
    """

    @device
    def of_run(x, hs, gs, weights):
        count = number(0.0, x, 1)
        for k in each(terms):
            count += weights[k]
        share = 1.0 / select(count > 0.0, count, 1.0)
        mean_h, mean_g = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            mean_h += hs[k] * share
            mean_g += gs[k] * share
        low, c = number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            g = select(weights[k] > 0.0, gs[k] - mean_g, 0.0)
            low += g * share
            c += g * select(weights[k] > 0.0, hs[k] - mean_h, 0.0)
        return GradientSums(count, mean_h, mean_g, low, c, number(0.0, x, lanes))

    return of_run


@lru_cache(None)
def summed_gradients(lanes, terms, source, factor):
    """Make a device function that returns the gradient sums at the places first, first + step, ... below end.

    h = (x - m) * rstd and g = dy * factor(place, geometry, weight). The sums are of the type of `like`, which m and
    rstd have, too.
    """
    return _summed_pairs(GRADIENT_SUMS, _gradients_of_run(lanes, terms), halved, lanes, terms, source, factor)


@lru_cache(None)
def summed_products(lanes, terms, source, factor):
    """Make a device function that returns the products g * h, with the arguments of `summed_gradients`. m is 0."""
    return _summed_pairs(PRODUCTS, products_of_run(lanes, terms), whole, lanes, terms, source, factor)


def _summed_pairs(kind, of_run, scaled, lanes, terms, source, factor):
    address, counts = source.address, source.counts
    nothing, merge = states(kind, lanes).nothing, kind.merge

    @device
    def sum_over(like, dy, x, m, rstd, weight, mask, first, end, step, geometry):
        state, (scale, m, rstd) = nothing(like), scaled(m, rstd)
        hs, gs, weights = registers(like, lanes, terms), registers(like, lanes, terms), registers(like, 1, terms)
        start = first
        while start < end:
            for k in each(terms):
                place = start + k * step
                hs[k], gs[k], weights[k] = number(0.0, like, lanes), number(0.0, like, lanes), number(0.0, like, 1)
                if place < end and counts(place, geometry, mask):
                    where = address(place, geometry)
                    hs[k] = scaled_difference(number(load(x, where, lanes), like, lanes) * scale, m, rstd)
                    gs[k] = number(load(dy, where, lanes), like, lanes) * factor(place, geometry, weight)
                    weights[k] = number(1.0, like, 1)
            state = merge(state, of_run(like, hs, gs, weights))
            start += terms * step
        return state

    return sum_over
