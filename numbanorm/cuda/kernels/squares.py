"""Compute the states of RMS normalization: sums of squares, and of the products g * h, which threads merge in pairs.

They are what `Moments` and `GradientSums` are for layer normalization, with a mean that is taken for 0. All values that
do not count are 0 here, and so are their squares and products.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

from numbanorm._math import input_gradient_of_means, scaled_variance, two_sum
from numbanorm.cuda.compiling import device
from numbanorm.cuda.kernels.states import Kind
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each
from numbanorm.cuda.vectors.reduce import larger
from numbanorm.cuda.vectors.simd import holds, number
from numbanorm.cuda.vectors.units import scale_for, scale_of, unit_for


class Squares(NamedTuple):
    """Hold the sum of the squares of some values as (sum + low) * unit**2, with the unit of `Moments`."""

    count: Any
    sum: Any
    low: Any
    unit: Any
    unused_1: Any  # a state has six fields
    unused_2: Any


class Products(NamedTuple):
    """Hold the sum of g * h as sum + low."""

    count: Any
    sum: Any
    low: Any
    unused_1: Any
    unused_2: Any
    unused_3: Any


@device
def _added(sum_a, low_a, sum_b, low_b):
    """Add two numbers of two parts each. The rounding error of an infinite sum is NaN, so it is left out."""
    total, lost = two_sum(sum_a, sum_b)
    return total, low_a + low_b + select(abs(total) < math.inf, lost, 0.0)


@device
def merge_squares(a, b):
    """Return the squares of the values of both states, in the larger of both units."""
    if holds(b.count <= 0.0):
        return a
    if holds(a.count <= 0.0):
        return b
    unit = larger(a.unit, b.unit)
    scale = scale_of(unit)
    scale_a, scale_b = a.unit * scale, b.unit * scale
    sum_a, low_a = scaled_variance(a.sum, scale_a), scaled_variance(a.low, scale_a)
    sum_b, low_b = scaled_variance(b.sum, scale_b), scaled_variance(b.low, scale_b)
    total, low = _added(sum_a, low_a, sum_b, low_b)
    return Squares(a.count + b.count, total, low, unit, a.unused_1, a.unused_2)


@device
def merge_products(a, b):
    """Return the products of both states."""
    total, low = _added(a.sum, a.low, b.sum, b.low)
    return Products(a.count + b.count, total, low, a.unused_1, a.unused_2, a.unused_3)


SQUARES = Kind("squares", Squares, merge_squares)
PRODUCTS = Kind("products", Products, merge_products)


@lru_cache(None)
def squares_of_run(lanes, terms):
    """Make a device function that returns the squares of a run of vectors.

    Each vector has a weight of 1, or of 0 if it does not count.
    """

    @device
    def of_run(x, values, weights):
        count, peak, zero = number(0.0, x, 1), number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            count += weights[k]
            peak = larger(peak, abs(values[k]))
        unit, total = unit_for(peak), number(0.0, x, lanes)
        scale = scale_of(unit)
        for k in each(terms):
            value = values[k] * scale
            total += value * value
        return Squares(count, total, zero, unit, zero, zero)

    return of_run


@lru_cache(None)
def products_of_run(lanes, terms):
    """Make a device function that returns the products of a run of vectors, with weights as in `squares_of_run`."""

    @device
    def of_run(x, hs, gs, weights):
        count, total, zero = number(0.0, x, 1), number(0.0, x, lanes), number(0.0, x, lanes)
        for k in each(terms):
            count += weights[k]
            total += hs[k] * gs[k]
        return Products(count, total, zero, zero, zero, zero)

    return of_run


@device
def finished_squares(squares, eps):
    """Return what `finished` returns: here m and delta are 0, and the variance is the mean square."""
    scale, zero = scale_for(squares.unit, eps), number(0.0, squares.sum, squares.sum)
    mean_square = (squares.sum + squares.low) / squares.count
    return zero, zero, scaled_variance(mean_square, squares.unit * scale), scale


@device
def terms_of_products(products, rstd):
    """Return what `terms_of_gradient_sums` returns: here all but the slope is 0."""
    mean_g_x_hat, zero = (products.sum + products.low) / products.count, number(0.0, rstd, rstd)
    slope, _ = input_gradient_of_means(0.0, 0.0, mean_g_x_hat, rstd)
    return zero, slope, zero, zero
