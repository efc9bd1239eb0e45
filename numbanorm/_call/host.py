"""A call on NumPy's arrays makes what its kernels are given, and what comes back."""

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from numbanorm._call import arguments, axes, recycling
from numbanorm._call.view import Axes, Layout, View, layout_of
from numbanorm._types import FLOAT64, FLOATS, Array, Running, Shape
from numbanorm.cpu import batchnorm, batchnorm_halves, layernorm, moments, rmsnorm, scalers
from numbanorm.cpu.engine import machine
from numbanorm.cpu.layouts import behaved

_SHORT = 1 << 16  # values: a longer array of one number, in place of a parameter, is not kept


@dataclass(slots=True)
class HostCall(View):
    """One object for all calls on arrays of one shape and layout. It holds none of their arrays."""

    no_statistic: Array = field(init=False)  # for a kernel, in place of a statistic that nobody wants
    nbytes: int = field(init=False)  # of x
    is_small: bool = field(init=False)  # whether results of x's size need no recycled memory
    is_flat: bool = field(init=False)  # whether kernels see arrays of x's shape as they are
    is_usual: bool = field(init=False, default=False)  # whether x is as `usual_over_axis` takes it: reshaping is enough

    batchnorm = batchnorm
    batchnorm_halves = batchnorm_halves
    layernorm = layernorm
    moments = moments
    rmsnorm = rmsnorm
    scalers = scalers

    def __post_init__(self) -> None:
        self.no_statistic = np.empty([0] * len(self.kernel_statistic_shape), self.arithmetic)
        self.nbytes = prod(self.planes) * self.storage.itemsize
        self.is_flat = self.order is None and self.shape == self.kernel_shape
        self.is_small = self.nbytes < recycling.LARGE

    def streams(self, arrays: int) -> bool:
        """Return whether a kernel that reads and writes so many arrays of x's size writes results past the caches."""
        return machine.streams(arrays * self.nbytes)

    def load_x(self, x: Array) -> Array:
        """Return x as a kernel reads it."""
        if self.is_usual:
            return x if self.is_flat else x.reshape(self.kernel_shape)
        return self._load(x, self.kernel_shape)

    def like_x(self, name: str, a: Any, x: Array) -> Array:
        """Check an array of x's shape and dtype, and return it as a kernel reads it."""
        arguments.like(name, a, x)
        return self._load(a, self.kernel_shape)

    def lies(self, x: Array) -> bool:
        """Return whether `load_x` sees x where it is, without a copy."""
        ordered = x if self.order is None else x.transpose(self.order)
        return ordered.flags.c_contiguous and ordered.flags.aligned and ordered.dtype == self.storage

    def _load(self, a: Array, shape: Shape) -> Array:
        """Return an array of x's axes in the order of (outer, middle, inner) and in x's dtype."""
        ordered = behaved(a if self.order is None else a.transpose(self.order), self.storage)
        return ordered if ordered.shape == shape else ordered.reshape(shape)

    def parameter(self, name: str, a: Any, otherwise: float) -> Array:
        """Check a weight or bias, and return it as a kernel reads it: (middle,). If there is none, repeat a number."""
        if a is None:
            return _numbers(self.planes.middle, otherwise, self.arithmetic)
        if type(a) is np.ndarray and a.dtype is self.arithmetic and a.shape == self.parameter_shape and a.flags.carray:
            if a.ndim == 1:
                return a
        else:
            arguments.parameter(name, a, self.parameter_shape, self.arithmetic)
        ordered = a if self.parameter_order is None else a.transpose(self.parameter_order)
        return behaved(ordered, self.arithmetic).reshape(self.planes.middle)

    def statistic(self, name: str, a: Any, dtype: np.dtype[Any] | None = None) -> Array:
        """Check a mean or the like, and return it as a kernel reads it, in the dtype of the arithmetic or another."""
        arguments.statistic(name, a, self.statistic_shape, self.arithmetic)
        if self.statistic_order is not None:
            a = a.transpose(self.statistic_order)
        read = behaved(a, dtype or self.arithmetic)
        return read if read.shape == self.kernel_statistic_shape else read.reshape(self.kernel_statistic_shape)

    def exact_statistic(self, name: str, a: Any) -> Array:
        """Check a statistic of each channel of which no digit may be lost, and return it as float64."""
        if type(a) is np.ndarray and a.dtype is FLOAT64 and a.shape == self.statistic_shape and a.flags.carray:
            return a
        arguments.statistic(name, a, self.statistic_shape, self.arithmetic)
        return behaved(a, FLOAT64)

    def mask(self, mask: Any, may_be_empty: bool = False) -> Array | None:
        """Check a mask, and return it as (outer, inner), or None if there is none."""
        if mask is None:
            return None
        (axis,) = self.axes.statistic
        check = arguments.mask_type if may_be_empty else arguments.mask
        check(mask, self.shape[:axis] + self.shape[axis + 1 :])
        if self.order is not None:
            mask = mask.transpose([i - (i > axis) for i in self.order if i != axis])
        return mask.reshape(self.planes.outer, self.planes.inner)

    def check_several_values(self, x: Array, mask: Any) -> None:
        """Check that each channel has two values or more, and so a variance."""
        count = self.count if mask is None else int(np.count_nonzero(mask))
        arguments.several_values(x, count, mask is not None)

    def check_out(self, out: Any, x: Array, same: dict[str, Any], disjoint: dict[str, Any]) -> None:
        """Check that `out` can receive a result: it may be one of `same`, but must be disjoint from all others."""
        arguments.out(out, x, same, disjoint)

    def check_updated(self, name: str, a: Any, disjoint: dict[str, Any]) -> None:
        """Check that a running statistic can be updated in place, disjoint from all other arrays."""
        arguments.updated(name, a, self.statistic_shape, self.arithmetic, disjoint)

    def moved(self, running: Running) -> Running:
        """Return running statistics, which have been checked, for a kernel."""
        return running

    def target(self, out: Array | None, x: Array) -> Array:
        """Return the memory that a kernel fills with a result of x's shape: that of `out` if it can."""
        if out is None:
            if self.is_small:
                return np.empty(self.kernel_shape, self.storage)
            return recycling.empty(self.kernel_shape, self.storage, x)
        ordered = out if self.order is None else out.transpose(self.order)
        if ordered.flags.carray and ordered.dtype.isnative:
            return ordered if ordered.shape == self.kernel_shape else np.asarray(ordered).reshape(self.kernel_shape)
        return recycling.empty(self.kernel_shape, self.storage, x)

    def new_statistic(self, dtype: np.dtype[Any] | None = None) -> Array:
        """Make room for a mean or the like."""
        return np.empty(self.kernel_statistic_shape, dtype or self.arithmetic)

    def new_parameter(self) -> Array:
        """Make room for the gradient of a parameter."""
        return np.empty(self.planes.middle, self.arithmetic)

    def deliver(self, result: Array, out: Array | None) -> Array:
        """Return a filled `target` as the caller gets it: `out`, or an array of x's shape and order in memory."""
        if out is None:
            return result if self.is_flat else _back(result, self.shape, self.order)
        if result is not out and not np.may_share_memory(result, out):
            np.copyto(out, _back(result, self.shape, self.order))
        return out

    def deliver_statistic(self, a: Array) -> Array:
        """Return a filled `new_statistic` as the caller gets it."""
        return _back(a, self.statistic_shape, self.statistic_order)

    def deliver_parameter(self, a: Array) -> Array:
        """Return a filled `new_parameter` as the caller gets it."""
        return _back(a, self.parameter_shape, self.parameter_order)


def over_axes(x: Any, axis: Any) -> HostCall:
    """Check x, and make a call that normalises it over `axis`."""
    arguments.array("x", x)
    return _over_axes(layout_of(x), axes.axes(axis, x))


def over_channels(x: Any, channel_axis: Any) -> HostCall:
    """Check x, and make a call that normalises each of its channels."""
    arguments.array("x", x)
    return _over_channels(layout_of(x), axes.channel_axis(channel_axis, x))


@lru_cache(256)
def _over_axes(layout: Layout, normalised: Shape) -> HostCall:
    return HostCall.of(layout, Axes.over(normalised, len(layout.shape)))


@lru_cache(256)
def _over_channels(layout: Layout, channel_axis: int) -> HostCall:
    return HostCall.of(layout, Axes.channels(channel_axis, len(layout.shape)))


@lru_cache(256)
def usual_over_axis(shape: Shape, dtype: np.dtype[Any], axis: int) -> HostCall | None:
    """Make `over_axes` of a C-ordered array and one axis. Return None if it has one axis, or anything is wrong."""
    ndim = len(shape)
    return _usual(shape, dtype, Axes.over((axis % ndim,), ndim)) if _is_usual(shape, dtype, axis) else None


@lru_cache(256)
def usual_over_channels(shape: Shape, dtype: np.dtype[Any], axis: int) -> HostCall | None:
    """Make `over_channels` of a C-ordered array, or return None, as `usual_over_axis` does."""
    ndim = len(shape)
    return _usual(shape, dtype, Axes.channels(axis % ndim, ndim)) if _is_usual(shape, dtype, axis) else None


def _is_usual(shape: Shape, dtype: np.dtype[Any], axis: int) -> bool:
    known = dtype.isnative and dtype.type in FLOATS
    return known and len(shape) > 1 and -len(shape) <= axis < len(shape)


def _usual(shape: Shape, dtype: np.dtype[Any], over: Axes) -> HostCall:
    call = HostCall.of(Layout(shape, (), True, dtype), over)
    call.is_usual = True
    return call


def _numbers(size: int, number: float, dtype: np.dtype[Any]) -> Array:
    """Return an array that repeats a number. Kernels only read it."""
    return _kept_numbers(size, number, dtype) if size <= _SHORT else np.full(size, number, dtype)


@lru_cache(16)
def _kept_numbers(size: int, number: float, dtype: np.dtype[Any]) -> Array:
    return np.full(size, number, dtype)


def _back(a: Array, shape: Shape, order: Shape | None) -> Array:
    if order is None:
        return a if a.shape == shape else a.reshape(shape)
    return a.reshape([shape[i] for i in order]).transpose(np.argsort(order))
