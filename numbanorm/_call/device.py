"""A call on arrays of a GPU makes what its kernels are given, and what comes back: the twin of `numbanorm._call.host`.

Nothing is read back. What only the values tell, as a mask that is False everywhere or a negative variance, shows as NaN
in the results and is no error.
"""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from numbanorm._call import arguments, axes
from numbanorm._call.view import Axes, Layout, Planes, View, dense_strides, layout_of, reordered
from numbanorm._types import Array, Running, Shape
from numbanorm.cuda import batchnorm, batchnorm_halves, launch, layernorm, moments, rmsnorm, scalers
from numbanorm.cuda.grids import NONE, Run, type_of
from numbanorm.cuda.kernels import copies
from numbanorm.cuda.libraries import Seen, library_of, seen_from_here

_ALIGNMENT = 256  # bytes: pieces of one allocation begin at multiples of it
_BOOL = np.dtype(np.bool_)


class DeviceCall:
    """One call on a GPU. It keeps x and the other arrays, by name, as NumPy sees them from here."""

    batchnorm = batchnorm
    batchnorm_halves = batchnorm_halves
    layernorm = layernorm
    moments = moments
    rmsnorm = rmsnorm
    scalers = scalers
    no_statistic = NONE

    def __init__(self, x: Any) -> None:
        self._like, self._library, self._kept = x, library_of("x", x), []  # type: Any, Any, list[Any]
        self._device, self._stream = self._library.device(x), self._library.stream(x)
        self._seen: dict[str, Seen] = {"x": seen_from_here("x", x, self._library)}
        self._others: set[int] = set()  # streams of other arrays, which must wait for this call
        # What comes before the first kernel, once all is checked. Methods are not bound: a call that fails must free
        # its memory at once, and not wait for the garbage collector.
        self._first: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._updated: list[tuple[str, Run, Shape]] = []
        self.x = self._seen["x"].array
        self.view: View  # a host's call is its view, kept for all calls on a layout; this one holds a call's arrays

    @property
    def planes(self) -> Planes:
        """The sizes of x as kernels see it: outer, middle and inner."""
        return self.view.planes

    def see_x_as(self, x: Array) -> None:
        """Take an array of other axes, at the same address, for x."""
        self.x, self._seen["x"] = x, self._seen["x"]._replace(array=x)

    def array(self, name: str, value: Any) -> Array | None:
        """Return an argument as NumPy sees it, for checks."""
        return None if value is None else self._see(name, value).array

    def _see(self, name: str, value: Any) -> Seen:
        if name not in self._seen:
            self._seen[name] = self._beside_x(name, value)
            other = self._library.stream(value) if self._library.has_streams else self._stream
            if other != self._stream and other not in self._others:
                self._first.append((DeviceCall._wait, (other,)))
                self._others.add(other)
        return self._seen[name]

    def _beside_x(self, name: str, value: Any) -> Seen:
        if not hasattr(type(value), "__cuda_array_interface__") or library_of(name, value) is not self._library:
            raise arguments.other_kind(name, value, self._like)
        if (device := self._library.device(value)) != self._device:
            where = "the host" if device is None else f"device {device}"
            raise ValueError(f"{name}: on {where}, must be on device {self._device}, that of x")
        return seen_from_here(name, value, self._library)

    def load_x(self, x: Any, dtype: np.dtype[Any] | None = None) -> Run:
        """Return x for a kernel, in its own dtype or another."""
        dtype = dtype or self.view.storage
        return self._run("x", x, dense_strides(self.view.shape, self.view.order, dtype.itemsize), dtype)

    def like_x(self, name: str, value: Any, x: Any) -> Run:
        """Check an array of x's shape and dtype, and return it as a kernel reads it."""
        arguments.like(name, self.array(name, value), self.x)
        return self._run(name, value, self._dense(self.view.shape), self.view.storage)

    def parameter(self, name: str, value: Any, otherwise: float) -> Run:
        """Check a weight or bias, and return it as a kernel reads it.

        If there is none, return a run of no values: kernels then take `otherwise`, which is 1 or 0, by themselves.
        """
        if value is None:
            return Run(0, self.view.arithmetic, 0)
        arguments.parameter(name, self.array(name, value), self.view.parameter_shape, self.view.arithmetic)
        return self._run(name, value, self._parameter_strides(), self.view.arithmetic)

    def statistic(self, name: str, value: Any, dtype: np.dtype[Any] | None = None) -> Run:
        """Check a mean or the like, and return it as a kernel reads it, in the dtype of the arithmetic or another."""
        arguments.statistic(name, self.array(name, value), self.view.statistic_shape, self.view.arithmetic)
        dtype = dtype or self.view.arithmetic
        return self._run(name, value, self._statistic_strides(dtype), dtype)

    def exact_statistic(self, name: str, value: Any) -> Run:
        """Check a statistic of which no digit may be lost, and return it in its own dtype."""
        array = self.array(name, value)
        return self.statistic(name, value, None if array is None else array.dtype)

    def mask(self, mask: Any, may_be_empty: bool = False) -> Run:
        """Check a mask, and return it as (outer, inner). Return a run of no values if there is none.

        Whether the mask is False everywhere cannot be told here.
        """
        if mask is None:
            return Run(0, _BOOL, 0)
        (axis,), shape = self.view.axes.statistic, self.view.shape
        arguments.mask_type(self.array("mask", mask), shape[:axis] + shape[axis + 1 :])
        others, order = self.view.axes.reduced, self.view.order or tuple(range(len(shape)))
        strides = dense_strides(tuple(shape[i] for i in others), reordered(others, order), _BOOL.itemsize)
        return self._run("mask", mask, strides, _BOOL)

    def check_several_values(self, x: Any, mask: Any) -> None:
        """Check that each channel has two values or more, and so a variance."""
        if mask is None:
            arguments.several_values(self.x, self.view.count, masked=False)

    def check_out(self, out: Any, x: Any, same: dict[str, Any], disjoint: dict[str, Any]) -> None:
        """Check that `out` can receive a result: it may be one of `same`, but must be disjoint from all others."""
        arguments.out(self.array("out", out), self.x, self._arrays(same), self._arrays(disjoint))

    def check_updated(self, name: str, value: Any, disjoint: dict[str, Any]) -> None:
        """Check that a running statistic can be updated in place, disjoint from all other arrays."""
        shape, dtype = self.view.statistic_shape, self.view.arithmetic
        arguments.updated(name, self.array(name, value), shape, dtype, self._arrays(disjoint))

    def _arrays(self, values: dict[str, Any]) -> dict[str, Array | None]:
        return {name: self.array(name, value) for name, value in values.items()}

    def moved(self, running: Running) -> Running:
        """Check running statistics, and return them for a kernel that updates them in place."""
        mean, var = self._moved("running_mean", running.mean), self._moved("running_var", running.var)
        return running._replace(mean=mean, var=var)

    def _moved(self, name: str, value: Any) -> Run:
        """Return a running statistic in its own dtype, or a run of no values if there is none."""
        if value is None:
            return Run(0, self.view.arithmetic, 0)
        run = self.exact_statistic(name, value)
        self._updated.append((name, run, (run.dtype.itemsize,)))
        return run

    def target(self, out: Any, x: Any) -> Run:
        """Return the memory that a kernel fills with a result of x's shape: that of `out` if it can."""
        strides = self._dense(self.view.shape)
        if out is None:
            return self.empty(self.view.shape, strides, self.view.storage)
        seen = self._see("out", out)
        if _lies_so(seen.array, strides):
            run = Run(seen.address, self.view.storage, seen.array.size)
        else:
            (run,) = self.scratch(self.view.storage, seen.array.size)
        self._updated.append(("out", run, strides))
        return run

    def new_statistic(self, dtype: np.dtype[Any] | None = None) -> Run:
        """Make room for a mean or the like."""
        dtype = dtype or self.view.arithmetic
        return self.empty(self.view.statistic_shape, self._statistic_strides(dtype), dtype)

    def new_parameter(self) -> Run:
        """Make room for the gradient of a parameter."""
        return self.empty(self.view.parameter_shape, self._parameter_strides(), self.view.arithmetic)

    def deliver(self, result: Run, out: Any) -> Any:
        """Return a filled `target` as the caller gets it. No kernel is launched after that."""
        for name, run, strides in self._updated:
            self._put_back(name, run, strides)
        self._updated.clear()
        self._finish()
        return result.array if out is None else out

    def deliver_statistic(self, statistic: Run) -> Any:
        """Return a filled `new_statistic` as the caller gets it."""
        self._finish()
        return statistic.array

    def deliver_parameter(self, gradient: Run) -> Any:
        """Return a filled `new_parameter` as the caller gets it."""
        self._finish()
        return gradient.array

    def _finish(self) -> None:
        """Let the streams of other arrays wait for this call, which has read and may have written these arrays."""
        for other in self._others:
            launch.wait(self._device, other, {self._stream})
        self._others.clear()

    def _dense(self, shape: Shape) -> Shape:
        return dense_strides(shape, self.view.order, self.view.storage.itemsize)

    def _statistic_strides(self, dtype: np.dtype[Any]) -> Shape:
        return dense_strides(self.view.statistic_shape, self.view.statistic_order, dtype.itemsize)

    def _parameter_strides(self) -> Shape:
        return dense_strides(self.view.parameter_shape, self.view.parameter_order, self.view.arithmetic.itemsize)

    def launch(self, kernel: launch.Kernel, grid: int, block: tuple[int, int], *arguments: Any) -> None:
        """Launch a kernel, with the address of each `Run` among the arguments. Do nothing for a grid of no blocks."""
        first, self._first = self._first, []
        for step, given in first:
            step(self, *given)
        if grid > 0:
            values = tuple(a.address if isinstance(a, Run) else a for a in arguments)
            launch.launch(kernel, grid, block, values, self._stream, self._device)

    def empty(self, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> Run:
        """Make an array of the caller's kind, whose values follow each other in some order of the axes."""
        array = self._library.empty(self._like, shape, strides, dtype)
        return Run(self._library.place(array)[0], dtype, prod(shape), array)

    def scratch(self, dtype: np.dtype[Any], *sizes: int) -> list[Run]:
        """Make room for so many values each, until the end of the call.

        What comes later on the stream may have the memory then.
        """
        starts, end = [], 0
        for size in sizes:
            starts.append(end)
            end += -(-size * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT
        run = self.empty((end // dtype.itemsize,), (dtype.itemsize,), dtype)
        self._kept.append(run.array)
        return [Run(run.address + start, dtype, size) for start, size in zip(starts, sizes, strict=True)]

    def _run(self, name: str, value: Any, strides: Shape, dtype: np.dtype[Any]) -> Run:
        """Return the values of an array as they lie with these strides and this dtype, in a copy if they do not."""
        seen = self._see(name, value)
        if seen.array.dtype == dtype and _lies_so(seen.array, strides):
            return Run(seen.address, dtype, seen.array.size)
        (run,) = self.scratch(dtype, seen.array.size)
        self._first.append((DeviceCall._copy, (seen.address, seen.array, run.address, dtype, strides)))
        return run

    def _put_back(self, name: str, run: Run, strides: Shape) -> None:
        """Copy what was written in place of an array into it, if it was written elsewhere."""
        seen = self._seen[name]
        if seen.address != run.address:
            self._copy(run.address, seen.array, seen.address, run.dtype, seen.array.strides, strides)

    def fetch(self, run: Run) -> Array:
        """Wait for all that has been launched, and return the values of a run as an array of the host."""
        if run.size == 0:
            return np.empty(0, run.dtype)
        return launch.fetch(run.address, run.size, run.dtype, self._stream, self._device)

    def send(self, dtype: np.dtype[Any], *arrays: Array) -> list[Run]:
        """Copy arrays of the host to the device, as runs."""
        whole = np.concatenate([np.ravel(a).astype(dtype) for a in arrays])
        (room,) = self.scratch(dtype, whole.size)
        if whole.size > 0:
            launch.send(whole, room.address, self._stream, self._device)
        starts = np.cumsum([0, *(a.size for a in arrays[:-1])])
        pairs = zip(starts, arrays, strict=True)
        return [Run(room.address + int(start) * dtype.itemsize, dtype, a.size) for start, a in pairs]

    def copy(self, source: Run, target: Run) -> None:
        """Copy all values of a run to another."""
        size = source.size
        kernel = copies.strided_copy(type_of(source.dtype), type_of(target.dtype), 1)
        self.launch(kernel, -(-size // copies.THREADS), (copies.THREADS, 1), source, target, size, (size,), (1,), (1,))

    def _wait(self, other: int) -> None:
        """Let this call's stream wait for another one."""
        launch.wait(self._device, self._stream, {other})

    def _copy(
        self, source: int, like: Array, target: int, dtype: np.dtype[Any], strides: Shape, source_strides: Shape = ()
    ) -> None:
        if like.size > 0:
            steps = tuple(step // like.itemsize for step in source_strides or like.strides)
            plan = copies.plan(like.shape, steps, tuple(step // dtype.itemsize for step in strides))
            kernel = copies.strided_copy(type_of(like.dtype), type_of(dtype), len(plan[0]))
            grid, block = -(-like.size // copies.THREADS), (copies.THREADS, 1)
            self.launch(kernel, grid, block, source, target, like.size, *plan)


def _lies_so(array: Array, strides: Shape) -> bool:
    """Return whether an array has these strides. The stride of an axis of one value does not matter."""
    return array.strides == strides or all(
        one == other for one, other, size in zip(array.strides, strides, array.shape, strict=True) if size > 1
    )


def over_axes(x: Any, axis: Any) -> DeviceCall:
    """Check x, and make a call that normalises it over `axis`."""
    call = DeviceCall(x)
    arguments.array("x", call.x)
    call.view = _over_axes(layout_of(call.x), axes.axes(axis, call.x))
    return call


def over_channels(x: Any, channel_axis: Any, one_axis_is_one_channel: bool = False) -> DeviceCall:
    """Check x, and make a call that normalises each of its channels."""
    call = DeviceCall(x)
    if one_axis_is_one_channel and call.x.ndim == 1:
        call.see_x_as(call.x[:, None])
    arguments.array("x", call.x)
    call.view = _over_channels(layout_of(call.x), axes.channel_axis(channel_axis, call.x))
    return call


@lru_cache(1 << 10)
def _over_axes(layout: Layout, normalised: Shape) -> View:
    return View.of(layout, Axes.over(normalised, len(layout.shape)))


@lru_cache(1 << 10)
def _over_channels(layout: Layout, channel_axis: int) -> View:
    return View.of(layout, Axes.channels(channel_axis, len(layout.shape)))
