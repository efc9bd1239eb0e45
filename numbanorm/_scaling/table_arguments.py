"""Checks of tables and of the arguments of scalers, as `numbanorm._call.arguments` has them for all other arrays."""

import math
from typing import Any

import numpy as np

from numbanorm._call import arguments, numbers
from numbanorm._call.advice import instead
from numbanorm._states import State
from numbanorm._types import Array


def table(X: Any) -> Array:
    """Convert whatever can be a table to an array of two axes and of real numbers, keeping a real dtype."""
    if type(X).__module__.startswith("scipy.sparse"):
        raise TypeError("X: sparse, must be dense; pass X.toarray()")
    return filled_table(_real("X", X))


def _real(name: str, value: Any) -> Array:
    """Convert a value to an array of real numbers, and keep a real dtype.

    Dates, texts and objects become float64. What stands for a missing value among them becomes NaN.
    """
    not_masked(name, value)
    kind = type(value).__qualname__
    try:
        found = np.asarray(value)
        found = found if arguments.is_real(found.dtype) else _floats(found)
    except OverflowError as error:
        raise ValueError(f"{name}: {kind}, must be of numbers that fit into float64: {error}") from error
    except Exception as error:  # a tensor that requires a gradient or is sparse has one of its own
        wrong = ValueError if isinstance(error, ValueError) else TypeError
        reason = instead(name, value) if kind == "Tensor" else f": {error}"  # PyTorch's own advice may fail in turn
        raise wrong(f"{name}: {kind}, must be an array of real numbers{reason}") from error
    return found


def _floats(a: Array) -> Array:
    """Convert an array of other things than numbers, as of texts that name numbers, to float64."""
    if a.dtype.kind in "mM":  # how many units since 1970, or in all
        return np.where(np.isnat(a), np.nan, a.astype(np.int64).astype(np.float64))
    if a.dtype.kind not in "OSUT":
        raise ValueError("Complex data not supported" if "complex" in a.dtype.name else f"dtype {a.dtype}")
    if a.dtype.kind == "O":
        a = np.array([np.nan if _is_missing(value) else value for value in a.flat], object).reshape(a.shape)
    return a.astype(np.float64)


def _is_missing(value: Any) -> bool:
    """Return whether a value is the NA or the NaT of pandas, or the NaT of NumPy."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        return bool(np.isnat(value))
    return type(value).__name__ in ("NAType", "NaTType")


def is_table(X: Array) -> bool:
    """Return whether an array needs neither a conversion nor an error, which `table` would bring."""
    return X.ndim == 2 and X.size > 0 and arguments.is_real(X.dtype) and not isinstance(X, np.matrix)


def not_masked(name: str, value: Any) -> None:
    """Check that an array is not masked: its mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        instead = "np.nan" if name == "X" else "0"
        raise TypeError(f"{name}: numpy.ma.MaskedArray, must be a plain array; pass {name}.filled({instead})")


def filled_table(X: Array) -> Array:
    """Check that a table has two axes and is not empty.

    scikit-learn's checks of estimators look for the words of these errors.
    """
    if X.ndim != 2:
        reshape = "Reshape your data: X.reshape(-1, 1) if it has one feature, X.reshape(1, -1) if it has one sample"
        raise ValueError(f"X: shape {X.shape}, must have 2 axes, samples and features. {reshape}")
    for count, name in zip(X.shape, ("sample", "feature"), strict=True):
        if count == 0:
            raise ValueError(f"X: 0 {name}(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X


def set_columns(estimator: Any, X: Array, names: Any, reset: bool) -> None:
    """Check that the columns of X are those of the estimator. With `reset`, make them so.

    The names of columns belong to that if all are texts.
    """
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        if names is not None and all(isinstance(name, str) for name in names):
            estimator.feature_names_in_ = np.asarray(names, object)
        estimator.n_features_in_ = X.shape[1]
    features(estimator, X.shape[1])
    if names is not None and hasattr(estimator, "feature_names_in_"):
        same_names("X", names, estimator.feature_names_in_)


def features(estimator: Any, count: int) -> None:
    """Check that the estimator was fitted to as many columns."""
    if count != getattr(estimator, "n_features_in_", count):
        expected = f"{type(estimator).__name__} is expecting {estimator.n_features_in_} features as input"
        raise ValueError(f"X has {count} features, but {expected}")


def same_names(name: str, value: Any, fitted: Array, compared: bool = True) -> None:
    """Check that there is a name for each column. With `compared`, check that each is the one that was fitted."""
    names = list(value)
    if len(names) != len(fitted) or (compared and names != list(fitted)):
        expected = f"{list(fitted)}, those that were fitted, in their order"
        raise ValueError(f"{name}: feature names {names}, must be {expected}")


def same_columns(scaler: Any, other: Any) -> None:
    """Check that another scaler was fitted to the same columns."""
    if scaler._columns() != other._columns():
        raise ValueError(f"other: fitted to {other._columns()} features, must be {scaler._columns()}")
    fitted, names = (getattr(s, "feature_names_in_", None) for s in (scaler, other))
    if fitted is not None and names is not None and list(fitted) != list(names):
        raise ValueError(f"other: fitted to features {list(names)}, must be {list(fitted)}")


def weights(value: Any, count: int) -> Array:
    """Return a weight for each of so many samples. One number stands for all."""
    weights = _real("sample_weight", value)
    if weights.ndim == 0:
        weights = np.full(count, weights)
    if weights.shape != (count,):
        raise ValueError(f"sample_weight: shape {weights.shape}, must be ({count},), one for each sample of X")
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise ValueError("sample_weight: must be finite and not negative")
    if not weights.any():
        raise ValueError("sample_weight: zero for all samples, must be positive for one at least")
    return weights.astype(np.float64)


def interval(name: str, value: Any) -> None:
    """Check that a value is two numbers, the smaller one first."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name}: {value!r}, must be a tuple of two numbers")
    low, high = (numbers.number(name, number, -math.inf) for number in value)
    if not low < high:
        raise ValueError(f"{name}: {value!r}, must have the smaller number first")
    if math.isinf(high - low):
        raise ValueError(f"{name}: {value!r}, must be of numbers whose difference fits into float64")


def attribute(scaler: Any, name: str, count: int) -> Array:
    """Return a fitted attribute, which a user may have set, as float64 numbers of so many columns."""
    found = getattr(scaler, name)
    if type(found) is np.ndarray and found.dtype == np.float64 and found.shape == (count,):
        return found
    found = _real(name, found).astype(np.float64)
    if found.shape not in ((), (1,), (count,)):
        raise ValueError(f"{name}: shape {found.shape}, must be ({count},), a number for each column")
    return np.broadcast_to(found, (count,))


def finite_moments(state: State, weights: Array | None) -> None:
    """Check that each channel has no values, or the moments of finite ones."""
    if np.isfinite(state.m2[state.counts > 0]).all():
        return
    if weights is None:
        raise infinity("X")
    raise ValueError(f"sample_weight: {weights.max():g} in it, too large for the sum of weighted squares")


def infinity(name: str) -> ValueError:
    """Return the error to raise for an array that has an infinity in it."""
    return ValueError(f"{name}: infinity in it, must be finite, or NaN for a missing value")
