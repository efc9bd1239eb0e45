"""What `backward` notices of a change of x since `forward`, and what it can miss."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbanorm import LayerNorm, set_debug
from numbanorm.layers.saved import samples
from tests.cases import values
from tests.layouts import LAYOUTS, WRITABLE_LAYOUTS


@st.composite
def arrays(draw):
    """Of up to a few thousand values, in any layout."""
    shape = [*draw(st.lists(st.integers(1, 20), min_size=1, max_size=2)), draw(st.integers(1, 40))]
    return LAYOUTS[draw(st.sampled_from(WRITABLE_LAYOUTS))](values(shape))


def assert_noticed(x, changed):
    """By `backward`, where these values (places in C order) are others."""
    layer = LayerNorm(x.shape[-1])
    layer(x)
    x[np.unravel_index(changed, x.shape)] += 1
    with pytest.raises(RuntimeError, match=r"^x: changed since the forward pass"):
        layer.backward(np.ones_like(x, np.float32, subok=False))


@given(arrays(), st.data())
def test_a_change_of_neighbours_is_noticed(x, data):
    """Of one value in 128 or more, wherever they begin."""
    length = data.draw(st.integers(math.ceil(x.size / 128), x.size))
    start = data.draw(st.integers(0, x.size - length))
    assert_noticed(x, np.arange(start, start + length))


@given(arrays(), st.integers(0, 2**32))
def test_a_change_of_one_value_in_ten_is_noticed(x, seed):
    """Wherever they are: 2 times in 10**12 it would not be."""
    changed = np.random.default_rng(seed).permutation(x.size)[: math.ceil(x.size / 10)]
    assert_noticed(x, changed)


@pytest.mark.parametrize("size", [1100, 3000, 20_000])
def test_a_change_of_one_value_in_a_hundred_can_be_missed(size):
    """1 time in 13 of a large x, as `set_debug` says; less often of a small one, of which more is compared."""
    random, x, trials, missed = np.random.default_rng(0), np.zeros(size), 3000, 0
    before = samples(x)
    for _ in range(trials):
        changed = random.choice(size, size // 100, replace=False)
        x[changed] = 1
        missed += samples(x) == before
        x[changed] = 0
    share = math.comb(size - 256, size // 100) / math.comb(size, size // 100)  # of choices without any of the 256
    deviation = math.sqrt(share * (1 - share) / trials)
    assert abs(missed / trials - share) < 3 * deviation
    assert share < 1 / 12.9


def test_debug_notices_a_change_that_would_be_missed():
    layer, x = LayerNorm(100), values((100, 100))
    unseen = next(i for i in range(x.size) if not _is_compared(x.size, i))
    before = set_debug(True)
    try:
        layer(x)
        x.flat[unseen] += 1
        with pytest.raises(RuntimeError, match=r"^x: changed since the forward pass"):
            layer.backward(np.ones_like(x))
    finally:
        set_debug(before)


def _is_compared(size, place):
    a = np.zeros(size)
    before = samples(a)
    a[place] = 1
    return samples(a) != before
