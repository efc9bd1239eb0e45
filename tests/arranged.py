"""Arrays of any shape, drawn by hypothesis, and what has become of their memory."""

from math import prod

import numpy as np
from hypothesis import strategies as st

from tests.cases import values
from tests.layouts import arrange, layouts

FLOATS = st.sampled_from([np.float32, np.float64])
OFFSETS = st.sampled_from([0.0, 0.0, 1.0, -30.0, 1e3, 1e6])  # times a standard deviation of 1
FEW, MANY = 40, 8192  # values, beside a long axis and in all where none is long


@st.composite
def shapes(draw, least_axes):
    """Sizes of 1 to 40, now and then one of thousands, or one of 0."""
    long, empty = draw(st.integers(0, 4)) == 4, draw(st.integers(0, 9)) == 9
    left, shape = FEW if long else MANY, []
    for _ in range(draw(st.integers(least_axes, 5)) - long):
        shape.append(draw(st.integers(1, min(40, left))))
        left //= shape[-1]
    if long:
        shape.append(draw(st.integers(1000, 5000)))
    if empty:
        shape[-1] = 0
    return tuple(draw(st.permutations(shape)))


@st.composite
def placed(draw, shape, dtype, written=False, offset=0.0):
    """Normal values somewhere in memory."""
    layout = draw(layouts(len(shape), written))
    if dtype is np.float64 and prod(shape) > 2000:  # equal terms are rounded alike: its sums have no digits to spare
        layout = layout._replace(repeated=None)
    return arrange(values(shape, dtype, offset, seed=draw(st.integers(0, 2**32 - 1))), layout)


@st.composite
def copied(draw, a, written=False):
    """A copy somewhere in memory."""
    return arrange(a, draw(layouts(a.ndim, written))._replace(repeated=None))


def plain(a):
    """A copy as NumPy would make it."""
    return np.array(a, a.dtype.newbyteorder("="), order="C", subok=False)


def snapshot(arguments):
    """All memory that arrays among the arguments have a part of, and what is in it."""
    arrays = {name: a for name, a in arguments.items() if isinstance(a, np.ndarray)}
    for name, a in arrays.items():
        while isinstance(a.base, np.ndarray):
            a = a.base
        arrays[name] = a
    return {name: (a, a.tobytes()) for name, a in arrays.items()}


def assert_kept(before):
    for name, (a, content) in before.items():
        assert a.tobytes() == content, f"{name} was written"


@st.composite
def shapes_and_axes(draw, least_axes=1):
    """A small shape, and some of its axes."""
    shape = tuple(draw(st.lists(st.integers(0, 40), min_size=least_axes, max_size=4)))
    axes = draw(st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, max_size=len(shape)))
    return shape, tuple({a % len(shape): a for a in axes}.values())
