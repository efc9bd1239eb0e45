"""The base class of both scalers."""

from typing import Any, Self

import numpy as np

from numbanorm._call import numbers
from numbanorm._call.kinds import for_device
from numbanorm._scaling import ON_DEVICE, host_tables, table_arguments
from numbanorm._scaling.estimators import Estimator, not_fitted
from numbanorm._states import Linear
from numbanorm._types import Array


class Scaler(Estimator):
    """A base class. A subclass in `numbanorm.scalers` says what is measured, and how that scales a table."""

    copy: bool
    _fitted: tuple[str, ...]  # the attributes that `transform` needs
    _flags: tuple[str, ...]  # the parameters that are True or False

    def transform(self, X: Any, *, copy: bool | None = None) -> Any:
        """Scale X.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            With the columns that were fitted. A NaN stays.
        copy : bool, optional
            In the place of the constructor's.

        Returns
        -------
        array of shape (n_samples, n_features)
            Of the dtype of X if it is an array of floating point, else float64, or what it converts to. X itself if it
            was to be scaled in place.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong type or shape, or X has an infinity in it; or the scaler is not fitted. X is as
            it was then.
        """
        return self._scaled(X, copy, inverse=False)

    def inverse_transform(self, X: Any, *, copy: bool | None = None) -> Any:
        """Undo `transform`: return the X that it was given. The arguments are the same."""
        return self._scaled(X, copy, inverse=True)

    def merge(self, other: Any) -> Self:
        """Fit this scaler to what another one has seen, too, as if this one had been given all of it.

        Parameters
        ----------
        other : scaler
            A fitted one of the same kind and of the same columns.

        Returns
        -------
        scaler
            This one.

        Raises
        ------
        TypeError, ValueError
            It is of another kind or of other columns, or one of the two is not fitted.
        """
        if type(other) is not type(self):
            raise TypeError(f"other: {type(other).__qualname__}, must be {type(self).__qualname__}")
        for scaler in (self, other):
            if not hasattr(scaler, "n_samples_seen_"):
                raise not_fitted(scaler)
        table_arguments.same_columns(self, other)
        self._set(self._together(self._before(), other._before()))
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, anew: bool) -> Self:
        """Fit to all of X. If there is an error, leave the scaler as it was."""
        before = self.__dict__.copy()

        def fit() -> None:
            self._check_parameters()
            first = anew or not hasattr(self, "n_samples_seen_")
            where = for_device("X", X, ON_DEVICE) or host_tables
            table = where.table(self, X, first)
            self.n_features_in_ = table.shape[1]
            seen = self._look(where, table, sample_weight)
            self._set(seen if first else self._together(self._before(), seen))

        try:
            self._with_callbacks(fit, X, y, sample_weight=sample_weight)
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _scaled(self, X: Any, copy: bool | None, inverse: bool) -> Any:
        if not all(hasattr(self, name) for name in self._fitted):
            raise not_fitted(self)
        self._check_parameters()
        if copy is not None:
            numbers.flag("copy", copy)
        where = for_device("X", X, ON_DEVICE) or host_tables
        table = where.table(self, X)
        linear = self._linear(table.shape[1])
        if inverse:
            linear = linear._replace(low=-np.inf, high=np.inf).inverse()
        return where.scaled(table, linear, in_place=not (self.copy if copy is None else copy))

    def _check_parameters(self) -> None:
        for name in self._flags:
            numbers.flag(name, getattr(self, name))

    def _columns(self) -> int:
        """Return how many columns have been fitted, also if a user has set the attributes in place of a fit."""
        known = getattr(self, "n_features_in_", None)
        return int(max(np.size(getattr(self, name)) for name in self._fitted) if known is None else known)

    def _attribute(self, name: str, count: int) -> Array:
        return table_arguments.attribute(self, name, count)

    def _look(self, where: Any, X: Any, sample_weight: Any) -> Any:
        """Measure a table. `_together` merges what is returned, and `_set` makes attributes of it."""
        raise NotImplementedError

    def _together(self, before: Any, seen: Any) -> Any:
        raise NotImplementedError

    def _before(self) -> Any:
        """Return what `_look` returned so far, as far as the attributes tell it if a user has set them."""
        raise NotImplementedError

    def _set(self, seen: Any) -> None:
        raise NotImplementedError

    def _linear(self, count: int) -> Linear:
        """Return the map that scales so many columns."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
