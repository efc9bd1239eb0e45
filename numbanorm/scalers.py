"""StandardScaler and MinMaxScaler: scikit-learn's, parallel, exact far from zero, for arrays of any size."""

from typing import Any, Self

import numpy as np

from numbanorm import _checks, _table_checks, _tables
from numbanorm._devices import elsewhere
from numbanorm._estimators import Estimator, fitted
from numbanorm._states import Extremes, Linear
from numbanorm._types import Array
from numbanorm.moments import Moments

ROUNDING = 8 * np.finfo(np.float64).eps  # of a mean: a standard deviation below that is of rounding errors
LEAST = 4 * np.finfo(np.float64).tiny  # of a standard deviation or a span: float64 has no reciprocal of less


class _Scaler(Estimator):
    """What both scalers have."""

    copy: bool
    _seen: Any  # all that has been given, as it merges

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        """X scaled.

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
            X is of the wrong type or shape, or has an infinity in it; or the scaler is not fitted. X is as it was then.
        """
        fitted(self)
        return self._scaled(X, copy, self._linear())

    def inverse_transform(self, X: Any, copy: bool | None = None) -> Any:
        """What `transform` makes X of; with the same arguments."""
        fitted(self)
        return self._scaled(X, copy, self._linear()._replace(low=-np.inf, high=np.inf).inverse())

    def merge(self, other: Any) -> Self:
        """Fit this scaler also to what another one has been fitted to, as if all had been given to this one.

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
        fitted(self)
        fitted(other)
        _table_checks.same_columns(self, other)
        self._set(self._together(self._before(), other._before()))
        return self

    def _before(self) -> Any:
        """All that has been given; of a scaler whose attributes were set by hand, as far as these tell."""
        return self._seen if hasattr(self, "_seen") else self._restored()

    def _fit(self, X: Any, sample_weight: Any, anew: bool) -> Self:
        """All of it, or nothing if an error comes."""
        before = self.__dict__.copy()
        try:
            self._check_parameters()
            first = anew or not hasattr(self, "n_features_in_")
            where = elsewhere(X, "X") or _tables
            seen = self._look(where, where.table(self, X, first), sample_weight)
            self._set(seen if first else self._together(self._before(), seen))
        except BaseException:
            self.__dict__ = before
            raise
        return self

    def _scaled(self, X: Any, copy: bool | None, linear: Linear) -> Any:
        where = elsewhere(X, "X") or _tables
        return where.scaled(where.table(self, X), linear, in_place=not (self.copy if copy is None else copy))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class StandardScaler(_Scaler):
    """Scale each column to mean 0 and variance 1: z-scores. scikit-learn's, whose arguments and attributes it has.

    y = (x - mean) / std, with the biased standard deviation of the column's values.

    A NaN stands for a missing value: it is not counted, and stays. Of a column of equal values (up to rounding: whose
    standard deviation is below 8 units of the last place of its mean, in float64, or below 9e-308), the differences are
    not divided.

    Parameters
    ----------
    copy : bool
        If False, `transform` scales X in place, if it is a writable array of floating point, and gives X itself.
    with_mean, with_std : bool
        Whether to subtract the mean, and to divide by the standard deviation.

    Attributes
    ----------
    mean_, var_, scale_ : ndarray of shape (n_features,) and float64, or None
        The mean, the biased variance, and the standard deviation or 1; what `with_mean` and `with_std` make superfluous
        is None.
    n_samples_seen_ : int, or ndarray of shape (n_features,)
        How many values, or the sum of their weights; one number if it is the same for all columns.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        If X has names that are all texts.

    Notes
    -----
    Sums are float64 whatever X is, and fits in parts and their merging (`Moments`) give what one fit to all gives, to
    1e-12. A result is the same to the bit for any number of threads. Where scikit-learn 1.6 or newer is installed, this
    is an estimator of its; it is imported then, with this class. Without it there is no `set_output`. Sparse matrices
    are not taken. Arrays on a GPU, of float32 or float64, are measured and scaled there; `sample_weight` is an array of
    the host.

    Raises
    ------
    TypeError, ValueError
        By its methods: an argument is of the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import StandardScaler
    >>> X = np.array([[1, 10], [3, np.nan], [5, 30]], np.float32)
    >>> scaler = StandardScaler().fit(X)
    >>> scaler.mean_, scaler.scale_
    (array([ 3., 20.]), array([ 1.63299316, 10.        ]))
    >>> scaler.transform(X)
    array([[-1.2247449, -1.       ],
           [ 0.       ,        nan],
           [ 1.2247449,  1.       ]], dtype=float32)
    """

    mean_: Array | None
    var_: Array | None
    scale_: Array | None

    def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget what was fitted before, then `partial_fit`."""
        return self._fit(X, sample_weight, anew=True)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to X, beside all that has been given before.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Of float32 or float64 in C or Fortran order it is read where it is, a `np.memmap` too; others are read block
            by block.
        y
            Not used.
        sample_weight : array of shape (n_samples,), optional
            How often each sample counts.

        Returns
        -------
        StandardScaler
            This one.

        Raises
        ------
        TypeError, ValueError
            An argument is of the wrong type, shape or value, as an infinity in X; the scaler is as it was then.
        """
        return self._fit(X, sample_weight, anew=False)

    def _check_parameters(self) -> None:
        for name in ("copy", "with_mean", "with_std"):
            _checks.flag(name, getattr(self, name))

    def _look(self, where: Any, X: Any, sample_weight: Any) -> Moments:
        return Moments._of_state(where.column_moments(X, sample_weight))

    def _together(self, before: Moments, seen: Moments) -> Moments:
        return before + seen

    def _restored(self) -> Moments:
        var = np.zeros(self.n_features_in_) if self.var_ is None else self.var_
        return Moments(self.n_samples_seen_, 0.0 if self.mean_ is None else self.mean_, var * self.n_samples_seen_)

    def _set(self, seen: Moments) -> None:
        count, mean, var = seen.count, seen.mean, seen.var()
        with np.errstate(invalid="ignore"):
            whole = count.astype(np.int64)
        count = whole if (whole == count).all() else count
        std = np.sqrt(var)
        self._seen = seen
        self.n_samples_seen_ = count[0] if (count == count[0]).all() else count
        self.mean_ = mean if self.with_mean or self.with_std else None
        self.var_ = var if self.with_std else None
        self.scale_ = np.where(std <= np.fmax(ROUNDING * np.abs(mean), LEAST), 1.0, std) if self.with_std else None

    def _linear(self) -> Linear:
        center = rest = shift = np.zeros(self.n_features_in_)
        if self.mean_ is not None and self.with_mean:
            center = self.mean_
            if (seen := getattr(self, "_seen", None)) is not None:
                rest = np.where(center == seen.mean, seen.mean_rest, 0)
        scale = np.ones_like(shift) if self.scale_ is None or not self.with_std else 1 / self.scale_
        return Linear(center, scale, shift, rest)


class MinMaxScaler(_Scaler):
    """Scale each column to a range: min-max normalisation. scikit-learn's, whose arguments and attributes it has.

    y = (x - min) / (max - min) * (high - low) + low, with the least and the greatest of the column's values.

    A NaN stands for a missing value: it is not counted, and stays. Columns of equal values, up to 9e-308, become low.

    Parameters
    ----------
    feature_range : tuple of two numbers
        low and high.
    copy : bool
        If False, `transform` scales X in place, if it is a writable array of floating point, and gives X itself.
    clip : bool
        Whether `transform` keeps what lies outside of what was fitted between low and high.

    Attributes
    ----------
    data_min_, data_max_, data_range_ : ndarray of shape (n_features,)
        The least and the greatest value, and their difference; of X's dtype.
    scale_, min_ : ndarray of shape (n_features,)
        y = x * scale_ + min_, float64; `transform` subtracts first, which is more exact.
    n_samples_seen_ : int
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features,)
        If X has names that are all texts.

    Notes
    -----
    As of `StandardScaler`.

    Raises
    ------
    TypeError, ValueError
        By its methods: an argument is of the wrong type, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import MinMaxScaler
    >>> X = np.array([[1, 10], [3, np.nan], [5, 30]], np.float32)
    >>> MinMaxScaler().fit_transform(X)
    array([[0. , 0. ],
           [0.5, nan],
           [1. , 1. ]], dtype=float32)
    """

    def __init__(self, feature_range: tuple[float, float] = (0, 1), *, copy: bool = True, clip: bool = False) -> None:
        self.feature_range = feature_range
        self.copy = copy
        self.clip = clip

    def fit(self, X: Any, y: Any = None) -> Self:
        """Forget what was fitted before, then `partial_fit`."""
        return self._fit(X, None, anew=True)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Fit to X, beside all that has been given before.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Of float32 or float64 in C or Fortran order it is read where it is, a `np.memmap` too; others are read block
            by block.
        y
            Not used.

        Returns
        -------
        MinMaxScaler
            This one.

        Raises
        ------
        TypeError, ValueError
            X is of the wrong type or shape, or has an infinity in it; the scaler is as it was then.
        """
        return self._fit(X, None, anew=False)

    def _check_parameters(self) -> None:
        _table_checks.interval("feature_range", self.feature_range)
        for name in ("copy", "clip"):
            _checks.flag(name, getattr(self, name))

    def _look(self, where: Any, X: Any, sample_weight: Any) -> tuple[int, Extremes]:
        return X.shape[0], where.column_extremes(X)

    def _together(self, before: tuple[int, Extremes], seen: tuple[int, Extremes]) -> tuple[int, Extremes]:
        low, high = np.fmin(before[1].low, seen[1].low), np.fmax(before[1].high, seen[1].high)
        return before[0] + seen[0], Extremes(low, high)

    def _restored(self) -> tuple[int, Extremes]:
        return self.n_samples_seen_, Extremes(self.data_min_, self.data_max_)

    def _set(self, seen: tuple[int, Extremes]) -> None:
        low, high = map(float, self.feature_range)
        self._seen = seen
        self.n_samples_seen_, (self.data_min_, self.data_max_) = seen[0], map(np.copy, seen[1])
        with np.errstate(over="ignore"):
            self.data_range_ = self.data_max_ - self.data_min_
            span = self.data_max_.astype(np.float64) - self.data_min_
        self.scale_ = (high - low) / np.where(span <= LEAST, 1.0, span)
        self.min_ = low - self.data_min_ * self.scale_

    def _linear(self) -> Linear:
        """About data_min_, where the result is low: what is added to it, min_, may be as large as the mean."""
        center, low = self.data_min_.astype(np.float64), float(self.feature_range[0])
        shift = np.where(self.min_ == low - self.data_min_ * self.scale_, low, self.min_ + center * self.scale_)
        limits = map(float, self.feature_range) if self.clip else (-np.inf, np.inf)
        return Linear(center, self.scale_, shift, 0.0, *limits)
