"""The base classes of the scalers: scikit-learn's if it is installed, or else as much of them as the scalers need.

With scikit-learn, scalers are its estimators in every respect (pipelines, `clone`, `set_output`, routing of metadata,
display). Without it, they work alone.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from numbanorm._scaling import table_arguments
from numbanorm._scaling.table_arguments import set_columns
from numbanorm._types import Array

try:
    from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import validate_data  # from version 1.6 on

    try:
        from sklearn.callback import CallbackSupportMixin, with_callbacks  # from version 1.9 on
    except ImportError:

        class CallbackSupportMixin:  # type: ignore[no-redef]
            """An empty base class, for versions without callbacks."""

        def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
            """Return the method as it is."""
            return method

    class Estimator(CallbackSupportMixin, OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
        """A transformer whose result has the columns of its input."""

        @with_callbacks  # type: ignore[untyped-decorator]
        def _with_callbacks(self, fit: Callable[[], None], X: Any, y: Any, **metadata: Any) -> None:
            """Fit as one task. Callbacks are told when it begins and when it ends."""
            if vars(self).keys().isdisjoint(("_skl_callbacks", "_parent_callback_ctx")):
                fit()  # nobody listens, nor is this a step of what somebody listens to
                return
            context = self._init_callback_context()
            given = {"estimator": self, "X": X, "y": y, "metadata": metadata}
            context.call_on_fit_task_begin(**given)
            fit()
            context.call_on_fit_task_end(**given, reconstruction_attributes={})

    def named_columns(estimator: Any, X: Any, table: Array, reset: bool) -> None:
        """Apply `set_columns` to a table that was made of X. X may have names of columns."""
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        set_columns(estimator, table, None, reset=False)

except ImportError:

    class NotFittedError(ValueError, AttributeError):  # type: ignore[no-redef]
        """An estimator is used before it has been fitted."""

    class Estimator:  # type: ignore[no-redef]
        """A transformer whose result has the columns of its input."""

        def get_params(self, deep: bool = True) -> dict[str, Any]:
            """Return the constructor's arguments, by name."""
            return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

        def set_params(self, **params: Any) -> Self:
            """Set some of the constructor's arguments. Return the estimator."""
            known = self.get_params()
            for name in params:
                if name not in known:
                    raise ValueError(f"{name}: no parameter, must be among {', '.join(known)}")
            vars(self).update(params)
            return self

        def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
            """Call `fit`, and then `transform` with the same array."""
            return self.fit(X, y, **fit_params).transform(X)  # type: ignore[attr-defined]

        def get_feature_names_out(self, input_features: Any = None) -> Array:
            """Return the names of the columns: those given, those of `fit`, or x0, x1 and so on."""
            if not hasattr(self, "n_features_in_"):
                raise not_fitted(self)
            names = [f"x{i}" for i in range(self.n_features_in_)]
            known_names = getattr(self, "feature_names_in_", np.asarray(names, object))
            if input_features is None:
                return known_names
            table_arguments.same_names(
                "input_features", input_features, known_names, hasattr(self, "feature_names_in_")
            )
            return np.asarray(input_features, object)

        def __repr__(self) -> str:
            defaults = inspect.signature(type(self)).parameters
            changed = {k: v for k, v in self.get_params().items() if v != defaults[k].default}
            return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

        def _with_callbacks(self, fit: Callable[[], None], X: Any, y: Any, **metadata: Any) -> None:
            fit()

    def named_columns(estimator: Any, X: Any, table: Array, reset: bool) -> None:
        """Apply `set_columns` to a table that was made of X. X may have names of columns."""
        set_columns(estimator, table, getattr(X, "columns", None), reset)


def not_fitted(estimator: Any) -> Exception:
    """Return the error to raise if an estimator has not been fitted."""
    return NotFittedError(f"This {type(estimator).__name__} is not fitted yet; call fit or partial_fit first")


def table(estimator: Any, X: Any, reset: bool = False) -> Array:
    """Convert X to an array of two axes and of real numbers. Its columns must be those of the estimator.

    With `reset`, the columns of the estimator become those of X. An array of NumPy's is not converted, whatever real
    dtype it has: it may be a large file.
    """
    table_arguments.not_masked("X", X)
    if not (isinstance(X, np.ndarray) and table_arguments.is_table(X)):
        found = table_arguments.table(X)
        named_columns(estimator, X, found, reset)
        return found
    set_columns(estimator, X, None, reset)
    if hasattr(estimator, "feature_names_in_"):
        name = type(estimator).__name__
        warnings.warn(f"X does not have valid feature names, but {name} was fitted with feature names", stacklevel=4)
    return X if isinstance(X, np.memmap) else np.asarray(X)
