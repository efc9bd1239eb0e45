"""Checks of numbers, flags and sizes. Each error names the argument, what it was and what it must be."""

import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from numbanorm._call.advice import shown
from numbanorm._types import FLOAT64, FLOATS, Array, Shape

MOST_AXES = 64  # of an array of NumPy's
MOST_VALUES = np.iinfo(np.intp).max // FLOAT64.itemsize


def eps(value: Any) -> float:
    if type(value) is float and 0.0 <= value < math.inf:
        return value
    return _number("eps", value, 0.0, math.inf)


def momentum(value: Any) -> float:
    if type(value) is float and 0.0 <= value <= 1.0:
        return value
    return _number("momentum", value, 0.0, 1.0)


def _number(name: str, value: Any, least: float, most: float) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}: {shown(value)}, must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not (least <= number <= most and math.isfinite(number)):
        bounds = f"in [{least:g}, {most:g}]"
        if most == math.inf:
            bounds = "finite and not negative" if least == 0 else "finite"
        raise ValueError(f"{name}: {shown(value)}, must be {bounds}")
    return number


def number(name: str, value: Any, least: float = 0.0) -> float:
    """Check that a number is finite and not negative. With `least` of -inf, it may have either sign."""
    return _number(name, value, least, math.inf)


def count(value: Any, C: int, of_none: bool) -> float:
    """Check how many values each channel has, given once or for each channel, and return the number.

    It must be the same for all channels. With `of_none`, it may be 0.
    """
    single = value
    if isinstance(value, np.ndarray):
        if value.shape not in ((C,), ()):
            raise ValueError(f"count: shape {value.shape}, must be a number or of shape ({C},)")
        if value.dtype.kind not in "iuf":
            raise TypeError(f"count: dtype {value.dtype}, must be of real numbers")
        if np.unique(value).size > 1:
            raise ValueError(f"count: {value}, must be the same for all channels")
        single = float(value.flat[0]) if value.size else 1.0
    found = _number("count", single, 0.0, math.inf)
    if found == 0 and not of_none:
        raise ValueError("count: 0, must be positive: that of all values of a channel")
    return found


def per_channel(given: Mapping[str, Any], not_negative: Sequence[str]) -> list[Array]:
    """Check numbers, or arrays of one axis, that fit together. Return float64 copies of one shape."""
    found = {}
    for name, value in given.items():
        try:
            array = np.asarray(value)
        except ValueError:  # lists of several lengths
            array = np.empty(0, object)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name}: {shown(value)}, must be a number or an array of one for each channel")
        if array.ndim > 1:
            raise ValueError(f"{name}: shape {array.shape}, must be a number or an array of shape (C,)")
        if name in not_negative and (array < 0).any():
            raise negative(name, array)
        found[name] = array
    C = max((a.size for a in found.values() if a.ndim > 0), default=1)
    for name, array in found.items():
        if array.ndim > 0 and array.size != C:
            raise ValueError(f"{name}: shape {array.shape}, must be ({C},), as that of the others")
    return [np.array(np.broadcast_to(a, C), np.float64) for a in found.values()]


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: {shown(value)}, must be True or False")


def index(name: str, value: Any) -> int:
    """Check that a value is a whole number, and return it as an int."""
    try:
        no_bool(value)
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {shown(value)}, must be an int") from None


def no_bool(*values: Any) -> None:
    """Raise a TypeError if a value is a bool, which Python takes for 1 or 0. The caller names the argument."""
    if any(isinstance(value, bool | np.bool_) for value in values):
        raise TypeError


def size(name: str, value: Any, least: int = 1) -> int:
    """Check that a value is a whole number of at least `least`, and return it as an int."""
    number = index(name, value)
    if number < least:
        raise ValueError(f"{name}: {shown(value)}, must be at least {least}")
    return number


def sizes(name: str, value: Any) -> Shape:
    """Check the size of one axis, or the sizes of several, and return them as a tuple."""
    several = value if isinstance(value, tuple | list) else (value,)
    try:
        found = tuple(size(name, n) for n in several)
    except TypeError:
        raise TypeError(f"{name}: {shown(value)}, must be an int or a tuple of ints") from None
    if not found:
        raise ValueError(f"{name}: {shown(value)}, must name at least one axis")
    _of_an_array(name, value, found)
    return found


def channel_count(name: str, value: Any) -> int:
    """Check how many channels there are, and return the number."""
    found = size(name, value)
    _of_an_array(name, value, (found,))
    return found


def _of_an_array(name: str, value: Any, shape: Shape) -> None:
    """Check that NumPy can have arrays of these sizes. Whether there is memory for one is another question."""
    if len(shape) > MOST_AXES:
        raise ValueError(f"{name}: {len(shape)} sizes, must be at most {MOST_AXES}, the axes that arrays can have")
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"{name}: {shown(value)}, must be of at most {MOST_VALUES} values in all")


def any_channel_axis(value: Any) -> int:
    """Check that some array can have this channel axis, and return it."""
    found = index("channel_axis", value)
    if not -MOST_AXES <= found < MOST_AXES:
        raise ValueError(f"channel_axis: {shown(value)}, must be in [{-MOST_AXES}, {MOST_AXES - 1}]")
    return found


def dtype(value: Any) -> np.dtype[Any]:
    """Check that the functions take a dtype, and return it."""
    try:
        found: np.dtype[Any] = np.dtype(value)
    except TypeError:
        found = np.dtype(object)
    if value is None or found.type not in FLOATS:
        raise TypeError(f"dtype: {shown(value)}, must be float32 or float64")
    return np.dtype(found.type)


def negative(name: str, value: Array) -> ValueError:
    """Return the error to raise for an array in which a kernel has found a negative number."""
    return ValueError(f"{name}: {np.nanmin(value)} in it, must not be negative")
