"""StandardScaler and MinMaxScaler: scikit-learn's, parallel, exact far from zero, for arrays of any size."""

from typing import Any, Self

import numpy as np

from numbanorm._scaling import table_arguments
from numbanorm._scaling.scaler import Scaler
from numbanorm._states import Extremes, Linear, State, replaced, unit_of
from numbanorm._types import Array
from numbanorm.moments import Moments

ROUNDING = 8 * np.finfo(np.float64).eps  # of a mean: a standard deviation below that is of rounding errors
LEAST = 4 * np.finfo(np.float64).tiny  # of a standard deviation or a span: float64 has no reciprocal of less
FAR = 2.0**960  # from where on differences of numbers may leave float64, as may reciprocals


class StandardScaler(Scaler):
    """Scale each column to mean 0 and variance 1: z-scores. scikit-learn's, whose arguments and attributes it has.

    y = (x - mean) / std, with the biased standard deviation of the column's values.

    A NaN stands for a missing value: it is not counted, and stays. Of a column of equal values (up to rounding: whose
    standard deviation is below 8 * eps * abs(mean), eps that of float64, or below 9e-308), the differences are not
    divided. That bound is the same for any number of rows n, since the errors here do not grow with n; scikit-learn's
    is n * eps * abs(mean).

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
        is None. Where float64 does not hold the variance, var_ is inf or 0, and scale_ is right.
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
    are not taken. Dates, texts that say numbers and objects are taken as float64 numbers, NaT and NA as NaN. Attributes
    may be set by hand: `transform` needs mean_ and scale_ alone (of `MinMaxScaler`: min_ and scale_), and `partial_fit`
    goes on from mean_, var_ and n_samples_seen_ (data_min_, data_max_ and n_samples_seen_). Arrays on a GPU, of float32
    or float64, are measured and scaled there; `sample_weight` is an array of the host.

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
    _seen: Moments
    _fitted = "mean_", "scale_"
    _flags = "copy", "with_mean", "with_std"

    def __init__(self, *, copy: bool = True, with_mean: bool = True, with_std: bool = True) -> None:
        self.copy = copy
        self.with_mean = with_mean
        self.with_std = with_std

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Forget what was fitted before, and call `partial_fit`."""
        return self._fit(X, y, sample_weight, anew=True)

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
        return self._fit(X, y, sample_weight, anew=False)

    def _look(self, where: Any, X: Any, sample_weight: Any) -> Moments:
        return Moments._of_state(where.column_moments(X, sample_weight))

    def _together(self, before: Moments, seen: Moments) -> Moments:
        return before + seen

    def _before(self) -> Moments:
        columns = self._columns()
        if self.mean_ is None and (seen := getattr(self, "_seen", None)) is not None:
            return seen
        count = np.array(self._attribute("n_samples_seen_", columns))
        mean = np.zeros(columns) if self.mean_ is None else np.array(self._attribute("mean_", columns))
        var = np.zeros(columns) if self.var_ is None else self._attribute("var_", columns)
        std = np.sqrt(var)
        if self.scale_ is not None:  # which is finite where var_ is not, and not 0
            scale = self._attribute("scale_", columns)
            std = np.where(np.isinf(var) | (var == 0) & (scale != 1), scale, std)
        unit = unit_of(std)
        made = State(count, mean, np.zeros(columns), (std / unit) ** 2 * count, np.zeros(columns), unit)
        if (seen := getattr(self, "_seen", None)) is not None:
            kept = _same(count, seen.count) & _same(mean, seen.mean) & ((self.var_ is None) | _same(var, seen.var()))
            made = replaced(made, seen._state, kept)
        return Moments._of_state(made)

    def _set(self, seen: Moments) -> None:
        count, mean, var, std = seen.count, seen.mean, seen.var(), seen.std()
        with np.errstate(invalid="ignore"):
            whole = count.astype(np.int64)
        count = whole if (whole == count).all() else count
        self._seen = seen
        self.n_samples_seen_ = count[0] if (count == count[0]).all() else count
        self.mean_ = mean if self.with_mean or self.with_std else None
        self.var_ = var if self.with_std else None
        self.scale_ = np.where(std <= np.fmax(ROUNDING * np.abs(mean), LEAST), 1.0, std) if self.with_std else None

    def _linear(self, count: int) -> Linear:
        center, rest, std = np.zeros(count), np.zeros(count), np.ones(count)
        if self.mean_ is not None and self.with_mean:
            center = self._attribute("mean_", count)
            if (seen := getattr(self, "_seen", None)) is not None:
                rest = np.where(center == seen.mean, seen.mean_rest, 0)
        if self.scale_ is not None and self.with_std:
            std = self._attribute("scale_", count)
        size, least = np.fmax(np.abs(center), np.abs(std)), np.abs(std)
        far, unit = (size >= FAR) | (least <= 1 / FAR), 1.0  # type: tuple[Array, Array | float]
        if far.any():
            unit = np.where(far, unit_of(size), 1.0)
        with np.errstate(divide="ignore"):
            return Linear(center / unit, unit / std, np.zeros(count), rest / unit, x_unit=unit)


class MinMaxScaler(Scaler):
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
        Whether `transform` keeps what lies outside of what was fitted between low and high, also where the dtype of the
        result holds neither: then between the nearest of its numbers that lie between them.

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

    _made: Linear
    _made_attributes: tuple[Array, Array]  # scale_ and min_, to see whether they were set by hand since
    _fitted = "min_", "scale_"
    _flags = "copy", "clip"

    def __init__(self, feature_range: tuple[float, float] = (0, 1), *, copy: bool = True, clip: bool = False) -> None:
        self.feature_range = feature_range
        self.copy = copy
        self.clip = clip

    def fit(self, X: Any, y: Any = None) -> Self:
        """Forget what was fitted before, and call `partial_fit`."""
        return self._fit(X, y, None, anew=True)

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
        return self._fit(X, y, None, anew=False)

    def _check_parameters(self) -> None:
        table_arguments.interval("feature_range", self.feature_range)
        super()._check_parameters()

    def _look(self, where: Any, X: Any, sample_weight: Any) -> tuple[int, Extremes]:
        return X.shape[0], where.column_extremes(X)

    def _together(self, before: tuple[int, Extremes], seen: tuple[int, Extremes]) -> tuple[int, Extremes]:
        low, high = np.fmin(before[1].low, seen[1].low), np.fmax(before[1].high, seen[1].high)
        return before[0] + seen[0], Extremes(low, high)

    def _before(self) -> tuple[int, Extremes]:
        return self.n_samples_seen_, Extremes(np.asarray(self.data_min_), np.asarray(self.data_max_))

    def _set(self, seen: tuple[int, Extremes]) -> None:
        self.n_samples_seen_, (self.data_min_, self.data_max_) = seen[0], map(np.copy, seen[1])
        with np.errstate(over="ignore"):
            self.data_range_ = self.data_max_ - self.data_min_
        self._made, self.scale_, self.min_ = self._of_extremes(*(a.astype(np.float64) for a in seen[1]))
        self._made_attributes = self.scale_.copy(), self.min_.copy()

    def _of_extremes(self, least: Array, greatest: Array) -> tuple[Linear, Array, Array]:
        """Return the map that scales columns of these extremes, with scale_ and min_.

        The map subtracts the least value, where the result is low. To add min_ to x * scale_ is less exact, since min_
        may be as large as the mean.
        """
        low, high = map(float, self.feature_range)
        size, y_size = np.fmax(np.abs(least), np.abs(greatest)), np.float64(max(abs(low), abs(high)))
        with np.errstate(all="ignore"):
            span, width = greatest - least, high - low
            near = (np.maximum(size, y_size) < FAR) & (span < FAR * width) & (width < FAR * span)
            constant = span <= LEAST
            near |= constant | np.isnan(size)
            x_unit: Array | float = 1.0
            y_unit = 1.0
            if not near.all():
                x_unit, y_unit = np.where(near, 1.0, unit_of(size)), float(unit_of(y_size))
            center, shift = least / x_unit, low / y_unit
            scale = (high / y_unit - shift) / np.where(constant, 1.0, greatest / x_unit - center)
            plain_scale = scale * y_unit / x_unit
            linear = Linear(center, scale, np.full(size.shape, shift), x_unit=x_unit, y_unit=y_unit)
            return linear, plain_scale, low - least * plain_scale

    def _linear(self, count: int) -> Linear:
        scale, shift = self._attribute("scale_", count), self._attribute("min_", count)
        made, attributes = getattr(self, "_made", None), getattr(self, "_made_attributes", ())
        if made is None or not all(map(np.array_equal, (scale, shift), attributes)):
            made = self._of_attributes(scale, shift, made, *attributes)
        low, high = map(float, self.feature_range) if self.clip else (-np.inf, np.inf)
        return made._replace(low=low, high=high)

    def _of_attributes(self, scale: Array, shift: Array, made: Linear | None, *attributes: Array) -> Linear:
        """Return the map y = x * scale + shift. Where the attributes are those of the fit, keep the map of the fit."""
        with np.errstate(all="ignore"):
            center = -shift / scale  # where y is 0: to subtract it from x is exact nearby
            center = np.where(np.isfinite(center), center, 0)
            by_hand = Linear(center, scale, shift + center * scale)
        if made is None:
            return by_hand
        return by_hand.but(made, _same(scale, attributes[0]) & _same(shift, attributes[1]))


def _same(a: Array, b: Array) -> Array:
    """Return where numbers are equal, or both NaN."""
    return (a == b) | np.isnan(a) & np.isnan(b)
