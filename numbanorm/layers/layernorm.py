"""The layer of layer normalization."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbanorm._call import numbers
from numbanorm._types import Array
from numbanorm.layernorm import layer_norm, layer_norm_backward, layer_norm_forward
from numbanorm.layers.base import NOT_KEPT
from numbanorm.layers.last_axes import OverLastAxes
from numbanorm.layers.saved import Saved, is_keeping

_NOT_GIVEN: Any = object()


class LayerNorm(OverLastAxes):
    """Layer normalization over the last axes: `numbanorm.layer_norm` with a weight and a bias to train.

    y = (x - mean) * rstd * weight + bias, with rstd = 1 / sqrt(var + eps), over the last axes.

    Parameters
    ----------
    normalized_shape : int or tuple of ints
        The sizes of the last axes of x, which are normalised together.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether the layer has a weight, ones at the start, and with `bias` a bias.
    bias : bool
        Whether it has a bias beside the weight; zeros at the start.
    dtype : dtype
        Of the parameters, and so of the x that it takes: float32 or float64.
    weight : bool
        Deprecated: pass `elementwise_affine`. (A bias alone, ``weight=False, bias=True``, is only to be had so.)

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
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
        weight: bool = _NOT_GIVEN,
    ) -> None:
        def parameters() -> tuple[bool, bool]:
            numbers.flag("elementwise_affine", elementwise_affine)
            numbers.flag("bias", bias)
            if weight is _NOT_GIVEN:
                return bool(elementwise_affine), bool(elementwise_affine and bias)
            numbers.flag("weight", weight)
            warnings.warn("LayerNorm: weight= is deprecated, pass elementwise_affine=", DeprecationWarning, 4)
            return bool(weight), bool(bias)

        super().__init__(normalized_shape, eps, dtype, parameters)

    def forward(self, x: Array, *, copy: bool = False, out: Array | None = None) -> Array:
        """Return y. Keep x for `backward`, except under `no_grad`.

        Parameters
        ----------
        x : ndarray
            Any shape that ends in `normalized_shape`, of the layer's dtype. It must not change until `backward`.
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
            y, self._last = self.forward_saved(x, copy=copy, out=out)
            return y
        self._check(x)
        y = layer_norm(x, self._weight, self._bias, axis=self._axis, eps=self.eps, out=out)
        self._last, self._why_none = None, NOT_KEPT
        return y

    def forward_saved(self, x: Array, *, copy: bool = False, out: Array | None = None) -> tuple[Array, Saved]:
        """Return y, and what `backward` takes as `saved`. So several passes may wait for `backward`, in any order."""
        self._check(x)
        saved = self._keep(x, copy, out)
        y, mean, rstd = layer_norm_forward(x, self._weight, self._bias, axis=self._axis, eps=self.eps, out=out)
        return y, self._hand_out(saved, layer_norm_backward, {"mean": mean, "rstd": rstd, "axis": self._axis})

    def __repr__(self) -> str:
        options = {"eps": self.eps, "elementwise_affine": self.elementwise_affine, "bias": self._bias is not None}
        return self._shown(self.normalized_shape, options, {})
