"""Checks of arrays. Each error names the argument, what it was and what it must be."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from numbanorm._call import overlap
from numbanorm._call.advice import axes_meant, copied, instead, kind_of
from numbanorm._types import FLOAT64, FLOATS, Array, Shape


def array(name: str, value: Any, dtype: Any = None, shape: Shape | None = None) -> None:
    """Check that a value is a NumPy array of float32 or float64.

    The error advises how to make it one of this dtype and shape.
    """
    if type(value) is not np.ndarray:
        array_type(name, value, dtype, shape)
    if value.dtype.type not in FLOATS:
        raise TypeError(f"{name}: dtype {value.dtype}, must be float32 or float64{instead(name, value, dtype)}")


def numbers(name: str, value: Any) -> None:
    """Check that a value is a NumPy array of real numbers, of whatever dtype."""
    if type(value) is not np.ndarray:
        array_type(name, value, np.float64)
    if not is_real(value.dtype):
        raise TypeError(f"{name}: dtype {value.dtype}, must be of real numbers{instead(name, value, np.float64)}")


def is_real(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is one of real numbers."""
    return dtype.kind in "biuf" or _of_ml_dtypes(dtype, "float", "int")


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is one of floating point."""
    return dtype.kind == "f" or _of_ml_dtypes(dtype, "float")


def _of_ml_dtypes(dtype: np.dtype[Any], *kinds: str) -> bool:
    """Return whether a dtype, as bfloat16 or uint4, is one of the library ml_dtypes and of these kinds."""
    return dtype.type.__module__ == "ml_dtypes" and any(kind in dtype.name for kind in kinds)


def array_type(name: str, value: Any, dtype: Any = None, shape: Shape | None = None) -> None:
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
    """Return whether a value is an array on a GPU.

    A type does not tell: those of PyTorch and JAX have the GPU's interface wherever their arrays are.
    """
    known = getattr(value, "is_cuda", None)
    if known is not None:
        return bool(known)
    try:
        return hasattr(value, "__cuda_array_interface__")
    except RuntimeError:  # it has one that may not be looked at
        return True


def no_cuda(name: str, value: Any, error: Exception) -> TypeError:
    """Return the error to raise for an array on a GPU if its kernels cannot run."""
    reason = (
        error if isinstance(error, ImportError) else f"the kernels cannot be loaded: {type(error).__name__}: {error}"
    )
    return TypeError(f"{name}: {kind_of(value)}, on a GPU: {reason}")


def other_kind(name: str, value: Any, x: Any) -> TypeError:
    """Return the error to raise if a call is given arrays of two kinds."""
    is_array = isinstance(value, np.ndarray) or on_gpu(value)
    advice = "; copy one of them" if is_array else axes_meant(name, value, x.shape[-1:])
    return TypeError(f"{name}: {kind_of(value)}, must be {kind_of(x)} as x is{advice}")


def like(name: str, value: Any, x: Array) -> None:
    """Check that an array has the shape and dtype of x."""
    if type(value) is np.ndarray and value.shape == x.shape and value.dtype is x.dtype:
        return
    array(name, value, x.dtype.type, x.shape)
    if value.shape != x.shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {x.shape}, the shape of x")
    if value.dtype.type is not x.dtype.type:
        advice = "" if name == "out" else f"; pass {name}.astype(np.{x.dtype.name})"
        raise TypeError(f"{name}: dtype {value.dtype}, must be {x.dtype} beside x of {x.dtype}{advice}")


def parameter(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """Check that an array has this shape and the dtype of x."""
    array(name, value, dtype.type, shape)
    shape_of(name, value, shape)
    _dtype(name, value, dtype, (dtype.type,))


def statistic(name: str, value: Any, shape: Shape, dtype: np.dtype[Any]) -> None:
    """Check that an array has this shape and is no less precise than x."""
    if type(value) is np.ndarray and value.shape == shape and (value.dtype is dtype or value.dtype is FLOAT64):
        return
    array(name, value, dtype.type, shape)
    shape_of(name, value, shape)
    _dtype(name, value, dtype, FLOATS if dtype.type is np.float32 else (np.float64,))


def shape_of(name: str, value: Array, shape: Shape) -> None:
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {shape}")


def _dtype(name: str, value: Array, dtype: np.dtype[Any], allowed: Sequence[type]) -> None:
    if value.dtype.type not in allowed:
        names = " or ".join(np.dtype(t).name for t in allowed)
        raise TypeError(f"{name}: dtype {value.dtype}, must be {names} beside x of {dtype}")


def is_iterable_of_arrays(value: Any) -> bool:
    """Return whether a value may be an iterable of arrays, and is not itself an array of any library."""
    if on_gpu(value) or hasattr(type(value), "__array__") or hasattr(type(value), "__dlpack__"):
        return False
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def mask(value: Any, shape: Shape) -> None:
    """Check that a value is a bool array of this shape, and that it is empty or has a True in it."""
    mask_type(value, shape)
    if value.size > 0 and not value.any():
        raise ValueError("mask: all False, must leave at least one position")


def mask_type(value: Any, shape: Shape, name: str = "mask") -> None:
    """Check that a value is a bool array of this shape."""
    if type(value) is not np.ndarray:
        array_type(name, value, np.bool_, shape)
    if value.dtype.type is not np.bool_:
        raise TypeError(f"{name}: dtype {value.dtype}, must be bool")
    if value.shape != shape:
        raise ValueError(f"{name}: shape {value.shape}, must be {shape}, the shape of x without its channel axis")


def several_values(x: Array, count: int, masked: bool) -> None:
    if count == 1 and x.size > 0 and masked:
        raise ValueError("mask: leaves one position, must leave at least two for a channel to have a variance")
    if count == 1 and x.size > 0:
        raise ValueError(f"x: shape {x.shape} has one value per channel, must have at least two to have a variance")


def out(value: Any, x: Array, same: dict[str, Any], disjoint: dict[str, Any]) -> None:
    """Check that `out` is writable and has the shape and dtype of x.

    It may be the very memory of an array of `same`, and may share none with any other array of `same` and `disjoint`.
    """
    like("out", value, x)
    written("out", value)
    for name, other in overlap.near(value, same | disjoint):
        if name not in same or not overlap.same_memory(value, other):
            _no_overlap("out", value, name, other)


def updated(name: str, value: Any, shape: Shape, dtype: np.dtype[Any], disjoint: dict[str, Any]) -> None:
    """Check that a statistic that is updated in place is None, or writable and disjoint from all other arrays."""
    if value is None:
        return
    statistic(name, value, shape, dtype)
    written(name, value)
    for other_name, other in overlap.near(value, disjoint):
        _no_overlap(name, value, other_name, other)


def written(name: str, value: Array) -> None:
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
