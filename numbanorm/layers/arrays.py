"""The attributes of a layer: arrays, which stay the same objects until others are assigned, and checked options."""

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from numbanorm._call import overlap
from numbanorm._types import Array
from numbanorm.layers import arguments as layer_arguments


class LayerArray:
    """An attribute that holds an array, or None if the layer has none.

    An assigned array of the same shape and dtype takes its place, so layers can share one. A number that is assigned to
    an array without axes is written into it. All other assignments are errors.
    """

    def __init__(self, text: str) -> None:
        self.__doc__ = text

    def __set_name__(self, owner: type, name: str) -> None:
        self._name, self._key = name, f"_{name}"

    def __get__(self, layer: Any, owner: type | None = None) -> Any:
        return self if layer is None else getattr(layer, self._key)

    def __set__(self, layer: Any, value: Any) -> None:
        current = getattr(layer, self._key)
        chosen = assigned(self._name, value, current)
        for name, other in layer._arrays().items():
            if other is not current and chosen is not current and overlap.overlap(chosen, other):
                raise ValueError(f"{self._name}: overlaps {name}, must have memory of its own")
        setattr(layer, self._key, chosen)


class Checked:
    """An attribute whose values are checked when they are set. Reading it costs no more than reading any other."""

    def __init__(self, text: str, check: Callable[[Any, Any], Any]) -> None:
        self.__doc__, self._check = text, check  # check(layer, value) returns what is kept

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __set__(self, layer: Any, value: Any) -> None:
        layer.__dict__[self._name] = self._check(layer, value)


class Grads(UserDict[str, Array]):
    """The gradients of a layer, by the names of its parameters. The names never change."""

    def __setitem__(self, name: str, value: Any) -> None:
        self.data[name] = assigned(f"grads[{name!r}]", value, self.data.get(name))

    def copy(self) -> dict[str, Array]:  # type: ignore[override]
        """Return a dict of the same arrays."""
        return self.data.copy()

    def __or__(self, other: Any) -> Any:
        return self.data | other

    def __ror__(self, other: Any) -> Any:
        return other | self.data

    def __ior__(self, other: Any) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"grads[{name!r}]: stays; zero_grad() sets it to zero")


def zeros_like(parameters: Mapping[str, Array]) -> Grads:
    """Make the gradients that a layer has before its first backward pass."""
    grads = Grads()
    grads.data = {name: np.zeros_like(parameter) for name, parameter in parameters.items()}
    return grads


def assigned(name: str, value: Any, current: Any) -> Any:
    """Return the array that a layer keeps if `value` is assigned in place of the array `current`."""
    if value is current:
        return current
    if current is None:
        raise ValueError(f"{name}: there is none, must stay so; make a layer that has it")
    if current.ndim == 0:
        number = layer_arguments.converted(name, value, current)
        if not isinstance(value, np.ndarray):
            current[...] = number
            return current
    layer_arguments.replacement(name, value, current)
    return value
