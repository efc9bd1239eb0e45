"""Checks of the arrays of a layer. Each error names the argument, what it was and what it must be."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from numbanorm._call import arguments, axes
from numbanorm._call.advice import instead
from numbanorm._types import Array, Shape


def of_layer(name: str, x: Any, dtype: np.dtype[Any]) -> None:
    """Check that a value is an array of a layer's dtype."""
    arguments.array(name, x, dtype.type)
    if x.dtype.type is not dtype.type:
        raise TypeError(f"{name}: dtype {x.dtype}, must be {dtype}, the layer's; pass {name}.astype(np.{dtype})")


def ends_in(x: Array, shape: Shape) -> None:
    """Check that the last axes of an array have these sizes."""
    if x.shape[-len(shape) :] != shape:
        raise ValueError(f"x: shape {x.shape}, must end in {shape}")


def channels(name: str, x: Array, axis: int, count: int) -> None:
    """Check that an array has so many channels."""
    found = x.shape[axes.channel_axis(axis, x, name)]
    if found != count:
        others = [i for i, size in enumerate(x.shape) if size == count]
        advice = f"; channel_axis={others[-1]} has {count}" if others else ""
        raise ValueError(f"{name}: shape {x.shape} has {found} channels on axis {axis}, must have {count}{advice}")


def converted(name: str, value: Any, current: Array) -> Array:
    """Convert a value to a new array of the shape and dtype of `current`, the layer's."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: MaskedArray, must be a plain array{instead(name, value, current.dtype.type)}")
    try:
        given = np.asarray(value)
    except Exception as error:  # as of a tensor that requires a gradient, or of lists of several lengths
        advice = instead(name, value, current.dtype.type)
        raise TypeError(f"{name}: {type(value).__qualname__}, must be an array{advice}: {error}") from error
    if given.dtype.kind in "mM" or not np.can_cast(given.dtype, current.dtype, "same_kind"):
        raise TypeError(f"{name}: dtype {given.dtype}, must be one that casts to {current.dtype}")
    if given.shape != current.shape:
        raise ValueError(f"{name}: shape {given.shape}, must be {current.shape}")
    with np.errstate(over="ignore"):
        copy = given.astype(current.dtype)
    if current.dtype.kind == "f" and not np.array_equal(np.isinf(copy), np.isinf(given)):
        raise ValueError(f"{name}: {np.abs(given).max()} in it, must fit into {current.dtype}")
    if current.dtype.kind == "i" and not (given.astype(object) == np.abs(copy)).all():
        raise ValueError(f"{name}: {given}, must be a number of batches")
    return copy


def replacement(name: str, value: Any, current: Array) -> None:
    """Check that a value is a writable array of the shape and dtype of `current`, the layer's."""
    if type(value) is not np.ndarray:
        arguments.array_type(name, value, current.dtype.type, current.shape)
    if value.dtype.type is not current.dtype.type:
        advice = f"; assign {name}.astype(np.{current.dtype})" if arguments.is_real(value.dtype) else ""
        raise TypeError(f"{name}: dtype {value.dtype}, must be {current.dtype}{advice}")
    arguments.shape_of(name, value, current.shape)
    arguments.written(name, value)


def batches(value: Any) -> Iterable[tuple[str, Any]]:
    """Return the arrays of an iterable, or the one array that is given, each with a name for errors."""
    if isinstance(value, np.ndarray):
        return (("batches", value),)
    if not arguments.is_iterable_of_arrays(value):
        advice = instead("batches", value)
        raise TypeError(f"batches: {type(value).__qualname__}, must be an iterable of numpy.ndarray or one{advice}")
    return ((f"batches[{i}]", batch) for i, batch in enumerate(value))


def enough_values(name: str, count: Array) -> None:
    """Check that each channel has two values, and so a variance."""
    if (count < 2).any():
        raise ValueError(f"{name}: {count.min():g} values per channel in all, must be at least two to have a variance")
