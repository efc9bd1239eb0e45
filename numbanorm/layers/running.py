"""Layers with running statistics: how a batch in training moves them, and whether they are still finite."""

import sys
import warnings
from collections.abc import Mapping
from itertools import starmap
from operator import setitem
from typing import Any

import numpy as np

from numbanorm._call import numbers
from numbanorm._types import Array, Running
from numbanorm.layers.arrays import Checked, LayerArray
from numbanorm.layers.base import Layer
from numbanorm.layers.state import STATISTICS, LoadedKeys

_NOT_MOVED = Running(None, None, 0.0)


def _share(layer: Any, value: Any) -> float | None:
    return None if value is None else numbers.momentum(value)


def _flag(layer: Any, value: Any) -> bool:
    numbers.flag("skip_nonfinite", value)
    return bool(value)


class _RunningStatistic(LayerArray):
    """A running mean or variance. If another array is assigned, the layer looks anew which channels are not finite."""

    def __set__(self, layer: Any, value: Any) -> None:
        super().__set__(layer, value)
        layer._warned = layer._not_finite()


class TrackingLayer(Layer):
    """A layer that may have running statistics. It has none at first."""

    running_mean = _RunningStatistic("The running mean of each channel, float64; None without running statistics.")
    running_var = _RunningStatistic("The running variance of each channel, float64; None without running statistics.")
    num_batches_tracked = LayerArray("How many batches moved them: an array without axes, of int64.")
    momentum: Any = Checked("The share of each batch in the running statistics, or None.", _share)
    skip_nonfinite: Any = Checked("Whether a batch with inf or NaN is left out of them.", _flag)

    _running_mean: Any = None
    _running_var: Any = None
    _num_batches_tracked: Any = None
    _warned: frozenset[int] = frozenset()  # the channels that are known not to be finite

    def _track(self, channels: int) -> None:
        """Have running statistics, in float64."""
        self._running_mean, self._running_var = np.zeros(channels), np.ones(channels)
        self._num_batches_tracked = np.array(0)

    @property
    def track_running_stats(self) -> bool:
        """Whether there are running statistics."""
        return self._running_mean is not None

    def _moved(self) -> Running:
        """Return the running statistics that a batch in training moves, and its share in them."""
        if self._running_mean is None or not self.training:
            return _NOT_MOVED
        if not (self._running_mean.flags.writeable and self._running_var.flags.writeable):
            raise ValueError("running_mean, running_var: read-only, must be writable")
        count = self._num_batches_tracked
        share = 1.0 / (int(count) + 1) if self.momentum is None else self.momentum
        return Running(self._running_mean, self._running_var, share, count.reshape(1), self.skip_nonfinite)

    def _warn(self) -> None:
        """Warn of channels whose running statistics are no longer finite, once of each channel."""
        new = sorted(self._not_finite() - self._warned)
        self._warned = self._warned.union(new)
        if new:
            where = (
                f"x: inf or NaN in the channels {new} of {self!r} at {id(self):#x}"  # by which Python tells warnings
            )
            text = f"{where}, whose running statistics are not finite from now on"
            advice = "skip_nonfinite=True leaves such batches out, reset_running_stats() begins anew"
            warnings.warn(f"{text}; {advice}", RuntimeWarning, stacklevel=_frames())

    def _not_finite(self) -> frozenset[int]:
        """Return the channels whose running statistics are not finite."""
        if self._running_mean is None:
            return frozenset()
        finite = np.isfinite(self._running_mean) & np.isfinite(self._running_var)
        return frozenset(np.flatnonzero(~finite).tolist())

    def reset_running_stats(self) -> None:
        """Make the running statistics those of a new layer: 0, 1, and no batch."""
        if self._running_mean is not None:
            self._set_running(0.0, 1.0, 0)

    def _set_running(self, mean: Any, var: Any, count: int) -> None:
        pairs = zip(self._buffers().values(), (mean, var, count), strict=True)
        list(starmap(setitem, [(current, ..., value) for current, value in pairs]))  # no signal comes between
        self._warned = self._not_finite()

    def load_state_dict(  # noqa: D102
        self, state: Mapping[str, Any], strict: bool = True, prefix: str = ""
    ) -> LoadedKeys:
        loaded = super().load_state_dict(state, strict, prefix)
        self._warned = self._not_finite()
        return loaded

    def _buffers(self) -> dict[str, Array]:
        return {} if self._running_mean is None else {name: getattr(self, name) for name in STATISTICS}


def _frames() -> int:
    """Return how many frames away the caller of this package is, for a warning that names the caller's line."""
    frame, count = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("numbanorm."):
        frame, count = frame.f_back, count + 1
    return count
