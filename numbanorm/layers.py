"""Layers for a hand-written trainer: they hold arrays and call the functions."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import starmap
from operator import setitem
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from numbanorm import _checks
from numbanorm._types import Array
from numbanorm.batchnorm import batch_norm, batch_norm_backward, positions, train_forward
from numbanorm.layernorm import layer_norm_backward, layer_norm_forward
from numbanorm.moments import Moments


class _Layer(ABC):
    """What both layers have: a mode, parameters with gradients, and a state."""

    weight: Array | None = None
    bias: Array | None = None
    training = True
    dtype: np.dtype[Any]

    def __init__(self) -> None:
        self.grads: dict[str, Array] = {}
        self._saved: dict[str, Any] | None = None  # of the last forward pass

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """y of x."""

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    def train(self, mode: bool = True) -> Self:
        """Use the statistics of each batch (the mode of a new layer); returns the layer."""
        self.training = mode
        return self

    def eval(self) -> Self:
        """Use the population's statistics where the layer has them; returns the layer."""
        return self.train(False)

    def parameters(self) -> dict[str, Array]:
        """The arrays to train, by the keys of `grads`: update them in place."""
        named = {"weight": self.weight, "bias": self.bias}
        return {key: value for key, value in named.items() if value is not None}

    def _buffers(self) -> dict[str, Array]:
        return {}

    def state_dict(self) -> dict[str, Array]:
        """Copies of the arrays, by the keys that PyTorch uses."""
        return {key: value.copy() for key, value in (self.parameters() | self._buffers()).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy arrays in, from `state_dict` of this class or of PyTorch's; all are checked before any is copied.

        Raises
        ------
        TypeError
            Not a mapping, or an array in it is masked or of a dtype that would lose more than precision.
        KeyError
            It has other keys than the layer.
        ValueError
            An array in it has another shape.
        """
        own = self.parameters() | self._buffers()
        _checks.keys("state", state, own)
        given = {key: _checks.converted(f"state[{key!r}]", value, own[key]) for key, value in state.items()}
        list(starmap(setitem, [(own[key], ..., value) for key, value in given.items()]))  # no signal comes between

    def _last_forward(self) -> dict[str, Any]:
        if self._saved is None:
            raise RuntimeError("backward: no forward pass before it, call the layer first")
        return self._saved

    def _keep(self, dweight: Array, dbias: Array) -> None:
        gradients = {"weight": dweight, "bias": dbias}
        self.grads.update({key: gradients[key] for key in self.parameters()})


class LayerNorm(_Layer):
    """Layer normalization over the last axes: `numbanorm.layer_norm` with a weight and a bias to train.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps), over the last axes.

    Parameters
    ----------
    normalized_shape : int or tuple of ints
        The sizes of the last axes of x, which are normalised together.
    eps : float
        Added to the variance.
    weight, bias : bool
        Whether the layer has them; ones and zeros at the start.
    dtype : dtype
        Of the parameters, and so of the x that it takes: float32 or float64.

    Raises
    ------
    TypeError, ValueError
        An argument, or an x later on, is of the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import LayerNorm
    >>> layer = LayerNorm(3)
    >>> y = layer(np.array([[1, 2, 3]], np.float32))
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.grads["bias"]
    array([1., 1., 1.], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        *,
        eps: float = 1e-5,
        weight: bool = True,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.normalized_shape = shape = _checks.sizes("normalized_shape", normalized_shape)
        self.eps = _checks.eps(eps)
        self.dtype = _checks.dtype(dtype)
        _checks.flag("weight", weight)
        _checks.flag("bias", bias)
        self.weight = np.ones(shape, self.dtype) if weight else None
        self.bias = np.zeros(shape, self.dtype) if bias else None

    def forward(self, x: Array) -> Array:
        """y; keeps a reference to x for `backward`."""
        _checks.of_layer("x", x, self.dtype)
        _checks.ends_in(x, self.normalized_shape)
        axis = tuple(range(-len(self.normalized_shape), 0))
        y, mean, rstd = layer_norm_forward(x, self.weight, self.bias, axis=axis, eps=self.eps)
        self._saved = {"x": x, "mean": mean, "rstd": rstd, "weight": self.weight, "axis": axis}
        return y

    def backward(self, dy: Array) -> Array:
        """dx of the last forward pass; sets `grads`."""
        dx, dweight, dbias = layer_norm_backward(dy, **self._last_forward())
        self._keep(dweight, dbias)
        return dx

    def __repr__(self) -> str:
        return f"LayerNorm({self.normalized_shape}, eps={self.eps})"


class BatchNorm(_Layer):
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
        Whether the layer has a weight and a bias; ones and zeros at the start.
    channel_axis : int
        The axis of the channels in x.
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

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        channel_axis: int = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.num_features = _checks.channel_count("num_features", num_features)
        self.eps = _checks.eps(eps)
        self.momentum = None if momentum is None else _checks.momentum(momentum)
        self.channel_axis = _checks.any_channel_axis(channel_axis)
        self.dtype = _checks.dtype(dtype)
        _checks.flag("affine", affine)
        self.weight = np.ones(self.num_features, self.dtype) if affine else None
        self.bias = np.zeros(self.num_features, self.dtype) if affine else None
        self.running_mean = np.zeros(self.num_features)
        self.running_var = np.ones(self.num_features)
        self.num_batches_tracked = np.array(0)

    def forward(self, x: Array, mask: Array | None = None) -> Array:
        """y; keeps a reference to x for `backward`, and in training updates the running statistics.

        Where `mask` (bool, the shape of x without its channel axis) is False, as at padding, x is left out of the
        statistics, y is 0, and so will dx be. It must leave two positions in training, and one in evaluation.
        """
        _checks.of_layer("x", x, self.dtype)
        _checks.channels("x", x, self.channel_axis, self.num_features)
        mask = mask.copy() if isinstance(mask, np.ndarray) else mask  # which loaders use again
        return self._train_forward(x, mask) if self.training else self._eval_forward(x, mask)

    def __call__(self, x: Array, mask: Array | None = None) -> Array:  # noqa: D102
        return self.forward(x, mask)

    def _train_forward(self, x: Array, mask: Array | None) -> Array:
        momentum = 1.0 / (int(self.num_batches_tracked) + 1) if self.momentum is None else self.momentum
        running = self.running_mean, self.running_var, self.num_batches_tracked.reshape(1)
        how = momentum, self.channel_axis, self.eps
        y, mean, rstd = train_forward(x, self.weight, self.bias, *running, *how, mask=mask, out=None)
        self._saved = {"x": x, "mean": mean, "rstd": rstd, "mask": mask, "frozen": False}
        return y

    def _eval_forward(self, x: Array, mask: Array | None) -> Array:
        if mask is not None:
            _checks.mask(mask, positions(x, self.channel_axis).shape[:-1])
        mean, var = self.running_mean.copy(), self.running_var
        y = batch_norm(x, mean, var, self.weight, self.bias, channel_axis=self.channel_axis, eps=self.eps)
        if mask is not None:
            positions(y, self.channel_axis)[~mask] = 0
        with np.errstate(divide="ignore", invalid="ignore"):
            rstd = 1.0 / np.sqrt(var + self.eps)
        self._saved = {"x": x, "mean": mean, "rstd": rstd, "mask": mask, "frozen": True}
        return y

    def backward(self, dy: Array) -> Array:
        """dx of the last forward pass; sets `grads`. After one in evaluation the statistics are constants."""
        dx, dweight, dbias = batch_norm_backward(
            dy, **self._last_forward(), weight=self.weight, channel_axis=self.channel_axis
        )
        self._keep(dweight, dbias)
        return dx

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
            batches, pass the positions that count, as `x[mask]` where the channels are last.

        Returns
        -------
        BatchNorm
            The layer. `num_batches_tracked` is the number of the batches.

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
        moments, count = Moments(0, np.zeros(self.num_features), 0), 0
        for name, batch in _checks.batches(batches):
            _checks.of_layer(name, batch, self.dtype)
            _checks.channels(name, batch, self.channel_axis, self.num_features)
            moments.update(batch, channel_axis=self.channel_axis)
            count += 1
        _checks.enough_values("batches", moments.count)
        new = moments.mean, moments.var(ddof=1), count
        pairs = zip(self._buffers().values(), new, strict=True)
        list(starmap(setitem, [(own, ..., value) for own, value in pairs]))  # no signal comes between
        return self

    def _buffers(self) -> dict[str, Array]:
        names = "running_mean", "running_var", "num_batches_tracked"
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"BatchNorm({self.num_features}, eps={self.eps}, momentum={self.momentum})"
