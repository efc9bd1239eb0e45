"""What is known of the values of each channel or column, how it merges, and what it makes of them."""

from typing import Any, NamedTuple

import numpy as np

from numbanorm._math import two_sum
from numbanorm._types import Array


class State(NamedTuple):
    """Of each channel, float64, in two parts what is added to over and over: the mean is mean + low, M2 is m2 + m2_low.

    The first part is what float64 can hold of both.
    """

    counts: Array
    mean: Array
    low: Array
    m2: Array
    m2_low: Array


def nothing(C: int) -> State:
    """The state of no values."""
    return State(*np.zeros((5, C)))


def merged(a: State, b: State) -> State:
    """That of the values of both."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {b.mean.size} channels, must be of {a.mean.size} as those before")
    with np.errstate(all="ignore"):
        count = a.counts + b.counts
        share = b.counts / count
        apart = (b.mean - a.mean) + (b.low - a.low)
        mean, rest = two_sum.py_func(a.mean, apart * share)
        mean, low = two_sum.py_func(mean, a.low + rest)
        m2, rest = two_sum.py_func(a.m2, b.m2)
        m2, rest_too = two_sum.py_func(m2, apart * apart * (a.counts * share))
        m2, m2_low = two_sum.py_func(m2, a.m2_low + b.m2_low + rest + rest_too)
        both = State(count, mean, low, m2, m2_low)
    choices = zip(a, b, both, strict=True)
    return State(*(np.where(b.counts == 0, x, np.where(a.counts == 0, y, z)) for x, y, z in choices))


class Extremes(NamedTuple):
    """Of each column, NaN where it has no value."""

    low: Array
    high: Array


class Linear(NamedTuple):
    """y = (x - (center + rest)) * scale + shift, of each column, float64; kept between low and high."""

    center: Array
    scale: Array
    shift: Array
    rest: Array | float = 0.0  # what float64 cannot hold of center
    low: float = -np.inf
    high: float = np.inf

    def inverse(self) -> "Linear":
        """From y to x."""
        return Linear(self.shift, 1 / self.scale, self.center)

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Whether a dtype holds scale, and so differences of values, to its last digit."""
        range_ = np.finfo(dtype)
        return bool(((self.scale >= range_.tiny) & (self.scale <= range_.max) | np.isnan(self.scale)).all())

    def factors(self, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
        """m, scale and offset in another dtype, with y = (x - m) * scale + offset: what it cannot hold of shift is made
        good by m, and what it cannot hold of m by offset.
        """
        with np.errstate(all="ignore"):
            shift = self.shift.astype(dtype)
            center = self.center - (self.shift - shift) / self.scale
            m = center.astype(dtype)
            offset = shift - (center - m + self.rest) * self.scale
            return m, self.scale.astype(dtype), offset.astype(dtype)
