"""Checks of axes. Each error names the argument, what it was and what it must be."""

from functools import lru_cache
from typing import Any

from numpy.exceptions import AxisError
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from numbanorm._call import numbers
from numbanorm._call.advice import shown
from numbanorm._types import Array, Shape


def axes(axis: Any, x: Array) -> Shape:
    """Return the axes that `axis` names, ascending."""
    if type(axis) is int and -x.ndim <= axis < x.ndim:
        return (axis % x.ndim,)
    if type(axis) is tuple and set(map(type, axis)) == {int} and (usual := _axes_of_ints(axis, x.ndim)):
        return usual
    if x.ndim < 1:
        raise ValueError("x: shape (), must have at least 1 axis")
    try:
        numbers.no_bool(axis, *(axis if isinstance(axis, tuple | list) else ()))
        found = tuple(sorted(normalize_axis_tuple(axis, x.ndim)))
    except TypeError:
        raise TypeError(f"axis: {shown(axis)}, must be an int or a tuple of ints") from None
    except (AxisError, OverflowError):
        raise _no_axis("axis", axis, x) from None
    except ValueError:
        raise ValueError(f"axis: {shown(axis)}, must name each axis once") from None
    if not found:
        raise ValueError("axis: (), must name at least one axis")
    return found


@lru_cache(256)
def _axes_of_ints(axis: Shape, ndim: int) -> Shape:
    """Return the axes, ascending. Return none if one of them is out of range or named twice."""
    found = {a % ndim for a in axis if -ndim <= a < ndim}
    return tuple(sorted(found)) if len(found) == len(axis) else ()


def _no_axis(name: str, axis: Any, x: Array, of: str = "x") -> AxisError:
    return AxisError(f"{name}: {shown(axis)}, must be in [{-x.ndim}, {x.ndim - 1}], as {of} has {x.ndim} axes")


def channel_axis(axis: Any, x: Array, name: str = "x") -> int:
    if type(axis) is int and 0 <= axis < x.ndim > 1:
        return axis
    if x.ndim < 2:
        raise ValueError(f"{name}: shape {x.shape}, must have at least 2 axes")
    try:
        numbers.no_bool(axis)
        return normalize_axis_index(axis, x.ndim)
    except TypeError:
        raise TypeError(f"channel_axis: {shown(axis)}, must be an int") from None
    except (AxisError, OverflowError):
        raise _no_axis("channel_axis", axis, x, name) from None
