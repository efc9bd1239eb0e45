"""What a call on arrays of a GPU works with: its arrays, device and stream, memory for results, and launches."""

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.view import Split, split
from numbanorm._types import Array, Shape
from numbanorm.cuda import launch
from numbanorm.cuda.grids import Run, type_of
from numbanorm.cuda.kernels import copies
from numbanorm.cuda.libraries import Seen, library_of, seen_at, seen_from_here

_APART = 256  # bytes: pieces of one allocation begin at multiples of it


class Layout(NamedTuple):
    """How arrays of a shape are seen as (outer, own, inner), and the strides with which they lie so."""

    split: Split
    strides: Shape  # of x
    kept: Shape  # of statistics of x's axes, 1 long where they are normalised
    parameter: Shape  # of arrays over the normalised axes
    others: Shape  # of arrays over the other axes, in units of one


@lru_cache(1 << 10)
def layout(shape: Shape, strides: Shape, typestr: str, axes: Shape) -> Layout:
    """Of an array like that, normalised over these axes."""
    x = seen_at(0, False, shape, strides, typestr).array
    seen = split(x, axes)
    order = seen.order or tuple(range(x.ndim))
    itemsize = seen.dtype.itemsize
    others = tuple(i for i in range(x.ndim) if i not in axes)
    return Layout(
        seen,
        _dense(seen.shape, order, itemsize),
        _dense(seen.kept_shape, order, itemsize),
        _dense(seen.parameter_shape, tuple(axes.index(i) for i in order if i in axes), itemsize),
        _dense(tuple(seen.shape[i] for i in others), tuple(others.index(i) for i in order if i in others), 1),
    )


def _dense(shape: Shape, order: Shape, itemsize: int) -> Shape:
    strides, step = [0] * len(shape), itemsize
    for i in reversed(order):
        strides[i] = step
        step *= shape[i]
    return tuple(strides)


class Call:
    """One call: x and the other arrays, by name, as they are seen from here."""

    def __init__(self, x: Any, **others: Any) -> None:
        self._like, self._library, self._kept = x, library_of("x", x), []  # type: Any, Any, list[Any]
        self._out = others.get("out")
        self._device, self._stream = self._library.device(x), self._library.stream(x)
        self.x, self.seen, streams = seen_from_here("x", x, self._library), {}, set()  # type: Seen, dict[str, Seen | None], set[int]
        for name, value in others.items():
            self.seen[name] = None if value is None else self._beside_x(name, value)
            if value is not None and self._library.has_streams:
                streams.add(self._library.stream(value))
        self._others = streams - {self._stream}
        if self._others:
            launch.wait(self._device, self._stream, self._others)

    def _beside_x(self, name: str, value: Any) -> Seen:
        if not hasattr(type(value), "__cuda_array_interface__") or library_of(name, value) is not self._library:
            raise arguments.other_kind(name, value, self._like)
        if (device := self._library.device(value)) != self._device:
            where = "the host" if device is None else f"device {device}"
            raise ValueError(f"{name}: on {where}, must be on device {self._device}, that of x")
        return seen_from_here(name, value, self._library)

    def layout(self, axes: Shape) -> Layout:
        """Of x, normalised over these axes."""
        x = self.x.array
        return layout(x.shape, x.strides, x.dtype.str, axes)

    def array(self, name: str) -> Array | None:
        """For checks."""
        found = self.seen[name]
        return None if found is None else found.array

    def launch(self, kernel: launch.Kernel, grid: int, block: tuple[int, int], *arguments: Any) -> None:
        """Runs among the arguments stand for their addresses. Nothing is done for no blocks."""
        if grid > 0:
            values = tuple(a.address if isinstance(a, Run) else a for a in arguments)
            launch.launch(kernel, grid, block, values, self._stream, self._device)

    def empty(self, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> tuple[Any, Run]:
        """A new array of the caller's kind, in which values follow each other in some order of the axes."""
        array = self._library.empty(self._like, shape, strides, dtype)
        return array, Run(self._library.place(array)[0], dtype, prod(shape))

    def scratch(self, dtype: np.dtype[Any], *sizes: int) -> list[Run]:
        """Room for so many values each, until the call is over: what comes later on the stream may have it then."""
        starts, end = [], 0
        for size in sizes:
            starts.append(end)
            end += -(-size * dtype.itemsize // _APART) * _APART
        array, run = self.empty((end // dtype.itemsize,), (dtype.itemsize,), dtype)
        self._kept.append(array)
        return [Run(run.address + start, dtype, size) for start, size in zip(starts, sizes, strict=True)]

    def run(self, name: str, strides: Shape, dtype: np.dtype[Any]) -> Run:
        """The values of an array as they lie with these strides, of this dtype; a copy if they do not."""
        seen = self.x if name == "x" else self.seen[name]
        if seen is None:
            return Run(0, dtype, 0)
        if seen.array.dtype == dtype and _lies_so(seen.array, strides):
            return Run(seen.address, dtype, seen.array.size)
        (run,) = self.scratch(dtype, seen.array.size)
        self._copy(seen.address, seen.array, run.address, dtype, strides)
        return run

    def target(self, strides: Shape) -> tuple[Any, Run]:
        """What receives a result of x's shape, and where kernels write it: into `out` where it lies so."""
        out = self.seen["out"]
        if out is None:
            return self.empty(self.x.array.shape, strides, self.x.array.dtype)
        if _lies_so(out.array, strides):
            return None, Run(out.address, out.array.dtype, out.array.size)
        (run,) = self.scratch(out.array.dtype, out.array.size)
        return None, run

    def deliver(self, result: Any, run: Run, strides: Shape) -> Any:
        """A `target` that has been filled, as the caller gets it; nothing is launched after it."""
        self.put_back("out", run, strides)
        self.finish()
        return result if self._out is None else self._out

    def finish(self) -> None:
        """Have the streams of other arrays, that have been read and may have been written, wait for all of this."""
        for other in self._others:
            launch.wait(self._device, other, {self._stream})

    def put_back(self, name: str, run: Run, strides: Shape) -> None:
        """Into an array, what was written in its place, if that was elsewhere."""
        seen = self.seen.get(name)
        if seen is not None and seen.address != run.address:
            self._copy(run.address, seen.array, seen.address, run.dtype, seen.array.strides, strides)

    def fetch(self, run: Run) -> Array:
        """Its values, here; this waits for all that has been launched."""
        if run.size == 0:
            return np.empty(0, run.dtype)
        return launch.fetch(run.address, run.size, run.dtype, self._stream, self._device)

    def send(self, dtype: np.dtype[Any], *arrays: Array) -> list[Run]:
        """Arrays of the host, as runs."""
        whole = np.concatenate([np.ravel(a).astype(dtype) for a in arrays])
        (room,) = self.scratch(dtype, whole.size)
        if whole.size > 0:
            launch.send(whole, room.address, self._stream, self._device)
        starts = np.cumsum([0, *(a.size for a in arrays[:-1])])
        pairs = zip(starts, arrays, strict=True)
        return [Run(room.address + int(start) * dtype.itemsize, dtype, a.size) for start, a in pairs]

    def copy(self, source: Run, target: Run) -> None:
        """All values."""
        size = source.size
        kernel = copies.strided_copy(type_of(source.dtype), type_of(target.dtype), 1)
        self.launch(kernel, -(-size // copies.THREADS), (copies.THREADS, 1), source, target, size, (size,), (1,), (1,))

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
    """Of axes of one value, strides say nothing."""
    return array.strides == strides or all(
        own == other for own, other, size in zip(array.strides, strides, array.shape, strict=True) if size > 1
    )
