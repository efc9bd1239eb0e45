"""Layers that take statistics from several arrays: the parts of a batch, or the batches of a data set.

The parts of a batch may lie in several processes.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np

from numbanorm._call import arguments
from numbanorm._call.kinds import over_channels
from numbanorm._call.view import positions
from numbanorm._types import Array
from numbanorm.layers import arguments as layer_arguments
from numbanorm.layers import synchronised
from numbanorm.layers.arrays import Checked
from numbanorm.layers.running import TrackingLayer
from numbanorm.layers.saved import Saved
from numbanorm.layers.synchronised import Parts, Reduce
from numbanorm.moments import Moments


def _reduction(layer: Any, value: Any) -> Reduce | None:
    if value is not None and not callable(value):
        raise TypeError(f"all_reduce: {type(value).__qualname__}, must be callable or None")
    return value


class LayerOfParts(TrackingLayer):
    """A layer that can take its statistics from several arrays: parts of a batch, or all batches of a data set."""

    num_features: int
    channel_axis: Any
    all_reduce: Any = Checked("What sums over the processes that a batch is spread over, or None.", _reduction)

    @abstractmethod
    def _check(self, name: str, x: Any) -> None:
        """Check that the layer takes such an x."""

    def forward_parts(
        self, xs: Sequence[Array], masks: Sequence[Array | None] | None = None, *, copy: bool = False
    ) -> tuple[list[Array], Saved]:
        """Normalise several parts of one batch (micro-batches) with the statistics of all of them, in training.

        Parameters
        ----------
        xs : sequence of ndarray
            As `forward` takes x; their sizes may differ, and some may be empty.
        masks : sequence of ndarray or None, optional
            Of each part.
        copy : bool
            Whether to keep copies of xs and the weight, which may change then.

        Returns
        -------
        ys : list of ndarray
        saved : Saved
            For ``backward(dys, saved)``, which takes a list with dy of each part, and no `out`, and returns a list of
            dx.
        """
        if not self.training and self._running_mean is not None:
            raise RuntimeError("forward_parts: in evaluation parts need nothing of each other; call the layer on each")
        xs = synchronised.listed("xs", xs)
        if not xs:
            raise ValueError("xs: no parts, must be at least one, which may be empty")
        for i, x in enumerate(xs):
            self._check(f"xs[{i}]", x)
        masks = self._masks(masks, xs)
        saved = self._keep(xs, copy, None)
        ys, how = self._synchronised(Parts(xs, masks, self.channel_axis), None)
        return ys, self._hand_out(saved, synchronised.backward, how)

    def _masks(self, masks: Any, xs: list[Array]) -> list[Array | None]:
        """Check a mask for each part, and copy it, since loaders use their arrays again."""
        if masks is None:
            return [None] * len(xs)
        masks = synchronised.one_for_each("masks", masks, len(xs))
        for i, (mask, x) in enumerate(zip(masks, xs, strict=True)):
            if mask is not None:
                arguments.mask_type(mask, positions(x, self.channel_axis).shape[:-1], f"masks[{i}]")
        return [None if mask is None else mask.copy() for mask in masks]

    def _synchronised(self, parts: Parts, out: Array | None) -> tuple[list[Array], dict[str, Any]]:
        """Return y of each part, and the keyword arguments that `synchronised.backward` needs."""
        all_reduce = self.all_reduce if self.all_reduce is not None and self.training else synchronised.alone
        running, call = self._moved(), over_channels(parts.xs[0], parts.channel_axis)
        found = synchronised.statistics(parts, self.num_features, self.eps, all_reduce)
        ys = synchronised.forward(parts, found, self._weight, self._bias, self.eps, out)
        batch = call.moved(running), found.mean, found.var, found.n
        if found.n > 0 and not call.batchnorm.update_running(call, *batch):
            self._warn()
        return ys, {"masks": parts.masks, "channel_axis": parts.channel_axis, "found": found, "all_reduce": all_reduce}

    def calibrate(self, batches: Array | Iterable[Array]) -> Self:
        """Set the running statistics to the mean and the unbiased variance of all values of the batches together.

        With n values of a channel in all, whatever batches they come in [1]_::

            running_mean = sum(x) / n
            running_var  = sum((x - running_mean)**2) / (n - 1)

        The mean of the batches' own statistics, which `momentum=None` keeps, gives each batch the same weight, whatever
        its size, and its variance is that within batches, without that of their means. If all values are drawn
        independently from one population, both are unbiased estimates of its mean and variance, and this one has the
        smaller error. If batches differ (by class, by source, over time), the mean of their variances is too small by
        the variance of their means, and only this one estimates the variance of all values.

        Parameters
        ----------
        batches : iterable of ndarray, or ndarray
            What the layer is given, batch by batch; one at a time is needed. Their sizes may differ. Of padded
            batches, pass the positions that count, as `x[mask]` where the channels are last. With `all_reduce`, those
            of this process: the statistics are those of all processes then, and `all_reduce` is called twice, with
            `Moments` and with the number of batches, an int.

        Returns
        -------
        BatchNorm
            The layer. `num_batches_tracked` is the number of the batches, with `all_reduce` of those of all processes.

        Raises
        ------
        TypeError, ValueError
            A batch is of the wrong type or shape, or there are less than two values per channel. The layer is as it was
            then.

        References
        ----------
        .. [1] Ioffe, Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate
           Shift", 2015, section 3.1, has the other one.

        Examples
        --------
        >>> import numpy as np
        >>> from numbanorm import BatchNorm
        >>> layer = BatchNorm(1).calibrate(np.array([[i], [i + 2]], np.float32) for i in (1, 7))
        >>> layer.running_mean, layer.running_var.round(2)
        (array([5.]), array([13.33]))
        """
        if not self.track_running_stats:
            raise RuntimeError("calibrate: there are no running statistics; make a layer with track_running_stats=True")
        moments, count = Moments(0, np.zeros(self.num_features), 0), 0
        for name, batch in layer_arguments.batches(batches):
            self._check(name, batch)
            moments.update(batch, channel_axis=self.channel_axis)
            count += 1
        all_reduce = synchronised.alone if self.all_reduce is None else self.all_reduce
        moments, count = synchronised.total(all_reduce, moments), synchronised.total(all_reduce, count)
        layer_arguments.enough_values("batches", moments.count)
        self._set_running(moments.mean, moments.var(ddof=1), count)
        return self

    def __getstate__(self) -> dict[str, Any]:
        reduction = None if self.all_reduce is None else synchronised.not_taken_along
        return super().__getstate__() | {"all_reduce": reduction}
