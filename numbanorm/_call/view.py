"""How kernels see arrays: as (outer, middle, inner) in C order, whatever their axes are and however they lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np

from numbanorm._types import Array, Shape


class Axes(NamedTuple):
    """What each axis of x is for. One axis may be in two of these: a channel axis has statistics and parameters.

    These sets alone decide how kernels see x. Each way to normalise has a constructor. One for groups of channels, with
    x as (samples, groups, channels of a group, positions), would reduce the last two axes, and have statistics along
    the first two and parameters along the middle two. `_kernel_shapes` refuses these until it has a case for them.
    """

    reduced: Shape  # values along these share a mean and a variance
    statistic: Shape  # the axes of arrays of statistics
    parameter: Shape  # the axes of weight and bias

    @classmethod
    def over(cls, axes: Shape, ndim: int) -> Self:
        """Normalise over `axes`, ascending. These are the axes of weight and bias, too."""
        return cls(axes, _all_but(axes, ndim), axes)

    @classmethod
    def channels(cls, axis: int, ndim: int) -> Self:
        """Normalise each channel along `axis` over all other axes."""
        return cls(_all_but((axis,), ndim), (axis,), (axis,))


def _all_but(axes: Shape, ndim: int) -> Shape:
    return tuple(i for i in range(ndim) if i not in axes)


class Planes(NamedTuple):
    """The sizes of x as kernels see it."""

    outer: int
    middle: int  # how many values a parameter has
    inner: int


@dataclass(slots=True)
class View:
    """How kernels see arrays of one shape and layout as (outer, middle, inner).

    The middle runs over the parameter axes. The outer and the inner plane run over the axes before and after these in
    memory. An array whose axes lie densely in memory, in whatever order, and whose parameter axes are neighbours there,
    is seen without a copy; others are copied once. Calls share views, so nothing in a view changes.
    """

    axes: Axes
    planes: Planes
    storage: np.dtype[Any]  # of x and of what has its shape, in native byte order
    arithmetic: np.dtype[Any]  # of statistics, parameters and their gradients
    shape: Shape  # of x
    statistic_shape: Shape  # of statistics as callers have them
    parameter_shape: Shape  # of weight and bias as callers have them
    order: Shape | None  # the axes of x as they follow in (outer, middle, inner); None: as they are
    statistic_order: Shape | None  # the same of the axes of statistics
    parameter_order: Shape | None  # the same of the axes of parameters
    kernel_shape: Shape  # of x as kernels take it: `planes`, or without an inner axis of 1
    kernel_statistic_shape: Shape  # of statistics as kernels take them
    count: int  # how many values share a mean and a variance

    @classmethod
    def of(cls, layout: "Layout", axes: Axes) -> Self:
        """See arrays of a layout with their parameter axes in the middle."""
        shape, strides, is_c, dtype = layout
        middle = axes.parameter
        order, (first, end) = (None, (middle[0], middle[-1] + 1))
        if not (is_c and end - first == len(middle)):
            order, first = _order_in_memory(strides, middle)
            end = first + len(middle)
        sizes = shape if order is None else tuple(shape[i] for i in order)
        planes = Planes(prod(sizes[:first]), prod(sizes[first:end]), prod(sizes[end:]))
        native = dtype if dtype.isnative else dtype.newbyteorder("=")
        statistic_shape, statistic_order = _statistics(shape, axes, order)
        return cls(
            axes,
            planes,
            native,
            native,
            shape,
            statistic_shape,
            tuple(shape[i] for i in middle),
            order,
            statistic_order,
            None if order is None else reordered(middle, order),
            *_kernel_shapes(planes, axes),
            prod(shape[i] for i in axes.reduced),
        )


def _statistics(shape: Shape, axes: Axes, order: Shape | None) -> tuple[Shape, Shape | None]:
    """Return the shape of statistics as callers have them, and the order of its axes in memory.

    Where x is normalised over its parameter axes, statistics keep these as axes of 1, and broadcast to x.
    """
    if axes.reduced == axes.parameter:
        return tuple(n if i in axes.statistic else 1 for i, n in enumerate(shape)), order
    found = () if order is None else reordered(axes.statistic, order)
    return tuple(shape[i] for i in axes.statistic), None if found == tuple(range(len(found))) else found


def _kernel_shapes(planes: Planes, axes: Axes) -> tuple[Shape, Shape]:
    """Return the shapes of x and of statistics as kernels take them."""
    whole = tuple(planes)  # NumPy takes a plain tuple 0.2 us sooner than a named one
    if axes.statistic == axes.parameter:
        return whole, (planes.middle,)
    if axes.reduced != axes.parameter:
        raise ValueError(f"axes: {axes}, the parameter axes must be the statistic or the reduced ones")
    if planes.inner == 1:
        return planes[:2], planes[:1]
    return whole, (planes.outer, planes.inner)


class Layout(NamedTuple):
    """The properties of an array that its view depends on."""

    shape: Shape
    strides: Shape
    is_c: bool  # whether the array is in C order
    dtype: np.dtype[Any]


def layout_of(x: Array) -> Layout:
    """Return the layout of an array."""
    return Layout(x.shape, x.strides, x.flags.c_contiguous, x.dtype)


def _order_in_memory(strides: Shape, axes: Shape) -> tuple[Shape, int]:
    """Return the axes from the longest step to the shortest, with `axes` together, and the place where these begin."""
    order = sorted(range(len(strides)), key=lambda i: -abs(strides[i]))
    first = min(order.index(i) for i in axes)
    if {*order[first : first + len(axes)]} != {*axes}:
        order = [i for i in order if i not in axes] + [i for i in order if i in axes]
        first = len(strides) - len(axes)
    return tuple(order), first


@lru_cache(1 << 10)
def dense_strides(shape: Shape, order: Shape | None, itemsize: int) -> Shape:
    """Return the strides of an array whose values follow each other in memory, with its axes in this order."""
    strides, step = [0] * len(shape), itemsize
    for i in reversed(order or range(len(shape))):
        strides[i] = step
        step *= shape[i]
    return tuple(strides)


def reordered(axes: Shape, order: Shape) -> Shape:
    """Return the places in `axes` of these axes, as they follow each other in the order of all axes."""
    return tuple(axes.index(i) for i in order if i in axes)


def positions(a: Array, channel_axis: int) -> Array:
    """Return a view of an array with its channels last."""
    return np.moveaxis(a, channel_axis, -1)


def blocks(a: Array, most: int) -> Iterator[tuple[slice, ...]]:
    """Yield indices that cut an array into blocks of at most so many values, along the axes of the longest steps."""
    order = sorted(range(a.ndim), key=lambda i: -abs(a.strides[i]))
    yield from _halved(tuple(slice(0, n) for n in a.shape), order, max(1, most))


def _halved(block: tuple[slice, ...], order: list[int], most: int) -> Iterator[tuple[slice, ...]]:
    sizes = [side.stop - side.start for side in block]
    if prod(sizes) <= most:
        yield block
        return
    longest = next(i for i in order if sizes[i] > 1)
    start, stop = block[longest].start, block[longest].stop
    middle = start + sizes[longest] // 2
    for half in (slice(start, middle), slice(middle, stop)):
        yield from _halved((*block[:longest], half, *block[longest + 1 :]), order, most)
