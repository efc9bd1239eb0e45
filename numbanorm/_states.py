"""The statistics of each channel or column, how two of them merge, and the linear maps that scalers make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numbanorm._math import LARGE, SMALL, merged_moments, two_sum
from numbanorm._types import Array

SMALL_UNIT, LARGE_UNIT = 2.0**-600, 2.0**600


class State(NamedTuple):
    """The statistics of each channel, as arrays (C,) of float64.

    The mean is mean + low, and M2 is (m2 + m2_low) * unit**2. They are kept in two parts, since many values are added
    up. The first part is the float64 nearest to the sum of both. The unit is a power of two. It is 1 unless float64
    could not hold squares of the values.
    """

    counts: Array
    mean: Array
    low: Array
    m2: Array
    m2_low: Array
    unit: Array | float = 1.0


def nothing(C: int) -> State:
    """Return the state of no values."""
    return State(*np.zeros((5, C)))


def unit_of(size: Any) -> Array:
    """Return the unit for numbers of up to this size. Divided by it, their squares and sums of these fit float64."""
    return np.where(size > LARGE, LARGE_UNIT, np.where(size < SMALL, SMALL_UNIT, 1.0))


def merged(a: State, b: State) -> State:
    """Return the state of the values of both."""
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {b.mean.size} channels, must be of {a.mean.size} as those before")
    both = _merged(a, b)
    if _is_one(a.unit) and _is_one(b.unit) and _all_held(both, differ=a.mean != b.mean):
        return both
    unit, *both_in_unit = _in_common(a, b)
    return _of_unit(_merged(*both_in_unit), unit)


def in_one_unit(a: State, b: State) -> tuple[State, State]:
    """Make two states comparable: in one unit, and with a mean of 0 where there is no value."""
    one, other = (s._replace(mean=np.where(s.counts > 0, s.mean, 0)) for s in _in_common(a, b)[1:])
    return one, other


def _in_common(a: State, b: State) -> tuple[Array, State, State]:
    """Return a unit for both states, and both states in this unit."""
    with np.errstate(all="ignore"):
        sizes = (np.where(s.counts > 0, np.abs(s.mean), 0) for s in (a, b))
        units = (np.where(s.m2 > 0, s.unit, 0) for s in (a, b))
        unit = np.fmax(np.fmax(*units), unit_of(np.fmax(*sizes)))
        return unit, _in_unit(a, unit), _in_unit(b, unit)


def _merged(a: State, b: State) -> State:
    """Do `merged` if both units are 1 and float64 holds all squares."""
    with np.errstate(all="ignore"):
        count, mean, low, m2, m2_low = merged_moments(a[:5], b[:5])
        both = State(count, mean, low, *two_sum(m2, m2_low))
    if (a.counts > 0).all() and (b.counts > 0).all():
        return both
    choices = zip(a[:5], b[:5], both, strict=False)
    return State(*(np.where(b.counts == 0, x, np.where(a.counts == 0, y, z)) for x, y, z in choices))


def rescued(state: State, again: Callable[[Array, float], State]) -> State:
    """Replace the state of those channels of which float64 could not hold the squares.

    again(which, unit) computes the state of the values divided by the unit, at least of the channels that are marked.
    """
    if _all_held(state):
        return state
    for which, unit in zip(_lost(state), (LARGE_UNIT, SMALL_UNIT), strict=True):
        if which.any():
            found = _of_unit(again(which, unit), unit)
            state = replaced(state, found, which & np.isfinite(found.m2) & (found.counts == state.counts))
    return state


def replaced(state: State, other: State, which: Array) -> State:
    """Return a state with the marked channels taken from another one."""
    return State(*(np.where(which, b, a) for a, b in zip(state, other, strict=True)))


def _is_one(unit: Array | float) -> bool:
    return unit == 1 if isinstance(unit, float) else bool((unit == 1).all())


def _all_held(state: State, differ: Array | bool = False) -> bool:
    """Return whether float64 held the squares of all channels.

    `differ` marks the channels whose values are not all equal.
    """
    held = (state.m2 >= SMALL**2 * state.counts) & (state.m2 < np.inf)
    if held.all():
        return True
    equal = (state.m2 == 0) & ~np.asarray(differ)
    return bool((held | (equal & np.isfinite(state.mean)) | (state.counts == 0)).all())


def _lost(state: State) -> tuple[Array, Array]:
    """Return the channels of which sums may have exceeded float64, and those of which squares may have fallen below it.

    Channels with values that are not finite are among the first.
    """
    some, unit = state.counts > 0, state.unit
    with np.errstate(all="ignore"):
        small = (state.m2 > 0) & (state.m2 < SMALL**2 * state.counts) & (np.abs(state.mean) < SMALL) & (unit == 1)
        return some & ~(np.isfinite(state.m2) & np.isfinite(state.mean)), some & small


def _in_unit(state: State, unit: Array) -> State:
    """Return the state of the values divided by a unit, which is not below the state's."""
    ratio = np.minimum(state.unit / unit, 1)  # if all values are equal, m2 is 0 and the unit may be any
    m2, m2_low = (part * ratio * ratio for part in (state.m2, state.m2_low))
    return State(state.counts, state.mean / unit, state.low / unit, m2, m2_low)


def _of_unit(state: State, unit: Array | float) -> State:
    """Return the state of the values times a unit, from the state of the values."""
    units = np.where(state.m2 == 0, 1.0, unit)
    with np.errstate(all="ignore"):
        return State(state.counts, state.mean * unit, state.low * unit, state.m2, state.m2_low, units)


def _unless_0(rest: Array, operation: np.ufunc, scale: Array) -> Array:
    """Divide or multiply a remainder by a scale, unless it is 0: the user may have set the scale to 0 or infinity."""
    return np.where(rest == 0, 0.0, operation(rest, scale))


class Extremes(NamedTuple):
    """The extremes of each column. They are NaN where it has no value."""

    low: Array
    high: Array


class Linear(NamedTuple):
    """The map y / y_unit = (x / x_unit - (center + rest)) * scale + shift of each column, in float64.

    y is limited to low and high. The units are powers of two. They are 1 unless float64 could not hold differences of
    values, or the scale.
    """

    center: Array
    scale: Array
    shift: Array
    rest: Array | float = 0.0  # the rounding error of center
    low: float = -np.inf
    high: float = np.inf
    x_unit: Array | float = 1.0
    y_unit: Array | float = 1.0

    def inverse(self) -> "Linear":
        """Return the map from y to x."""
        with np.errstate(divide="ignore"):
            scale = 1 / self.scale
        return Linear(self.shift, scale, self.center, x_unit=self.y_unit, y_unit=self.x_unit)

    def but(self, other: "Linear", which: Array) -> "Linear":
        """Return this map, whose units are 1, with the marked columns of another one. The result has no limits."""
        with np.errstate(over="ignore"):
            in_unit = Linear(self.center, self.scale / other.y_unit, self.shift / other.y_unit)
        center, scale, shift = (np.where(which, b, a) for a, b in zip(in_unit[:3], other[:3], strict=True))
        return Linear(center, scale, shift, x_unit=np.where(which, other.x_unit, 1.0), y_unit=other.y_unit)

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Return whether a dtype holds the scale to its last digit. Then it holds differences of values, too."""
        range_, scale = np.finfo(dtype), np.abs(self.scale)
        return self.is_plain() and bool(((scale >= range_.tiny) & (scale <= range_.max) | np.isnan(scale)).all())

    def is_plain(self) -> bool:
        """Return whether all units are 1."""
        return _is_one(self.x_unit) and _is_one(self.y_unit)

    def limits(self, dtype: np.dtype[Any]) -> tuple[float, float]:
        """Return low and high, rounded to a dtype so that they lie between the exact ones."""
        if self.low == -np.inf and self.high == np.inf:
            return self.low, self.high
        with np.errstate(over="ignore"):
            low, high = dtype.type(self.low), dtype.type(self.high)
        inner_low = np.nextafter(low, high) if float(low) < self.low else low
        inner_high = np.nextafter(high, low) if float(high) > self.high else high
        return float(inner_low), float(inner_high)

    def factors(self, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
        """Return m, scale and offset in another dtype, with y = (x - m) * scale + offset in the units.

        Rounding `shift` to the dtype leaves a remainder; `m` absorbs it. Rounding `m` leaves another; `offset` absorbs
        that.
        """
        with np.errstate(all="ignore"):
            shift = self.shift.astype(dtype)
            center = self.center - _unless_0(self.shift - shift, np.divide, self.scale)
            m = center.astype(dtype)
            offset = shift - _unless_0(center - m + self.rest, np.multiply, self.scale)
            return m, self.scale.astype(dtype), offset.astype(dtype)
