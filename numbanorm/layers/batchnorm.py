"""The layer of batch normalization."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbanorm._call import arguments, numbers
from numbanorm._call.kinds import over_channels
from numbanorm._call.view import positions
from numbanorm._math import reciprocal_stds
from numbanorm._types import Array, Gradients
from numbanorm.batchnorm import batch_norm, batch_norm_backward, checked_in_training, forward_in_training
from numbanorm.layers import arguments as layer_arguments
from numbanorm.layers import synchronised
from numbanorm.layers.arrays import Checked
from numbanorm.layers.base import NOT_KEPT
from numbanorm.layers.parts import LayerOfParts
from numbanorm.layers.saved import Saved, is_keeping
from numbanorm.layers.synchronised import Parts, Reduce


class BatchNorm(LayerOfParts):
    """Batch normalization: `numbanorm.batch_norm_forward` in training, `numbanorm.batch_norm` in evaluation.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps), per channel: with the statistics of the
    batch in training, with the running ones in evaluation.

    Parameters
    ----------
    num_features : int
        The number of channels, C.
    eps : float
        Added to the variance.
    momentum : float or None
        The share of each batch in the running statistics. With None they are the population statistics of Ioffe and
        Szegedy over all batches so far: the mean of the batches' means, and of their unbiased variances. `calibrate`
        gives those of all values together, and says how the two differ.
    affine : bool
        Whether the layer has a weight, ones at the start, and with `bias` a bias.
    track_running_stats : bool
        Whether it has running statistics. If not, evaluation too takes the statistics of the batch.
    bias : bool
        Whether it has a bias beside the weight; zeros at the start.
    channel_axis : int
        The axis of the channels in x.
    skip_nonfinite : bool
        Whether a batch with an infinity or a NaN is left out of the running statistics. If not, they are not finite
        either from then on, in the channels where it stands, of which a RuntimeWarning tells.
    all_reduce : callable, optional
        For a batch that is spread over several processes, each of which calls the layer on its part (of any size, also
        of none): a function that takes an object that adds up by ``+`` and returns the sum of what all processes gave
        it, as mpi4py's ``comm.allreduce``. It is called once in `forward`, in training, with `Moments`, and once in
        `backward`, with a `GradientSums`; not in evaluation, where without running statistics each process takes
        those of its own part. `grads` are those of this process's part, as those of all other layers are: add them up
        over the processes in the same way. It is not pickled or copied with the layer. An error in one process leaves
        the others waiting for it in their reduction. In float64, values beyond 1e154 are taken to have an infinite
        variance.
    dtype : dtype
        Of the parameters, and so of the x that it takes: float32 or float64. The running statistics are float64, so
        that evaluation too is exact far from zero.

    Raises
    ------
    TypeError, ValueError
        An argument, or an x later on, is of the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import BatchNorm
    >>> layer = BatchNorm(2, momentum=None)
    >>> for batch in np.array([[[1, 10], [3, 30]], [[2, 20], [4, 40]]], np.float32):
    ...     y = layer(batch)
    >>> layer.running_mean, layer.running_var
    (array([ 2.5, 25. ]), array([  2., 200.]))
    """

    channel_axis: Any = Checked("The axis of the channels in x.", lambda layer, value: numbers.any_channel_axis(value))

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        channel_axis: int = 1,
        skip_nonfinite: bool = False,
        all_reduce: Reduce | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_features = numbers.channel_count("num_features", num_features)
        self.eps, self.momentum, self.channel_axis = eps, momentum, channel_axis
        for name, flag in {"affine": affine, "track_running_stats": track_running_stats, "bias": bias}.items():
            numbers.flag(name, flag)
        self.skip_nonfinite, self.all_reduce = skip_nonfinite, all_reduce
        super().__init__((self.num_features,), numbers.dtype(dtype), bool(affine), bool(affine and bias))
        if track_running_stats:
            self._track(self.num_features)

    def forward(self, x: Array, mask: Array | None = None, *, copy: bool = False, out: Array | None = None) -> Array:
        """Return y. Keep x for `backward`, except under `no_grad`. In training, move the running statistics.

        Parameters
        ----------
        x : ndarray
            Any shape of at least 2 axes, of the layer's dtype. It must not change until `backward`.
        mask : ndarray of bool, optional
            Of the shape of x without its channel axis. Where it is False, as at padding, x is left out of the
            statistics, y is 0, and so will dx be. It must leave two positions in training, and one in evaluation.
        copy : bool
            Whether to keep copies of x and the weight, which may change then.
        out : ndarray of x's shape and dtype, optional
            Receives y. It may be x itself where nothing is kept, or with `copy`.

        Returns
        -------
        ndarray
            y, of the shape and dtype of x; `out` if given.
        """
        if is_keeping():
            y, self._last = self.forward_saved(x, mask, copy=copy, out=out)
            return y
        self._check("x", x)
        y, *_ = self._run(x, mask, out)
        self._last, self._why_none = None, NOT_KEPT
        return y

    def forward_saved(
        self, x: Array, mask: Array | None = None, *, copy: bool = False, out: Array | None = None
    ) -> tuple[Array, Saved]:
        """Return y, and what `backward` takes as `saved`. So several passes may wait for `backward`, in any order."""
        self._check("x", x)
        saved = self._keep(x, copy, out)
        mask = mask.copy() if isinstance(mask, np.ndarray) else mask  # which loaders use again
        y, pass_back, how = self._run(x, mask, out)
        return y, self._hand_out(saved, pass_back, how)

    def _check(self, name: str, x: Any) -> None:
        axis = self.channel_axis
        usual = type(x) is np.ndarray and x.dtype is self.dtype and type(axis) is int and -x.ndim <= axis < x.ndim > 1
        if usual and x.shape[axis] == self.num_features:
            return
        layer_arguments.of_layer(name, x, self.dtype)
        layer_arguments.channels(name, x, self.channel_axis, self.num_features)

    def _run(self, x: Array, mask: Array | None, out: Array | None) -> tuple[Array, Callable[..., Any], dict[str, Any]]:
        """Return y, the function that computes the gradients, and the keyword arguments that it needs."""
        if self.training and self.all_reduce is not None:
            if out is not None:
                arguments.out(out, x, {"x": x}, {"weight": self._weight, "bias": self._bias, "mask": mask})
            (y,), how = self._synchronised(Parts([x], [mask], self.channel_axis), out)
            return y, synchronised.backward_of_one, how
        axis = self.channel_axis
        if self.training or self._running_mean is None:
            call, moved = over_channels(x, axis), self._moved()
            checked = checked_in_training(call, x, self._weight, self._bias, mask, out)
            (y, mean, rstd), finite = forward_in_training(call, x, checked, moved, self.eps, out)
            if not finite:
                self._warn()
            return y, batch_norm_backward, {"mean": mean, "rstd": rstd, "mask": mask, "channel_axis": axis}
        y, mean, var = self._evaluate(x, mask, out)
        statistics = {"mean": mean, "var": var, "eps": self.eps}
        return y, _backward_frozen, statistics | {"mask": mask, "channel_axis": axis}

    def _evaluate(self, x: Array, mask: Array | None, out: Array | None) -> tuple[Array, Array, Array]:
        """Return y, and copies of mean and variance: a batch in training may come before `backward`."""
        if mask is not None:
            arguments.mask(mask, positions(x, self.channel_axis).shape[:-1])
        mean, var, how = self._running_mean.copy(), self._running_var.copy(), {"channel_axis": self.channel_axis}
        y = batch_norm(x, mean, var, self._weight, self._bias, eps=self.eps, out=out, **how)
        if mask is not None:
            positions(y, self.channel_axis)[~mask] = 0
        return y, mean, var

    @property
    def affine(self) -> bool:
        """Whether there is a weight."""
        return self._weight is not None

    def __repr__(self) -> str:
        options = {"eps": self.eps, "momentum": self.momentum, "affine": self.affine}
        options |= {"track_running_stats": self.track_running_stats}
        others: dict[str, tuple[Any, Any]] = {"bias": (self._bias is not None, self.affine)}
        others |= {"channel_axis": (self.channel_axis, 1), "skip_nonfinite": (self.skip_nonfinite, False)}
        others |= {"all_reduce": (self.all_reduce, None)}
        return self._shown(self.num_features, options, others)


def _backward_frozen(dy: Array, x: Array, *, mean: Array, var: Array, eps: float, **how: Any) -> Gradients:
    """Compute the gradients if the statistics are constants."""
    return batch_norm_backward(dy, x, mean, reciprocal_stds(var, eps), frozen=True, **how)
