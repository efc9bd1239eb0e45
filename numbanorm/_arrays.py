"""From the caller's arrays to what the kernels take, and back.

Kernels take C-ordered (outer, own, inner) arrays: own runs over the normalised axes, outer and inner over the
others. An array whose axes lie densely in memory, in whatever order, is seen so without a copy; others are copied once.
"""

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbanorm._types import Array

Shape = tuple[int, ...]
_CACHE_LINE = 64
_LARGE = 65536  # values


class Split(NamedTuple):
    """How arrays of x's shape are seen as (outer, own, inner)."""

    outer: int
    own: int
    inner: int
    dtype: np.dtype[Any]  # of x, in native byte order
    shape: Shape  # of x
    kept_shape: Shape  # of x, with 1 for the normalised axes: that of the statistics
    parameter_shape: Shape  # of the normalised axes, ascending
    order: Shape | None  # the axes of x as they follow in (outer, own, inner); None: as they are
    parameter_order: Shape | None  # the same of the normalised axes alone

    def load(self, a: Array, shape: Shape) -> Array:
        """An array of x's shape or `kept_shape`, seen in the order of (outer, own, inner), as x's dtype."""
        return _shaped(behaved(a if self.order is None else a.transpose(self.order), self.dtype), shape)

    def load_parameter(self, a: Array | None, otherwise: float) -> Array:
        """An array of `parameter_shape`, as (own,); without one, a number in its place."""
        if a is None:
            return np.full(self.own, otherwise, self.dtype)
        ordered = a if self.parameter_order is None else a.transpose(self.parameter_order)
        return _shaped(behaved(ordered, self.dtype), (self.own,))

    def target(self, out: Array | None, shape: Shape) -> Array:
        """What a kernel writes for a result of x's shape: the memory of out where it can."""
        if out is not None:
            ordered = np.asarray(out if self.order is None else out.transpose(self.order))
            if ordered.flags.carray and ordered.dtype.isnative:
                return _shaped(ordered, shape)
        return _empty(shape, self.dtype)

    def deliver(self, result: Array, out: Array | None) -> Array:
        """A filled `target`, as the caller gets it: out, or an array of x's shape, its axes in memory as those of x."""
        seen = _back(result, self.shape, self.order)
        if out is None:
            return seen
        if result is not out and not np.may_share_memory(result, out):
            np.copyto(out, seen)
        return out

    def deliver_statistic(self, a: Array) -> Array:
        return _back(a, self.kept_shape, self.order)

    def deliver_parameter(self, a: Array) -> Array:
        return _back(a, self.parameter_shape, self.parameter_order)


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
    three = prod(sizes[:first]), prod(sizes[first:end]), prod(sizes[end:])
    return Split(*three, dtype, shape, kept, own, tuple(order), own_order)


@lru_cache(256)
def _c_ordered(shape: Shape, first: int, end: int, dtype: np.dtype[Any]) -> Split:
    before, own, after = shape[:first], shape[first:end], shape[end:]
    kept = before + (1,) * len(own) + after
    return Split(prod(before), prod(own), prod(after), dtype, shape, kept, own, None, None)


def behaved(a: Array, dtype: np.dtype[Any]) -> Array:
    """C-ordered, aligned, of this dtype, and writable as far as Numba can tell, else it would compile anew."""
    flags = a.flags
    if flags.carray and a.dtype == dtype and type(a) is np.ndarray:
        return a
    a = np.asarray(a)  # not a subclass
    if a.dtype != dtype or not (flags.c_contiguous and flags.aligned):
        return np.array(a, dtype, order="C")
    return a if flags.writeable else np.asarray(_Writable(a))


def _empty(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """An array that begins a cache line if it is large: NumPy's begin within one, and each of its lines would too."""
    size = prod(shape)
    if size < _LARGE:
        return np.empty(shape, dtype)
    spare = np.empty(size + _CACHE_LINE // dtype.itemsize, dtype)
    start = -spare.__array_interface__["data"][0] % _CACHE_LINE // dtype.itemsize
    return spare[start : start + size].reshape(shape)


def _shaped(a: Array, shape: Shape) -> Array:
    return a if a.shape == shape else a.reshape(shape)


def _back(a: Array, shape: Shape, order: Shape | None) -> Array:
    if order is None:
        return _shaped(a, shape)
    return a.reshape([shape[i] for i in order]).transpose(np.argsort(order))


class _Writable:
    """A read-only array's memory without the flag, for kernels that only read it."""

    def __init__(self, a: Array) -> None:
        self.owner = a
        interface = a.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
