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
    if isinstance(X, np.ma.MaskedArray):
        raise TypeError("X: MaskedArray, must be a plain array; pass X.filled(np.nan)")
    own = np.asarray(X)
    if own.dtype.kind == "O":
        own = own.astype(np.float64)
    if own.dtype.kind not in "biuf":
        raise TypeError(f"X: dtype {own.dtype}, must be of real numbers")
    return filled_table(own)


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


def same_columns(scaler: Any, other: Any) -> None:
    """Those that another scaler has been fitted to."""
    if scaler.n_features_in_ != other.n_features_in_:
        raise ValueError(f"other: fitted to {other.n_features_in_} features, must be {scaler.n_features_in_}")
    own, names = (getattr(s, "feature_names_in_", None) for s in (scaler, other))
    if own is not None and names is not None and list(own) != list(names):
        raise ValueError(f"other: fitted to features {list(names)}, must be {list(own)}")


def weights(value: Any, count: int) -> Array:
    """A weight for each of so many samples, or one for all."""
    own = np.asarray(value)
    if own.dtype.kind not in "biuf":
        own = own.astype(np.float64)
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
