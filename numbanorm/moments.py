"""Moments: count, mean and M2 of each channel, to be kept, sent and merged."""

from functools import reduce
from typing import Any, Self

import numpy as np

from numbanorm._call import arguments, numbers
from numbanorm._call.kinds import for_device
from numbanorm._scaling import ON_DEVICE, measured
from numbanorm._states import State, in_one_unit, merged
from numbanorm._types import Array


class Moments:
    """The number, the mean and the sum of squared differences from the mean, M2, of the values of each channel.

    Moments of disjoint values merge into those of all of them [1]_: with a difference of means d, ::

        count = count_a + count_b
        mean  = mean_a + d * count_b / count
        m2    = m2_a + m2_b + d**2 * count_a * count_b / count

    That is exact but for rounding, in float64 with mean and M2 in two parts: results of any grouping agree to 1e-12. It
    holds for values of float64's whole range: where squares would leave it, `m2` and `var` are inf or 0, and `std` is
    right.

    Moments are equal (``==``) if count, mean and M2 of all channels are, to the last digit that is kept.

    Parameters
    ----------
    count, mean, m2 : number or array of shape (C,)
        Of each channel; a number stands for all. Where count is 0, mean counts for nothing.

    Attributes
    ----------
    count, mean, m2 : ndarray of shape (C,) and float64
        `mean` is NaN where count is 0. In units of x, and of x squared.
    mean_rest : ndarray of shape (C,) and float64
        What float64 cannot hold of the mean, which is mean + mean_rest.

    Raises
    ------
    TypeError, ValueError
        An argument is of the wrong type, shape or value.

    References
    ----------
    .. [1] Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import Moments
    >>> a = Moments.of(np.array([[1, 10], [3, 30]]))
    >>> b = Moments.of(np.array([[5, 50]]))
    >>> a + b
    Moments(count=[3. 3.], mean=[ 3. 30.], m2=[  8. 800.])
    >>> (a + b).var(ddof=1)
    array([  4., 400.])
    """

    def __init__(self, count: Any, mean: Any, m2: Any) -> None:
        given = numbers.per_channel({"count": count, "mean": mean, "m2": m2}, not_negative=("count", "m2"))
        none = np.zeros_like(given[1])
        self._state = State(given[0], given[1], none, given[2], none)  # replaced as one, so never torn

    @classmethod
    def of(cls, x: Any, *, channel_axis: int = 1, mask: Array | None = None, nan_policy: str = "propagate") -> Self:
        """The moments of an array, or of many blocks.

        Parameters
        ----------
        x : ndarray, array on a GPU, or iterable of such
            Of any layout, and any dtype of real numbers (on a GPU: float32 or float64); all is reckoned in float64. An
            array of 1 axis has the values of one channel. An array that lies in C order, channels first or channels
            last, as float32 or float64, is read where it is, a `np.memmap` too; others are read in blocks, so that no
            more than a block is copied at a time. Of an iterable, one block is needed at a time; each has the same
            channels.
        channel_axis : int
            The axis of the C channels.
        mask : ndarray of bool, optional
            Of the shape of x without its channel axis: positions where it is False do not count. Not beside an
            iterable: `update` takes a block and its mask.
        nan_policy : {"propagate", "omit"}
            What a NaN does: make mean and M2 of its channel NaN, or not count.

        Returns
        -------
        Moments
            Of each channel; of no value at all, count is 0.

        Raises
        ------
        TypeError
            An argument is of the wrong type or dtype.
        ValueError
            An argument is of the wrong shape, or there is no block.

        Examples
        --------
        >>> import numpy as np
        >>> from numbanorm import Moments
        >>> Moments.of(np.random.default_rng(i).normal(3, 2, (1000, 1)) for i in range(100)).std().round(1)
        array([2.])
        """
        omit = _omits(nan_policy)
        if isinstance(x, np.ndarray) or not arguments.is_iterable_of_arrays(x):
            return cls._of_state(_measured_by(x).state_of(x, channel_axis, mask, omit))
        if mask is not None:
            raise TypeError("mask: beside an iterable of blocks, must be None; pass each block and its mask to update")
        states = (_measured_by(block).state_of(block, channel_axis, None, omit) for block in x)
        first = next(states, None)
        if first is None:
            raise ValueError("x: no blocks, must be at least one, which may have no values")
        return cls._of_state(reduce(merged, states, first))

    @classmethod
    def _of_state(cls, state: State) -> Self:
        """Make moments of a state that has been measured."""
        made = cls.__new__(cls)
        made._state = state
        return made

    def update(
        self, x: Any, *, channel_axis: int = 1, mask: Array | None = None, nan_policy: str = "propagate"
    ) -> Self:
        """Merge the moments of x, which is given as to `of`, into these. Return these."""
        return self.merge(Moments.of(x, channel_axis=channel_axis, mask=mask, nan_policy=nan_policy))

    def merge(self, other: "Moments") -> Self:
        """Merge moments of other values of the same channels into these. Return these.

        Raises
        ------
        TypeError, ValueError
            They are no moments, or of another number of channels.
        """
        if not isinstance(other, Moments):
            raise TypeError(f"other: {type(other).__qualname__}, must be Moments")
        self._state = merged(self._state, other._state)
        return self

    def __add__(self, other: object) -> "Moments":
        if not isinstance(other, Moments):
            return NotImplemented
        return Moments._of_state(merged(self._state, other._state))

    def __radd__(self, other: object) -> "Moments":
        """Add moments to 0, with which `sum` begins."""
        return Moments._of_state(self._state) if isinstance(other, int) and other == 0 else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        if self._state.mean.shape != other._state.mean.shape:
            return False
        pairs = zip(*in_one_unit(self._state, other._state), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    __hash__ = None  # type: ignore[assignment]  # since they change

    @property
    def count(self) -> Array:
        """The number of values."""
        return self._state.counts.copy()

    @property
    def mean(self) -> Array:
        """The mean of the values."""
        return np.where(self._state.counts > 0, self._state.mean, np.nan)

    @property
    def mean_rest(self) -> Array:
        """The part of the mean that float64 cannot hold: at most half a unit in the last place of `mean`."""
        return self._state.low.copy()

    @property
    def m2(self) -> Array:
        """The sum of the squared differences of the values from their mean."""
        with np.errstate(all="ignore"):
            return self._state.m2 * self._state.unit * self._state.unit

    def var(self, ddof: float = 0) -> Array:
        """Return m2 / (count - ddof), or NaN if count - ddof is not positive.

        With ddof=0 that is the variance of these values. With ddof=1 it is an unbiased estimate of the variance of the
        population from which they were drawn.
        """
        unit = self._state.unit
        with np.errstate(all="ignore"):
            return self._var_in_units(ddof) * unit * unit

    def std(self, ddof: float = 0) -> Array:
        """Return the root of `var`, also where float64 does not hold `var`."""
        with np.errstate(all="ignore"):
            return np.sqrt(self._var_in_units(ddof)) * self._state.unit

    def _var_in_units(self, ddof: float) -> Array:
        over = self.count - numbers.number("ddof", ddof)
        return np.divide(self._state.m2, over, out=np.full_like(over, np.nan), where=over > 0)

    def __repr__(self) -> str:
        with np.printoptions(threshold=8, edgeitems=3, linewidth=1000):
            return f"Moments(count={self.count}, mean={self.mean}, m2={self.m2})"


def _omits(nan_policy: Any) -> bool:
    if nan_policy not in ("propagate", "omit"):
        raise ValueError(f"nan_policy: {nan_policy!r}, must be 'propagate' or 'omit'")
    return bool(nan_policy == "omit")


def _measured_by(x: Any) -> Any:
    """Return the module that measures the channels of an array."""
    return for_device("x", x, ON_DEVICE) or measured
