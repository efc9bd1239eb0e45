"""From the caller's arrays to what the kernels take, and back.

Kernels take C-ordered (outer, own, inner) arrays: own runs over the normalised axes, outer and inner over the
others. An array whose axes lie densely in memory, in whatever order, is seen so without a copy; others are copied once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from numbanorm._call import arguments, recycling
from numbanorm._types import Array, Shape

_SHORT = 1 << 16  # values: longer numbers in place of a parameter are not kept


@dataclass(slots=True)
class Split:
    """How arrays of x's shape are seen as (outer, own, inner). Calls share it: it is not to be changed."""

    outer: int
    own: int
    inner: int
    planes: Shape  # (outer, own, inner)
    rows: Shape  # (outer, own) if inner is 1, else `planes`
    reduced: Shape  # `rows` without own
    dtype: np.dtype[Any]  # of x, in native byte order
    shape: Shape  # of x
    kept_shape: Shape  # of x, with 1 for the normalised axes: that of the statistics
    parameter_shape: Shape  # of the normalised axes, ascending
    order: Shape | None  # the axes of x as they follow in (outer, own, inner); None: as they are
    parameter_order: Shape | None  # the same of the normalised axes alone
    nothing: Array  # for a kernel, in place of a statistic that nobody wants
    small: bool  # whether results of x's size need no recycled memory
    usual: bool  # whether x was seen by `_usual`: to reshape it is enough

    def load_x(self, x: Array, shape: Shape) -> Array:
        """`load` of the x that was seen."""
        if self.usual:
            return x if self.shape == shape else x.reshape(shape)
        return self.load(x, shape)

    def load(self, a: Array, shape: Shape) -> Array:
        """An array of x's shape or `kept_shape`, seen in the order of (outer, own, inner), as x's dtype."""
        own = behaved(a if self.order is None else a.transpose(self.order), self.dtype)
        return own if own.shape == shape else own.reshape(shape)

    def lies(self, x: Array) -> bool:
        """Whether `load` would see the x that was seen where it is, and not copy it."""
        ordered = x if self.order is None else x.transpose(self.order)
        return ordered.flags.c_contiguous and ordered.flags.aligned and ordered.dtype == self.dtype

    def parameter(self, name: str, a: Array | None, otherwise: float) -> Array:
        """An array of `parameter_shape`, checked, as (own,); without one, a number in its place."""
        if a is None:
            return _numbers(self.own, otherwise, self.dtype)
        if type(a) is np.ndarray and a.dtype is self.dtype and a.shape == self.parameter_shape and a.flags.carray:
            return a if a.ndim == 1 else self._ordered_parameter(a)
        arguments.parameter(name, a, self.parameter_shape, self.dtype)
        return self._ordered_parameter(a)

    def _ordered_parameter(self, a: Array) -> Array:
        ordered = a if self.parameter_order is None else a.transpose(self.parameter_order)
        return behaved(ordered, self.dtype).reshape(self.own)

    def target(self, out: Array | None, shape: Shape, x: Array) -> Array:
        """What a kernel writes for a result of x's shape: the memory of out where it can."""
        if out is None:
            return np.empty(shape, self.dtype) if self.small else recycling.empty(shape, self.dtype, x)
        ordered = out if self.order is None else out.transpose(self.order)
        if ordered.flags.carray and ordered.dtype.isnative:
            return ordered if ordered.shape == shape else np.asarray(ordered).reshape(shape)
        return recycling.empty(shape, self.dtype, x)

    def deliver(self, result: Array, out: Array | None) -> Array:
        """A filled `target`, as the caller gets it: out, or an array of x's shape, its axes in memory as those of x."""
        if out is None:
            return _back(result, self.shape, self.order)
        if result is not out and not np.may_share_memory(result, out):
            np.copyto(out, _back(result, self.shape, self.order))
        return out

    def deliver_statistic(self, a: Array) -> Array:
        return _back(a, self.kept_shape, self.order)

    def deliver_parameter(self, a: Array) -> Array:
        return _back(a, self.parameter_shape, self.parameter_order)


def see(x: Array, axis: Any, axes: Callable[[Any, Array], Shape]) -> Split:
    """x, checked, as (outer, own, inner) with own over axes(axis, x)."""
    if type(x) is np.ndarray and type(axis) is int and x.flags.carray:
        seen = _usual(x.shape, x.dtype, axis)
        if seen is not None:
            return seen
    arguments.array("x", x)
    return split(x, axes(axis, x))


@lru_cache(256)
def _usual(shape: Shape, dtype: np.dtype[Any], axis: int) -> Split | None:
    """`split` of a C-ordered array of several axes over one of them, if there is nothing to complain of."""
    known = dtype.isnative and dtype.type in arguments.FLOATS
    if not (known and len(shape) > 1 and -len(shape) <= axis < len(shape)):
        return None
    seen = _c_ordered(shape, axis % len(shape), axis % len(shape) + 1, dtype)
    return replace(seen, usual=True)


def split(x: Array, axes: Shape) -> Split:
    """See x as (outer, own, inner) with own over `axes` (ascending), without a copy where its layout allows."""
    shape, dtype = x.shape, x.dtype if x.dtype.isnative else x.dtype.newbyteorder("=")
    first, end = axes[0], axes[-1] + 1
    if x.flags.c_contiguous and end - first == len(axes):
        return _c_ordered(shape, first, end, dtype)
    order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
    first = min(order.index(i) for i in axes)
    if {*order[first : first + len(axes)]} != {*axes}:
        order = [i for i in order if i not in axes] + [i for i in order if i in axes]
        first = x.ndim - len(axes)
    end = first + len(axes)
    sizes = [shape[i] for i in order]
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    own = tuple(shape[i] for i in axes)
    own_order = tuple(axes.index(i) for i in order[first:end])
    planes = prod(sizes[:first]), prod(sizes[first:end]), prod(sizes[end:])
    return _of(planes, dtype, shape, kept, own, tuple(order), own_order)


def _c_ordered(shape: Shape, first: int, end: int, dtype: np.dtype[Any]) -> Split:
    before, own, after = shape[:first], shape[first:end], shape[end:]
    kept = before + (1,) * len(own) + after
    planes = prod(before), prod(own), prod(after)
    return _of(planes, dtype, shape, kept, own, None, None)


def _of(
    planes: tuple[int, int, int],
    dtype: np.dtype[Any],
    shape: Shape,
    kept_shape: Shape,
    parameter_shape: Shape,
    order: Shape | None,
    parameter_order: Shape | None,
) -> Split:
    outer, own, inner = planes
    rows, reduced = ((outer, own), (outer,)) if inner == 1 else (planes, (outer, inner))
    return Split(
        outer,
        own,
        inner,
        planes,
        rows,
        reduced,
        dtype,
        shape,
        kept_shape,
        parameter_shape,
        order,
        parameter_order,
        nothing=np.empty([0] * len(reduced), dtype),
        small=prod(planes) * dtype.itemsize < recycling.LARGE,
        usual=False,
    )


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


def behaved(a: Array, dtype: np.dtype[Any]) -> Array:
    """C-ordered, aligned, of this dtype, and writable as far as Numba can tell, else it would compile anew."""
    flags, other = a.flags, a.dtype is not dtype and a.dtype != dtype  # most are the same object, which is soon said
    if flags.carray and not other and type(a) is np.ndarray:
        return a
    a = np.asarray(a)  # not a subclass
    if other or not (flags.c_contiguous and flags.aligned):
        return a.astype(dtype, "C")
    return a if a.flags.writeable else np.asarray(_Writable(a))


def _numbers(size: int, number: float, dtype: np.dtype[Any]) -> Array:
    """A number over and over, for kernels to read."""
    return _kept_numbers(size, number, dtype) if size <= _SHORT else np.full(size, number, dtype)


@lru_cache(16)
def _kept_numbers(size: int, number: float, dtype: np.dtype[Any]) -> Array:
    return np.full(size, number, dtype)


def _back(a: Array, shape: Shape, order: Shape | None) -> Array:
    if order is None:
        return a if a.shape == shape else a.reshape(shape)
    return a.reshape([shape[i] for i in order]).transpose(np.argsort(order))


class _Writable:
    """A read-only array's memory without the flag, for kernels that only read it."""

    def __init__(self, a: Array) -> None:
        self.owner = a
        interface = a.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
