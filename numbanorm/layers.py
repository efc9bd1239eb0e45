"""Layers for a hand-written trainer: they hold arrays and call the functions."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import starmap
from operator import setitem
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from numbanorm import _checks
from numbanorm._types import Array
from numbanorm.batchnorm import batch_norm, batch_norm_backward, train_forward
from numbanorm.layernorm import layer_norm_backward, layer_norm_forward


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
        if not isinstance(state, Mapping):
            raise TypeError(f"state: {type(state).__qualname__}, must be a mapping from names to arrays")
        own = self.parameters() | self._buffers()
        if state.keys() != own.keys():
            raise KeyError(f"state: keys {sorted(map(str, state))}, must be {sorted(own)}")
        given = {key: _converted(f"state[{key!r}]", value, own[key]) for key, value in state.items()}
        list(starmap(setitem, [(own[key], ..., value) for key, value in given.items()]))  # no signal comes between

    def _check_dtype(self, x: Array) -> None:
        _checks.array("x", x)
        if x.dtype.type is not self.dtype.type:
            raise TypeError(f"x: dtype {x.dtype}, must be {self.dtype}, the layer's; pass x.astype(np.{self.dtype})")

    def _last_forward(self) -> dict[str, Any]:
        if self._saved is None:
            raise RuntimeError("backward: no forward pass before it, call the layer first")
        return self._saved

    def _keep(self, dweight: Array, dbias: Array) -> None:
        gradients = {"weight": dweight, "bias": dbias}
        self.grads.update({key: gradients[key] for key in self.parameters()})


def _converted(name: str, value: Any, own: Array) -> Array:
    """An array of the shape and dtype of the layer's own."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: MaskedArray, must be a plain array; pass one that is filled")
    try:
        array = np.asarray(value)
    except Exception as error:  # as of a tensor that requires a gradient, or of lists of several lengths
        raise TypeError(f"{name}: {type(value).__qualname__}, must be an array: {error}") from error
    if array.dtype.kind in "mM" or not np.can_cast(array.dtype, own.dtype, "same_kind"):
        raise TypeError(f"{name}: dtype {array.dtype}, must be one that casts to {own.dtype}")
    if array.shape != own.shape:
        raise ValueError(f"{name}: shape {array.shape}, must be {own.shape}")
    with np.errstate(over="ignore"):
        converted = array.astype(own.dtype)
    if own.dtype.kind == "f" and not np.array_equal(np.isinf(converted), np.isinf(array)):
        raise ValueError(f"{name}: {np.abs(array).max()} in it, must fit into {own.dtype}")
    if own.dtype.kind == "i" and not (array.astype(object) == np.abs(converted)).all():
        raise ValueError(f"{name}: {array}, must be a number of batches")
    return converted


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
        sizes = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        shape = tuple(_checks.size("normalized_shape", n) for n in sizes)
        if not shape:
            raise ValueError("normalized_shape: (), must name at least one axis")
        self.normalized_shape = shape
        self.eps = _checks.eps(eps)
        self.dtype = _checks.dtype(dtype)
        _checks.flag("weight", weight)
        _checks.flag("bias", bias)
        self.weight = np.ones(shape, self.dtype) if weight else None
        self.bias = np.zeros(shape, self.dtype) if bias else None

    def forward(self, x: Array) -> Array:
        """y; keeps a reference to x for `backward`."""
        self._check_dtype(x)
        axis = tuple(range(-len(self.normalized_shape), 0))
        if x.shape[axis[0] :] != self.normalized_shape:
            raise ValueError(f"x: shape {x.shape}, must end in {self.normalized_shape}")
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
        Szegedy over all batches so far: the mean of the batches' means, and of their unbiased variances.
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
        self.num_features = _checks.size("num_features", num_features)
        self.eps = _checks.eps(eps)
        self.momentum = None if momentum is None else _checks.momentum(momentum)
        self.channel_axis = _checks.index("channel_axis", channel_axis)
        self.dtype = _checks.dtype(dtype)
        _checks.flag("affine", affine)
        self.weight = np.ones(self.num_features, self.dtype) if affine else None
        self.bias = np.zeros(self.num_features, self.dtype) if affine else None
        self.running_mean = np.zeros(self.num_features)
        self.running_var = np.ones(self.num_features)
        self.num_batches_tracked = np.array(0)

    def forward(self, x: Array) -> Array:
        """y; keeps a reference to x for `backward`, and in training updates the running statistics."""
        self._check_dtype(x)
        channels = x.shape[_checks.channel_axis(self.channel_axis, x)]
        if channels != self.num_features:
            raise ValueError(
                f"x: shape {x.shape} has {channels} channels on axis {self.channel_axis}, must have {self.num_features}"
            )
        return self._train_forward(x) if self.training else self._eval_forward(x)

    def _train_forward(self, x: Array) -> Array:
        momentum = 1.0 / (int(self.num_batches_tracked) + 1) if self.momentum is None else self.momentum
        running = self.running_mean, self.running_var, self.num_batches_tracked.reshape(1)
        how = momentum, self.channel_axis, self.eps
        y, mean, rstd = train_forward(x, self.weight, self.bias, *running, *how, mask=None, out=None)
        self._saved = {"x": x, "mean": mean, "rstd": rstd, "frozen": False}
        return y

    def _eval_forward(self, x: Array) -> Array:
        mean, var = self.running_mean.copy(), self.running_var
        y = batch_norm(x, mean, var, self.weight, self.bias, channel_axis=self.channel_axis, eps=self.eps)
        with np.errstate(divide="ignore", invalid="ignore"):
            rstd = 1.0 / np.sqrt(var + self.eps)
        self._saved = {"x": x, "mean": mean, "rstd": rstd, "frozen": True}
        return y

    def backward(self, dy: Array) -> Array:
        """dx of the last forward pass; sets `grads`. After one in evaluation the statistics are constants."""
        dx, dweight, dbias = batch_norm_backward(
            dy, **self._last_forward(), weight=self.weight, channel_axis=self.channel_axis
        )
        self._keep(dweight, dbias)
        return dx

    def _buffers(self) -> dict[str, Array]:
        names = "running_mean", "running_var", "num_batches_tracked"
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"BatchNorm({self.num_features}, eps={self.eps}, momentum={self.momentum})"
