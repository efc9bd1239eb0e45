"""What the scalers are built on: scikit-learn's base classes where it is installed, else as much of them as they need.

So they are estimators of scikit-learn's where there is one, with all that this means (pipelines, `clone`, `set_output`,
routing of metadata, display), and work alone where there is none.
"""

import inspect
import warnings
from typing import Any, Self

import numpy as np

from numbanorm import _table_checks
from numbanorm._types import Array

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import validate_data  # from version 1.6 on

    class Estimator(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
        """A transformer whose result has the columns of what it is given."""

    def converted(estimator: Any, X: Any, reset: bool) -> Array:
        """X, whatever it is, as an array of two axes; its number of columns and their names, if any, are those of the
        estimator, or with `reset` become so.
        """
        floats = (np.float64, np.float32)
        return validate_data(estimator, X, dtype=floats, ensure_all_finite=False, reset=reset)

except ImportError:

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """An estimator is used before it has been fitted."""

    class Estimator:  # type: ignore[no-redef]
        """A transformer whose result has the columns of what it is given."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """The constructor's arguments, by name."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **params: Any) -> Self:
            """Set some of the constructor's arguments; returns the estimator."""
            known = self.get_params()
            for name in params:
                if name not in known:
                    raise ValueError(f"{name}: no parameter, must be among {', '.join(known)}")
            vars(self).update(params)
            return self

        def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
            """`fit`, then `transform` the same array."""
            return self.fit(X, y, **fit_params).transform(X)  # type: ignore[attr-defined]

        def get_feature_names_out(self, input_features: Any = None) -> Array:
            """The names of the columns: those given, those of `fit`, or x0, x1 and so on."""
            fitted(self)
            names = [f"x{i}" for i in range(self.n_features_in_)]  # type: ignore[attr-defined]
            own = getattr(self, "feature_names_in_", np.asarray(names, object))
            if input_features is None:
                return own
            _table_checks.same_names("input_features", input_features, own, hasattr(self, "feature_names_in_"))
            return np.asarray(input_features, object)

        def __repr__(self) -> str:
            defaults = inspect.signature(type(self)).parameters
            changed = {k: v for k, v in self.get_params().items() if v != defaults[k].default}
            return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    def converted(estimator: Any, X: Any, reset: bool) -> Array:
        """X, whatever it is, as an array of two axes; its number of columns and their names, if any, are those of the
        estimator, or with `reset` become so.
        """
        own = _table_checks.table(X)
        set_columns(estimator, own, getattr(X, "columns", None), reset)
        return own


def fitted(estimator: Any) -> None:
    """An error if an estimator has not been fitted."""
    if not hasattr(estimator, "n_features_in_"):
        raise NotFittedError(f"This {type(estimator).__name__} is not fitted yet; call fit or partial_fit first")


def table(estimator: Any, X: Any, reset: bool = False) -> Array:
    """X as an array of two axes and of real numbers, whose columns are those of the estimator, or become so.

    One of NumPy's arrays is taken as it is, of whatever real dtype: it may be a large file.
    """
    _table_checks.not_masked(X)
    if not (isinstance(X, np.ndarray) and _table_checks.is_table(X)):
        return converted(estimator, X, reset)
    set_columns(estimator, X, None, reset)
    if hasattr(estimator, "feature_names_in_"):
        name = type(estimator).__name__
        warnings.warn(f"X does not have valid feature names, but {name} was fitted with feature names", stacklevel=4)
    return X if isinstance(X, np.memmap) else np.asarray(X)


def set_columns(estimator: Any, X: Array, names: Any, reset: bool) -> None:
    """Those of X are those of the estimator, or an error; with `reset` they become so, names too if they are texts."""
    if reset:
        vars(estimator).pop("feature_names_in_", None)
        if names is not None and all(isinstance(name, str) for name in names):
            estimator.feature_names_in_ = np.asarray(names, object)
        estimator.n_features_in_ = X.shape[1]
    _table_checks.features(estimator, X)
    if names is not None and hasattr(estimator, "feature_names_in_"):
        _table_checks.same_names("X", names, estimator.feature_names_in_)
