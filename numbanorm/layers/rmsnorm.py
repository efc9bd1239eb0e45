"""The layer of RMS normalization."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbanorm._call import numbers
from numbanorm._types import Array
from numbanorm.layers.arrays import Checked
from numbanorm.layers.base import NOT_KEPT
from numbanorm.layers.last_axes import OverLastAxes
from numbanorm.layers.saved import Saved, is_keeping
from numbanorm.rmsnorm import rms_norm, rms_norm_backward, rms_norm_forward


class RMSNorm(OverLastAxes):
    """RMS normalization over the last axes: `numbanorm.rms_norm` with a weight to train.

    y = x * rstd * weight, with rstd = 1 / sqrt(mean(x * x) + eps), over the last axes.

    Parameters
    ----------
    normalized_shape : int or tuple of ints
        The sizes of the last axes of x, which are normalised together.
    eps : float, optional
        Added to the mean square. If None, it is the spacing of the dtype at 1 (``np.finfo(dtype).eps``), as in PyTorch.
    elementwise_affine : bool
        Whether the layer has a weight, ones at the start.
    dtype : dtype
        Of the weight, and so of the x that it takes: float32 or float64.

    Raises
    ------
    TypeError, ValueError
        An argument, or an x later on, is of the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import RMSNorm
    >>> layer = RMSNorm(2)
    >>> y = layer(np.array([[3, 4]], np.float32))
    >>> dx = layer.backward(np.ones_like(y))
    >>> layer.grads["weight"].round(3)
    array([0.849, 1.131], dtype=float32)
    """

    eps: Any = Checked(
        "Added to the mean square; None: the spacing of the dtype at 1.",
        lambda layer, value: None if value is None else numbers.eps(value),
    )

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        def parameters() -> tuple[bool, bool]:
            numbers.flag("elementwise_affine", elementwise_affine)
            return bool(elementwise_affine), False

        super().__init__(normalized_shape, eps, dtype, parameters)
        self._eps_of_dtype = float(np.finfo(self.dtype).eps)

    def forward(self, x: Array, *, copy: bool = False, out: Array | None = None) -> Array:
        """Return y. Keep x for `backward`, except under `no_grad`.

        Arguments, results and errors are those of `LayerNorm.forward`.
        """
        if is_keeping():
            y, self._last = self.forward_saved(x, copy=copy, out=out)
            return y
        self._check(x)
        y = rms_norm(x, self._weight, axis=self._axis, eps=self._chosen_eps(), out=out)
        self._last, self._why_none = None, NOT_KEPT
        return y

    def forward_saved(self, x: Array, *, copy: bool = False, out: Array | None = None) -> tuple[Array, Saved]:
        """Return y, and what `backward` takes as `saved`. So several passes may wait for `backward`, in any order."""
        self._check(x)
        saved = self._keep(x, copy, out)
        y, rstd = rms_norm_forward(x, self._weight, axis=self._axis, eps=self._chosen_eps(), out=out)
        return y, self._hand_out(saved, rms_norm_backward, {"rstd": rstd, "axis": self._axis})

    def _chosen_eps(self) -> float:
        return self._eps_of_dtype if self.eps is None else self.eps

    def __repr__(self) -> str:
        return self._shown(self.normalized_shape, {"eps": self.eps, "elementwise_affine": self.elementwise_affine}, {})
