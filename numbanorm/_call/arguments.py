"""What arguments must be. Each error names the argument, what it was and what it must be."""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numpy.exceptions import AxisError
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from numbanorm._call import overlap
from numbanorm._call.advice import axes_meant, copied, instead, kind_of, shown
from numbanorm._types import Array, Shape

FLOATS = (np.float32, np.float64)
FLOAT64 = np.dtype(np.float64)
MOST_AXES = 64  # of an array of NumPy's
MOST_VALUES = np.iinfo(np.intp).max // FLOAT64.itemsize


def array(name: str, value: Any, dtype: Any = None, shape: Shape | None = None) -> None:
    """A NumPy array of float32 or float64; the dtype and shape that it must have are for the advice alone."""
    if type(value) is not np.ndarray:
        _array_type(name, value, dtype, shape)
    if value.dtype.type not in FLOATS:
        raise TypeError(f"{name}: dtype {value.dtype}, must be float32 or float64{instead(name, value, dtype)}")


def numbers(name: str, value: Any) -> None:
    """A NumPy array of real numbers of whatever dtype."""
    if type(value) is not np.ndarray:
        _array_type(name, value, np.float64)
    if not is_real(value.dtype):
        raise TypeError(f"{name}: dtype {value.dtype}, must be of real numbers{instead(name, value, np.float64)}")


def is_real(dtype: np.dtype[Any]) -> bool:
    """Whether it is of real numbers."""
    return dtype.kind in "biuf" or _of_ml_dtypes(dtype, "float", "int")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether it is of floating point."""
    return dtype.kind == "f" or _of_ml_dtypes(dtype, "float")


def _of_ml_dtypes(dtype: np.dtype[Any], *kinds: str) -> bool:
    """Whether it is one of that library, as bfloat16 or uint4, and of these kinds."""
    return dtype.type.__module__ == "ml_dtypes" and any(kind in dtype.name for kind in kinds)


def _array_type(name: str, value: Any, dtype: Any = None, shape: Shape | None = None) -> None:
    if isinstance(value, np.ma.MaskedArray):
        also = ", or to batch normalization the positions that count as mask=" if name in ("x", "dy") else ""
        advice = instead(name, value, dtype)
        raise TypeError(f"{name}: {kind_of(value)}, must be a plain numpy.ndarray{advice}{also}")
    if isinstance(value, np.ndarray):
        return
    if on_gpu(value):
        must = f"must be a numpy.ndarray as the other arrays; copy it to the host{copied(name, value)}"
        raise TypeError(f"{name}: {kind_of(value)}, on a GPU, {must}")
    of_shape = f" of shape {shape}" if shape else ""
    advice = instead(name, value, dtype, shape)
    raise TypeError(f"{name}: {kind_of(value)}, must be a numpy.ndarray{of_shape}{advice}")


def on_gpu(value: Any) -> bool:
    """Whether it is an array there: types of PyTorch and of JAX have the interface wherever their arrays are."""
    known = getattr(value, "is_cuda", None)
    if known is not None:
        return bool(known)
    try:
        return hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # it has one that may not be looked at
        return True


def no_cuda(name: str, value: Any, error: Exception) -> TypeError:
    """What to raise for an array on a GPU where there is nothing to run its kernels."""
    reason = (
        error if isinstance(error, ImportError) else f"the kernels cannot be loaded: {type(error).__name__}: {error}"
    )
    return TypeError(f"{name}: {kind_of(value)}, on a GPU: {reason}")


def other_kind(name: str, value: Any, x: Any) -> TypeError:
    """What to raise for arrays of two kinds in one call."""
    is_array = isinstance(value, np.ndarray) or on_gpu(value)
    advice = "; copy one of them" if is_array else axes_meant(name, value, x.shape[-1:])
    return TypeError(f"{name}: {kind_of(value)}, must be {kind_of(x)} as x is{advice}")


def like(name: str, value: Any, x: Array) -> None:
    """An array of the shape and dtype of x."""
    if type(value) is np.ndarray and value.shape == x.shape and value.dtype is x.dtype:
        return
    array(name, value, x.dtype.type, x.shape)
    if value.shape != x.shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {x.shape}, the shape of x")
    if value.dtype.type is not x.dtype.type:
        advice = "" if name == "out" else f"; pass {name}.astype(np.{x.dtype.name})"
        raise TypeError(f"{name}: dtype {value.dtype}, must be {x.dtype} beside x of {x.dtype}{advice}")


def parameter(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """An array of this shape and of x's dtype."""
    array(name, value, dtype.type, shape)
    _shape(name, value, shape)
    _dtype(name, value, dtype, (dtype.type,))


def statistic(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """An array of this shape, no less precise than x."""
    if type(value) is np.ndarray and value.shape == shape and (value.dtype is dtype or value.dtype is FLOAT64):
        return
    array(name, value, dtype.type, shape)
    _shape(name, value, shape)
    _dtype(name, value, dtype, FLOATS if dtype.type is np.float32 else (np.float64,))


def _shape(name: str, value: Array, shape: Shape) -> None:
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {shape}")


def _dtype(name: str, value: Array, dtype: np.dtype[Any], allowed: Sequence[type]) -> None:
    if value.dtype.type not in allowed:
        names = " or ".join(np.dtype(t).name for t in allowed)
        raise TypeError(f"{name}: dtype {value.dtype}, must be {names} beside x of {dtype}")


def axes(axis: Any, x: Array) -> Shape:
    """The axes that `axis` names, ascending."""
    if type(axis) is int and -x.ndim <= axis < x.ndim:
        return (axis % x.ndim,)
    if type(axis) is tuple and set(map(type, axis)) == {int} and (usual := _axes_of_ints(axis, x.ndim)):
        return usual
    if x.ndim < 1:
        raise ValueError("x: shape (), must have at least 1 axis")
    try:
        _no_bool(axis, *(axis if isinstance(axis, tuple | list) else ()))
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
    """The axes, ascending; empty if one of them is out of range or named twice."""
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
        _no_bool(axis)
        return normalize_axis_index(axis, x.ndim)
    except TypeError:
        raise TypeError(f"channel_axis: {shown(axis)}, must be an int") from None
    except (AxisError, OverflowError):
        raise _no_axis("channel_axis", axis, x, name) from None


def channel_axes(axis: Any, x: Array) -> Shape:
    """`channel_axis`, as a tuple."""
    return (channel_axis(axis, x),)


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
    """Finite, and not negative, or with `least` of -inf of either sign."""
    return _number(name, value, least, math.inf)


def count(value: Any, C: int, of_none: bool) -> float:
    """A number of values that all channels have, said once or for each of them; 0 may be that of no values."""
    own = value
    if isinstance(value, np.ndarray):
        if value.shape not in ((C,), ()):
            raise ValueError(f"count: shape {value.shape}, must be a number or of shape ({C},)")
        if value.dtype.kind not in "iuf":
            raise TypeError(f"count: dtype {value.dtype}, must be of real numbers")
        if np.unique(value).size > 1:
            raise ValueError(f"count: {value}, must be the same for all channels")
        own = float(value.flat[0]) if value.size else 1.0
    found = _number("count", own, 0.0, math.inf)
    if found == 0 and not of_none:
        raise ValueError("count: 0, must be positive: that of all values of a channel")
    return found


def per_channel(given: Mapping[str, Any], not_negative: Sequence[str]) -> list[Array]:
    """Numbers or arrays of one axis, which fit together, as float64 arrays of one shape; copies."""
    found = {}
    for name, value in given.items():
        try:
            own = np.asarray(value)
        except ValueError:  # lists of several lengths
            own = np.empty(0, object)
        if own.dtype.kind not in "biuf":
            raise TypeError(f"{name}: {shown(value)}, must be a number or an array of one for each channel")
        if own.ndim > 1:
            raise ValueError(f"{name}: shape {own.shape}, must be a number or an array of shape (C,)")
        if name in not_negative and (own < 0).any():
            raise negative(name, own)
        found[name] = own
    C = max((a.size for a in found.values() if a.ndim > 0), default=1)
    for name, own in found.items():
        if own.ndim > 0 and own.size != C:
            raise ValueError(f"{name}: shape {own.shape}, must be ({C},), as that of the others")
    return [np.array(np.broadcast_to(a, C), np.float64) for a in found.values()]


def is_iterable_of_arrays(value: Any) -> bool:
    """Whether it may be one, and is no array of any library."""
    if on_gpu(value) or hasattr(type(value), "__array__") or hasattr(type(value), "__dlpack__"):
        return False
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def flag(name: str, value: Any) -> None:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: {shown(value)}, must be True or False")


def index(name: str, value: Any) -> int:
    """A whole number."""
    try:
        _no_bool(value)
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {shown(value)}, must be an int") from None


def _no_bool(*values: Any) -> None:
    """TypeError, for the caller to name the argument: Python takes True for 1, but none means it so."""
    if any(isinstance(value, bool | np.bool_) for value in values):
        raise TypeError


def size(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least 1, or `least`."""
    number = index(name, value)
    if number < least:
        raise ValueError(f"{name}: {shown(value)}, must be at least {least}")
    return number


def sizes(name: str, value: Any) -> Shape:
    """Of some axes, or of one."""
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
    """How many channels there are."""
    found = size(name, value)
    _of_an_array(name, value, (found,))
    return found


def _of_an_array(name: str, value: Any, shape: Shape) -> None:
    """Sizes that an array can have; whether there is memory for it is another question."""
    if len(shape) > MOST_AXES:
        raise ValueError(f"{name}: {len(shape)} sizes, must be at most {MOST_AXES}, the axes that arrays can have")
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"{name}: {shown(value)}, must be of at most {MOST_VALUES} values in all")


def any_channel_axis(value: Any) -> int:
    """One that some array has."""
    found = index("channel_axis", value)
    if not -MOST_AXES <= found < MOST_AXES:
        raise ValueError(f"channel_axis: {shown(value)}, must be in [{-MOST_AXES}, {MOST_AXES - 1}]")
    return found


def dtype(value: Any) -> np.dtype[Any]:
    """One of those that the functions take."""
    try:
        found: np.dtype[Any] = np.dtype(value)
    except TypeError:
        found = np.dtype(object)
    if value is None or found.type not in FLOATS:
        raise TypeError(f"dtype: {shown(value)}, must be float32 or float64")
    return np.dtype(found.type)


def of_layer(name: str, x: Any, dtype: np.dtype[Any]) -> None:
    """An array of a layer's dtype."""
    array(name, x, dtype.type)
    if x.dtype.type is not dtype.type:
        raise TypeError(f"{name}: dtype {x.dtype}, must be {dtype}, the layer's; pass {name}.astype(np.{dtype})")


def ends_in(x: Array, shape: Shape) -> None:
    """An array with these sizes of its last axes."""
    if x.shape[-len(shape) :] != shape:
        raise ValueError(f"x: shape {x.shape}, must end in {shape}")


def channels(name: str, x: Array, axis: int, count: int) -> None:
    """An array of so many channels."""
    found = x.shape[channel_axis(axis, x, name)]
    if found != count:
        others = [i for i, size in enumerate(x.shape) if size == count]
        advice = f"; channel_axis={others[-1]} has {count}" if others else ""
        raise ValueError(f"{name}: shape {x.shape} has {found} channels on axis {axis}, must have {count}{advice}")


def negative(name: str, value: Array) -> ValueError:
    """What to raise for an array with negative numbers, which a kernel has found."""
    return ValueError(f"{name}: {np.nanmin(value)} in it, must not be negative")


def converted(name: str, value: Any, own: Array) -> Array:
    """An array of the shape and dtype of the layer's own."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: MaskedArray, must be a plain array{instead(name, value, own.dtype.type)}")
    try:
        given = np.asarray(value)
    except Exception as error:  # as of a tensor that requires a gradient, or of lists of several lengths
        advice = instead(name, value, own.dtype.type)
        raise TypeError(f"{name}: {type(value).__qualname__}, must be an array{advice}: {error}") from error
    if given.dtype.kind in "mM" or not np.can_cast(given.dtype, own.dtype, "same_kind"):
        raise TypeError(f"{name}: dtype {given.dtype}, must be one that casts to {own.dtype}")
    if given.shape != own.shape:
        raise ValueError(f"{name}: shape {given.shape}, must be {own.shape}")
    with np.errstate(over="ignore"):
        copy = given.astype(own.dtype)
    if own.dtype.kind == "f" and not np.array_equal(np.isinf(copy), np.isinf(given)):
        raise ValueError(f"{name}: {np.abs(given).max()} in it, must fit into {own.dtype}")
    if own.dtype.kind == "i" and not (given.astype(object) == np.abs(copy)).all():
        raise ValueError(f"{name}: {given}, must be a number of batches")
    return copy


def replacement(name: str, value: Any, own: Array) -> None:
    """A writable array of the shape and dtype of a layer's own."""
    if type(value) is not np.ndarray:
        _array_type(name, value, own.dtype.type, own.shape)
    if value.dtype.type is not own.dtype.type:
        advice = f"; assign {name}.astype(np.{own.dtype})" if is_real(value.dtype) else ""
        raise TypeError(f"{name}: dtype {value.dtype}, must be {own.dtype}{advice}")
    _shape(name, value, own.shape)
    _written(name, value)


def mask(value: Any, shape: Shape) -> None:
    """A bool array of this shape with a True in it, if there is anything in it."""
    mask_type(value, shape)
    if value.size > 0 and not value.any():
        raise ValueError("mask: all False, must leave at least one position")


def mask_type(value: Any, shape: Shape, name: str = "mask") -> None:
    """A bool array of this shape."""
    if type(value) is not np.ndarray:
        _array_type(name, value, np.bool_, shape)
    if value.dtype.type is not np.bool_:
        raise TypeError(f"{name}: dtype {value.dtype}, must be bool")
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {shape}, the shape of x without its channel axis")


def several_values(x: Array, count: int, masked: bool) -> None:
    if count == 1 and x.size > 0 and masked:
        raise ValueError("mask: leaves one position, must leave at least two for a channel to have a variance")
    if count == 1 and x.size > 0:
        raise ValueError(f"x: shape {x.shape} has one value per channel, must have at least two to have a variance")


def batches(value: Any) -> Iterable[tuple[str, Any]]:
    """The arrays of an iterable, or one array, each with a name for errors."""
    if isinstance(value, np.ndarray):
        return (("batches", value),)
    if not is_iterable_of_arrays(value):
        advice = instead("batches", value)
        raise TypeError(f"batches: {type(value).__qualname__}, must be an iterable of numpy.ndarray or one{advice}")
    return ((f"batches[{i}]", batch) for i, batch in enumerate(value))


def enough_values(name: str, count: Array) -> None:
    """Two of each channel, which then has a variance."""
    if (count < 2).any():
        raise ValueError(f"{name}: {count.min():g} values per channel in all, must be at least two to have a variance")


def out(value: Any, x: Array, same: dict[str, Any], apart: dict[str, Any]) -> None:
    """Writable, like x, each of `same` either its very memory or apart from it, all of `apart` apart from it."""
    like("out", value, x)
    _written("out", value)
    for name, other in overlap.near(value, same | apart):
        if name not in same or not overlap.same_memory(value, other):
            _no_overlap("out", value, name, other)


def updated(name: str, value: Any, shape: Shape, dtype: np.dtype[Any], apart: dict[str, Any]) -> None:
    """A statistic that is updated in place: None, or writable and apart from all else."""
    if value is None:
        return
    statistic(name, value, shape, dtype)
    _written(name, value)
    for other_name, other in overlap.near(value, apart):
        _no_overlap(name, value, other_name, other)


def _written(name: str, value: Array) -> None:
    if not value.flags.writeable:
        raise ValueError(f"{name}: read-only, must be writable")
    if not value.flags.forc and _may_overlap_itself(value):
        raise ValueError(f"{name}: strides {value.strides} may let elements overlap, each must have memory of its own")


def _may_overlap_itself(value: Array) -> bool:
    reach = value.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(value.strides, value.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def _no_overlap(name: str, value: Array, other_name: str, other: Array) -> None:
    if overlap.overlap(value, other):
        also = f", or be {other_name} itself" if name == "out" and other_name in ("x", "dy") else ""
        raise ValueError(f"{name}: overlaps {other_name}, must have memory of its own{also}")
