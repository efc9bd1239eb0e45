"""How kernels see arrays: as (outer, middle, inner) in C order, whatever their axes are and however they lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, Self

import numpy as np

from numbanorm._types import Array, Shape


class Axes(NamedTuple):
    """What the axes of x are for. An axis may be in two of these: a channel axis has statistics and parameters."""

    reduced: Shape  # values along these share a mean and a variance
    statistic: Shape  # the axes of arrays of statistics
    parameter: Shape  # the axes of weight and bias


@dataclass(slots=True)
class View:
    """How arrays of one shape and layout are seen as (outer, middle, inner).

    The middle runs over the parameter axes, the others over what lies before and after these in memory. An array whose
    axes lie densely in memory, in whatever order, is seen so without a copy; others are copied once. Calls share views:
    nothing in one changes.
    """

    axes: Axes
    planes: tuple[int, int, int]  # outer, middle, inner
    storage: np.dtype[Any]  # of x and of what has its shape, in native byte order
    arithmetic: np.dtype[Any]  # of statistics, parameters and their gradients
    shape: Shape  # of x
    statistic_shape: Shape  # of statistics as callers have them
    parameter_shape: Shape  # of weight and bias as callers have them
    order: Shape | None  # the axes of x as they follow in (outer, middle, inner); None: as they are
    parameter_order: Shape | None  # the same of the parameter axes alone
    kernel_shape: Shape  # of x as kernels take it: `planes`, or without an inner axis of 1
    kernel_statistic_shape: Shape  # of statistics as kernels take them
    count: int  # how many values share a mean and a variance

    @classmethod
    def of(cls, layout: "Layout", axes: Shape, per_channel: bool) -> Self:
        """Of arrays of a layout with `axes`, ascending, in the middle.

        They are normalised over these axes or, `per_channel`, over all others.
        """
        shape, strides, is_c, dtype = layout
        others = tuple(i for i in range(len(shape)) if i not in axes)
        order, (first, end) = (None, (axes[0], axes[-1] + 1))
        if not (is_c and end - first == len(axes)):
            order, first = _order_in_memory(strides, axes)
            end = first + len(axes)
        sizes = shape if order is None else tuple(shape[i] for i in order)
        outer, middle, inner = planes = prod(sizes[:first]), prod(sizes[first:end]), prod(sizes[end:])
        parameter_shape = tuple(shape[i] for i in axes)
        kernel_shape: Shape
        kernel_statistic_shape: Shape
        if per_channel:
            statistic_shape, kernel_shape, kernel_statistic_shape = parameter_shape, planes, (middle,)
        else:
            statistic_shape = tuple(1 if i in axes else n for i, n in enumerate(shape))
            kernel_shape, kernel_statistic_shape = (
                ((outer, middle), (outer,)) if inner == 1 else (planes, (outer, inner))
            )
        native = dtype if dtype.isnative else dtype.newbyteorder("=")
        return cls(
            Axes(others, axes, axes) if per_channel else Axes(axes, others, axes),
            planes,
            native,
            native,
            shape,
            statistic_shape,
            parameter_shape,
            order,
            None if order is None else reordered(axes, order),
            kernel_shape,
            kernel_statistic_shape,
            outer * inner if per_channel else middle,
        )

    @property
    def middle(self) -> int:
        """How many values a parameter has."""
        return self.planes[1]


class Layout(NamedTuple):
    """What a view depends on."""

    shape: Shape
    strides: Shape
    is_c: bool  # whether the array is in C order
    dtype: np.dtype[Any]


def layout_of(x: Array) -> Layout:
    """That of an array."""
    return Layout(x.shape, x.strides, x.flags.c_contiguous, x.dtype)


def _order_in_memory(strides: Shape, axes: Shape) -> tuple[Shape, int]:
    """The axes from the longest step to the shortest, `axes` together, and where these begin."""
    order = sorted(range(len(strides)), key=lambda i: -abs(strides[i]))
    first = min(order.index(i) for i in axes)
    if {*order[first : first + len(axes)]} != {*axes}:
        order = [i for i in order if i not in axes] + [i for i in order if i in axes]
        first = len(strides) - len(axes)
    return tuple(order), first


@lru_cache(1 << 10)
def dense_strides(shape: Shape, order: Shape | None, itemsize: int) -> Shape:
    """Those of an array whose values follow each other in memory, with its axes in this order."""
    strides, step = [0] * len(shape), itemsize
    for i in reversed(order or range(len(shape))):
        strides[i] = step
        step *= shape[i]
    return tuple(strides)


def reordered(axes: Shape, order: Shape) -> Shape:
    """Where in `axes` those axes stand as they follow each other in the order of all."""
    return tuple(axes.index(i) for i in order if i in axes)


def positions(a: Array, channel_axis: int) -> Array:
    """A view with the channels last."""
    return np.moveaxis(a, channel_axis, -1)


def blocks(a: Array, most: int) -> Iterator[tuple[slice, ...]]:
    """Indices that cut an array into blocks of up to so many values, along the axes whose steps in memory are long."""
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
