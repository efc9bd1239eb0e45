"""The base of the layers that normalise over the last axes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from numbanorm._call import numbers
from numbanorm.layers import arguments as layer_arguments
from numbanorm.layers.base import Layer


class OverLastAxes(Layer):
    """A layer for every x whose last axes have the sizes `normalized_shape`."""

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: Any,
        dtype: DTypeLike,
        parameters: Callable[[], tuple[bool, bool]],
    ) -> None:
        """Check shape and eps first. Then call `parameters`, which returns whether there are a weight and a bias."""
        self.normalized_shape = shape = numbers.sizes("normalized_shape", normalized_shape)
        self._axis = -1 if len(shape) == 1 else tuple(range(-len(shape), 0))  # an int is looked up faster
        self.eps = eps
        weight, bias = parameters()
        super().__init__(shape, numbers.dtype(dtype), weight, bias)

    def _check(self, x: Any) -> None:
        shape = self.normalized_shape
        if type(x) is np.ndarray and x.dtype is self.dtype and x.shape[-len(shape) :] == shape:
            return
        layer_arguments.of_layer("x", x, self.dtype)
        layer_arguments.ends_in(x, shape)

    @property
    def elementwise_affine(self) -> bool:
        """Whether there is a weight."""
        return self._weight is not None
