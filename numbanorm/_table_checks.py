"""What tables and the arguments of scalers must be, as `numbanorm._checks` has it for the rest."""

import math
from typing import Any

import numpy as np

from numbanorm import _checks
from numbanorm._types import Array


def table(X: Any) -> Array:
    """Whatever can be one, as an array of two axes and of real numbers."""
    if type(X).__module__.startswith("scipy.sparse"):
        raise TypeError("X: sparse, must be dense; pass X.toarray()")
    return filled_table(_real("X", X))


def _real(name: str, value: Any) -> Array:
    """An array of real numbers, of whatever dtype it is or objects make."""
    try:
        own = np.asarray(value)
        own = own.astype(np.float64) if own.dtype.kind == "O" else own
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: {type(value).__qualname__}, must be an array of real numbers: {error}") from error
    if not _checks.is_real(own.dtype):
        raise TypeError(f"{name}: dtype {own.dtype}, must be of real numbers")
    return own


def is_table(X: Array) -> bool:
    """Whether there is nothing to convert, and nothing to complain of: that is done where arrays are converted."""
    return X.ndim == 2 and X.size > 0 and _checks.is_real(X.dtype) and not isinstance(X, np.matrix)


def not_masked(X: Any) -> None:
    """No mask that would be forgotten."""
    if isinstance(X, np.ma.MaskedArray):
        raise TypeError("X: numpy.ma.MaskedArray, must be a plain array; pass X.filled(np.nan)")


def filled_table(X: Array) -> Array:
    """Of two axes, and not empty."""
    if X.ndim != 2:
        raise ValueError(f"X: shape {X.shape}, must have 2 axes, samples and features")
    if X.size == 0:
        raise ValueError(f"X: shape {X.shape}, must have at least 1 sample and 1 feature")
    return X


def features(scaler: Any, X: Any) -> None:
    """As many columns as the scaler has been fitted to."""
    if X.shape[1] != scaler.n_features_in_:
        raise ValueError(
            f"X has {X.shape[1]} features, but {type(scaler).__name__} is expecting {scaler.n_features_in_} features "
            "as input"
        )


def same_names(name: str, value: Any, own: Array, compared: bool = True) -> None:
    """As many names as there are columns, and the same in the same order."""
    names = list(value)
    if len(names) != len(own) or (compared and names != list(own)):
        raise ValueError(f"{name}: feature names {names}, must be {list(own)}, those that were fitted, in their order")


def same_columns(scaler: Any, other: Any) -> None:
    """Those that another scaler has been fitted to."""
    if scaler.n_features_in_ != other.n_features_in_:
        raise ValueError(f"other: fitted to {other.n_features_in_} features, must be {scaler.n_features_in_}")
    own, names = (getattr(s, "feature_names_in_", None) for s in (scaler, other))
    if own is not None and names is not None and list(own) != list(names):
        raise ValueError(f"other: fitted to features {list(names)}, must be {list(own)}")


def weights(value: Any, count: int) -> Array:
    """A weight for each of so many samples, or one for all."""
    own = _real("sample_weight", value)
    if own.ndim == 0:
        own = np.full(count, own)
    if own.shape != (count,):
        raise ValueError(f"sample_weight: shape {own.shape}, must be ({count},), one for each sample of X")
    if not np.isfinite(own).all() or (own < 0).any():
        raise ValueError("sample_weight: must be finite and not negative")
    if not own.any():
        raise ValueError("sample_weight: zero for all samples, must be positive for one at least")
    return own.astype(np.float64)


def interval(name: str, value: Any) -> None:
    """Two numbers, the smaller one first."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: {value!r}, must be a tuple of two numbers")
    low, high = (_checks.number(name, number, -math.inf) for number in value)
    if not low < high:
        raise ValueError(f"{name}: {value!r}, must have the smaller number first")


def infinity(name: str) -> ValueError:
    """What to raise for an array that has one."""
    return ValueError(f"{name}: infinity in it, must be finite, or NaN for a missing value")
