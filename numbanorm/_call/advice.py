"""Advice in error messages: what to pass in place of an array that is refused.

The advice works when it is followed to the letter. Where no conversion is known to work, there is none. The libraries
of other arrays are not imported.
"""

from numbers import Real
from typing import Any

import numpy as np

from numbanorm._types import Shape

WRITTEN = "out", "running_mean", "running_var"  # what a function writes into a copy of these would be lost
_CONVERTED = "builtins", "array", "collections", "numpy", "pandas"  # to convert their values has no side effect
_TO_HOST = {"cupy": "get", "numba": "copy_to_host"}
_LONGEST = 120


def shown(value: Any) -> str:
    """Return the repr of a value, cut to a length that fits a message."""
    try:
        text = repr(value)
    except Exception:  # of an int of more than 4300 digits, say
        text = f"<{type(value).__qualname__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}...{text[-10:]}"


def kind_of(value: Any) -> str:
    """Return the name of the type of a value."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def instead(name: str, value: Any, dtype: Any = None, shape: Shape | None = None) -> str:
    """Return the end of a message: what to pass so that the array has this dtype and shape.

    A dtype of None stands for float32 or float64.
    """
    if _is_tracer(value):
        of = f"np.asarray({name}) in a function that jax.pure_callback calls"
        return f"; it has no values while JAX traces: pass {of}, to be differentiated in one of jax.custom_vjp"
    if isinstance(value, np.ndarray) and value.dtype.kind == "c" and name in ("x", "dy"):
        return f"; pass the real and the imaginary part, {name}.real and {name}.imag, in calls of their own"
    found = axes_meant(name, value, shape)
    if not found and (conversion := _conversion(name, value, dtype, shape)):
        found = f"; pass {conversion}"
    return found


def axes_meant(name: str, value: Any, shape: Shape | None) -> str:
    """Return the end of a message for a caller who passed PyTorch's normalized_shape in place of a parameter."""
    if not shape or name not in ("weight", "bias") or not _are_sizes(value, shape):
        return ""
    axes = tuple(range(-np.size(value), 0))
    named = axes[0] if len(axes) == 1 else axes
    return f", not the size of axes: the axes themselves are given, as axis={named}"


def copied(name: str, value: Any) -> str:
    """Return the end of a message: how to copy an array of a GPU to the host. It is empty for an unknown library."""
    library = _known_library(value)
    if name in WRITTEN or library is None:
        return ""
    found = _of_tensor(name, value, None) if library == "torch" else _called(name, [_TO_HOST[library]])
    return f"; pass {found}" if found else ""


def on_gpu(name: str, value: Any) -> str:
    """Return the end of a message: how to convert an array of a GPU to float32 on that GPU."""
    library = _known_library(value)
    if name in WRITTEN or library is None:
        return ""
    if library == "torch":
        steps = [step for step in _tensor_steps(value, ("float32", "float64")) if step != "cpu"]
        return "" if value.is_complex() else f"; pass {_called(name, steps)}"
    if library == "cupy":
        return f"; pass {name}.astype(np.float32)"
    return f"; pass numba.cuda.to_device({name}.copy_to_host().astype(np.float32))"


def _known_library(value: Any) -> str | None:
    """Return the name of the library of an array that may be on a GPU, or None if it is not known."""
    return next((found for base in type(value).__mro__ if (found := _library(base)) in ("torch", *_TO_HOST)), None)


def _is_tracer(value: Any) -> bool:
    return any(base.__qualname__ == "Tracer" and _library(base) == "jax" for base in type(value).__mro__)


def _library(array_type: type) -> str:
    return array_type.__module__.partition(".")[0]


def _are_sizes(value: Any, shape: Shape) -> bool:
    sizes = (value,) if isinstance(value, int) else value
    if not isinstance(sizes, tuple | list) or not all(type(size) is int for size in sizes):
        return False
    return len(sizes) > 0 and sizes[-1] == shape[-1] and np.shape(value) != shape


def _conversion(name: str, value: Any, dtype: Any, shape: Shape | None) -> str | None:
    if shape is None and getattr(value, "shape", None) == ():
        return None
    if _known_library(value) == "torch":
        return _of_tensor(name, value, dtype)
    if isinstance(value, np.ma.MaskedArray):
        filled = f"{name}.filled({'False' if dtype is np.bool_ else 0})"
        return None if name in WRITTEN else _cast(filled, value.dtype, dtype)
    if name in WRITTEN:
        return None
    if isinstance(value, np.ndarray):
        return _of_array(name, value, dtype)
    if _library(type(value)) in _CONVERTED:
        return _of_numbers(name, value, dtype, shape)
    if hasattr(value, "toarray") and hasattr(value, "dtype"):  # SciPy's sparse arrays
        return _cast(f"{name}.toarray()", value.dtype, dtype)
    if hasattr(type(value), "__array__"):
        return f"np.asarray({name}, np.{np.dtype(dtype or np.float32)})"
    return f"np.from_dlpack({name})" if hasattr(type(value), "__dlpack__") else None


def _cast(text: str, given: Any, dtype: Any) -> str | None:
    """Return Python code that converts an array, of which `text` is the code, to the dtype.

    Return None if the array is not of real numbers.
    """
    if given == dtype or (dtype is None and given in (np.float32, np.float64)):
        return text
    is_real = given.kind in "biuf" or given.type.__module__ == "ml_dtypes"
    if dtype is None:
        dtype = np.float64 if given.type is np.longdouble else np.float32
    return f"{text}.astype(np.{np.dtype(dtype)})" if is_real else None


def _of_array(name: str, value: Any, dtype: Any) -> str | None:
    wanted = np.dtype(dtype or np.float32)
    if value.dtype.kind in "OUST":
        return None if _converted(value, wanted) is None else f"np.asarray({name}, np.{wanted})"
    return _cast(name, value.dtype, dtype)


def _of_numbers(name: str, value: Any, dtype: Any, shape: Shape | None) -> str | None:
    wanted = np.dtype(dtype or np.float32)
    found = _converted(value, wanted)
    if found is None or (found.ndim == 0 and not shape):
        return None
    if shape is None or found.shape == shape:
        return f"np.asarray({name}, np.{wanted})"
    return f"np.full({shape}, {name}, np.{wanted})" if isinstance(value, Real) else None


def _converted(value: Any, dtype: Any) -> Any:
    """Convert a value to an array of this dtype. Return None if that fails."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            kind = np.asarray(value).dtype.kind
            return np.asarray(value, dtype) if kind in ("b" if dtype == np.bool_ else "biufOUST") else None
    except Exception:  # whatever is in there, it is no number
        return None


def _of_tensor(name: str, value: Any, dtype: Any) -> str | None:
    if value.is_meta or value.is_complex():
        return None
    steps = _tensor_steps(value, ("float32", "float64") if dtype is None else (str(np.dtype(dtype)),))
    if name in WRITTEN and steps not in ([], ["detach"]):
        return None
    return _called(name, [*steps, "numpy"])


def _tensor_steps(value: Any, wanted: tuple[str, ...]) -> list[str]:
    """Return the names of the methods that rid a PyTorch tensor of what NumPy or a kernel does not know."""
    steps = [
        (value.requires_grad, "detach"),
        (value.is_quantized, "dequantize"),
        (str(value.layout) != "torch.strided", "to_dense"),
        (value.device.type != "cpu", "cpu"),
        (value.is_neg(), "resolve_neg"),
        (str(value.dtype).removeprefix("torch.") not in wanted, _TENSOR_CASTS[wanted[0]]),
    ]
    return [step for needed, step in steps if needed]


def _called(name: str, methods: list[str]) -> str:
    return "".join([name, *(f".{method}()" for method in methods)])


_TENSOR_CASTS = {"float32": "float", "float64": "double", "bool": "bool"}
