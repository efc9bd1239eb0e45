"""From the caller's arrays to what the kernels take, and back.

Kernels take C-ordered (outer, count, inner) arrays: count runs over the normalised axes, outer and inner over the
others. An array whose axes lie densely in memory, in whatever order, is seen so without a copy; others are copied once.
"""

from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbanorm._types import Array


class Split(NamedTuple):
    """How x is seen as (outer, count, inner)."""

    x: Array
    axes: tuple[int, ...]  # the normalised axes, ascending
    order: tuple[int, ...] | None  # the axes of x as they follow in (outer, count, inner); None: as they are
    shape: tuple[int, int, int]

    def load(self, a: Array) -> Array:
        """An array of x's shape, as (outer, count, inner)."""
        return behaved(self._ordered(a)).reshape(self.shape)

    def load_statistic(self, a: Array) -> Array:
        """An array of `kept_shape`, as (outer, inner), with the dtype of x."""
        return behaved(self._ordered(a), self.dtype).reshape(self.shape[0], self.shape[2])

    def load_parameter(self, a: Array) -> Array:
        """An array of `parameter_shape`, as (count,)."""
        return behaved(a if self.order is None else a.transpose(self._parameter_order())).reshape(self.shape[1])

    def target(self, out: Array | None) -> Array:
        """(outer, count, inner) for a result: the memory of out where a kernel can write there."""
        if out is not None:
            ordered = np.asarray(self._ordered(out))
            if ordered.flags.carray and ordered.dtype.isnative:
                return ordered.reshape(self.shape)
        return np.empty(self.shape, self.dtype)

    def deliver(self, result: Array, out: Array | None) -> Array:
        """A filled `target`, as the caller gets it: out, or an array of x's shape, its axes in memory as those of x."""
        seen = self._back(result, self.x.shape)
        if out is None:
            return seen
        if not np.may_share_memory(result, out):
            np.copyto(out, seen)
        return out

    def deliver_statistic(self, a: Array) -> Array:
        return self._back(a, self.kept_shape)

    def deliver_parameter(self, a: Array) -> Array:
        if self.order is None:
            return a.reshape(self.parameter_shape)
        order = self._parameter_order()
        return a.reshape([self.parameter_shape[i] for i in order]).transpose(np.argsort(order))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.x.dtype.type)  # in native byte order

    @property
    def kept_shape(self) -> tuple[int, ...]:
        """The shape of x, with 1 for the normalised axes."""
        return tuple(1 if i in self.axes else n for i, n in enumerate(self.x.shape))

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The shape of the normalised axes."""
        return tuple(self.x.shape[i] for i in self.axes)

    def _ordered(self, a: Array) -> Array:
        return a if self.order is None else a.transpose(self.order)

    def _back(self, a: Array, shape: tuple[int, ...]) -> Array:
        if self.order is None:
            return a.reshape(shape)
        return a.reshape([shape[i] for i in self.order]).transpose(np.argsort(self.order))

    def _parameter_order(self) -> list[int]:
        assert self.order is not None
        return [self.axes.index(i) for i in self.order if i in self.axes]


def split(x: Array, axes: tuple[int, ...]) -> Split:
    """See x as (outer, count, inner) with count over `axes` (ascending), without a copy where its layout allows."""
    order: tuple[int, ...] | None = None
    first, last = axes[0], axes[-1]
    if not (x.flags.c_contiguous and last - first == len(axes) - 1):
        by_stride = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
        first = min(by_stride.index(i) for i in axes)
        if {*by_stride[first : first + len(axes)]} != {*axes}:
            by_stride = [i for i in by_stride if i not in axes] + [i for i in by_stride if i in axes]
            first = x.ndim - len(axes)
        order = tuple(by_stride)
    shape = x.shape if order is None else [x.shape[i] for i in order]
    end = first + len(axes)
    return Split(x, axes, order, (prod(shape[:first]), prod(shape[first:end]), prod(shape[end:])))


def behaved(a: Array, dtype: np.dtype[Any] | None = None) -> Array:
    """C-ordered, aligned, of native byte order and writable as far as Numba can tell, else it would compile anew."""
    a = np.asarray(a)  # not a subclass
    native = np.dtype(a.dtype.type) if dtype is None else dtype
    flags = a.flags
    if a.dtype != native or not (flags.c_contiguous and flags.aligned):
        return np.array(a, native, order="C", subok=False)
    return a if flags.writeable else np.asarray(_Writable(a))


class _Writable:
    """A read-only array's memory without the flag, for kernels that only read it."""

    def __init__(self, a: Array) -> None:
        self.owner = a
        interface = a.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
