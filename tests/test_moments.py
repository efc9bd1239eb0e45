"""Moments, against NumPy in extended precision."""

import copy
import pickle
import tracemalloc
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numbanorm import Moments, get_num_threads, set_num_threads
from numbanorm._scaling.measured import BLOCK
from tests.cases import BATCH_NORM_CASES, values
from tests.layouts import LAYOUTS

DTYPES = ["bool", "int8", "uint16", "int32", "int64", "float16", "longdouble", ">i4", ">f2", ">f8"]
EXACT = 1e-12  # of the mean or a standard deviation, and of M2


def expected(x, channel_axis=1, mask=None):
    """count, mean and M2."""
    own = np.moveaxis(np.asarray(x), channel_axis, -1)
    own = own.reshape(-1, own.shape[-1]) if mask is None else own[mask]
    own = own.astype(np.longdouble)
    mean = own.mean(0)
    mean += (own - mean).mean(0)
    return np.full(own.shape[1], len(own)), mean, ((own - mean) ** 2).sum(0)


def assert_moments(moments, exact, limit=EXACT):
    count, mean, m2 = exact
    np.testing.assert_array_equal(moments.count, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(m2 / count)
    assert moments.mean.dtype == moments.m2.dtype == moments.count.dtype == np.float64
    assert (np.abs(moments.mean - mean) <= limit * np.maximum(np.abs(mean) / 1e3, spread) + np.spacing(abs(mean))).all()
    assert (np.abs(moments.m2 - m2) <= limit * m2).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("shape", "channel_axis"), [*BATCH_NORM_CASES, ((1, 1), 1), ((3, 1), 0), ((200_000, 3), 1)])
def test_any_shape_and_offset(shape, channel_axis, offset, dtype):
    x = values(shape, dtype, offset)
    assert_moments(Moments.of(x, channel_axis=channel_axis), expected(x, channel_axis))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channel_axis", [0, 1, -1])
def test_any_layout(layout, masked, channel_axis):
    x = LAYOUTS[layout](values((37, 11, 13), offset=100.0))
    others = np.delete(x.shape, channel_axis)
    mask = np.random.default_rng(1).random(others) < 0.7 if masked else None
    before = x.copy()
    assert_moments(Moments.of(x, channel_axis=channel_axis, mask=mask), expected(x, channel_axis, mask))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
def test_any_dtype(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    x = (values((500, 3)) * 20 + 50).clip(0, 100).astype(dtype)
    assert_moments(Moments.of(x), expected(x))


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_an_array_of_several_blocks(dtype):
    """A copied one is cut along every axis on the way."""
    x = (values((3, 5, BLOCK // 6)) * 100 + 1000).astype(dtype)[:, :, ::-1]
    mask = values((3, BLOCK // 6), seed=1) < 0.5
    assert_moments(Moments.of(x), expected(x))
    assert_moments(Moments.of(x, mask=mask), expected(x, mask=mask))


def test_twenty_million_ones():
    """Of which NumPy's mean over the first axis, in float32, is 0.8388608."""
    for shape in ((20_000_000, 1), (20_000_000, 2)):
        moments = Moments.of(np.ones(shape, np.float32))
        assert (moments.count == 20_000_000).all()
        assert (moments.mean == 1).all()
        assert (moments.m2 == 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("value", [0.1, 1e-30, -1e300])
def test_equal_values_have_no_variance(n, value):
    moments = Moments.of(np.full((n, 2), value))
    assert (moments.mean == value).all()
    assert (moments.m2 == 0).all()


@pytest.mark.parametrize("far", [1e3, 1e9])
def test_values_that_mislead_the_first_guess_at_the_mean(far):
    """Those that the guess is made of are far from all others: the sums are taken again."""
    x = values((100_000, 1), np.float64, 1.0)
    places = [k * 2654435769 % 100_000 for k in range(8)]
    x[places] += far
    assert_moments(Moments.of(x), expected(x))


def test_what_is_not_finite_stays_in_its_channel():
    x = values((1000, 5))
    x[7, 1], x[8, 3] = np.nan, np.inf
    moments = Moments.of(x)
    assert (np.isfinite(moments.mean) == [True, False, True, False, True]).all()
    count, mean, m2 = expected(x[:, ::2])
    assert_moments(Moments(moments.count[::2], moments.mean[::2], moments.m2[::2]), (count, mean, m2))


def test_the_same_bits_for_any_number_of_threads():
    x, threads = values((100_000, 20)), get_num_threads()
    try:
        found = []
        for n in (1, threads):
            set_num_threads(n)
            found.append(pickle.dumps(Moments.of(x)))
    finally:
        set_num_threads(threads)
    assert len(set(found)) == 1


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.sampled_from([0.0, 1.0, 1e6]),
    st.sampled_from([np.float32, np.float64]),
    st.randoms(use_true_random=False),
)
def test_any_grouping_gives_the_same(sizes, offset, dtype, random):
    """Blocks of different means, some without a value, merged in any order and shape of tree."""
    blocks = [values((n, 3), dtype, offset + 2.0 * i, seed=i) for i, n in enumerate(sizes)]
    moments = [Moments.of(block) for block in blocks]
    while len(moments) > 1:
        a, b = (moments.pop(random.randrange(len(moments))) for _ in range(2))
        moments.insert(random.randrange(len(moments) + 1), random.choice([a.merge, a.__add__])(b))
    whole = np.concatenate(blocks)
    if len(whole):
        assert_moments(moments[0], expected(whole))
        assert_moments(Moments.of(blocks), expected(whole))
        assert_moments(sum(map(Moments.of, blocks)), expected(whole))
    else:
        assert_nothing(moments[0], 3)


def test_a_long_chain_of_equal_blocks():
    """Rounded a hundred thousand times, always the same way if M2 had one part."""
    x = np.array([[0.0], [np.sqrt(0.2)]])
    block, total = Moments.of(x), Moments.of(x[:0])
    for _ in range(20_000):
        total.merge(block)
    assert_moments(total, expected(np.tile(x, (20_000, 1))), 1e-15)


def test_a_sum_of_one_is_another_object():
    a = Moments.of(values((5, 2)))
    sum([a]).update(values((7, 2)))
    a.count[0] = a.m2[0] = a.mean[0] = 99
    assert_moments(a, expected(values((5, 2))))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_an_array():
    x = np.matrix([[1, 2], [3, 5]])
    assert_moments(Moments.of(x), expected(np.array(x)))
    assert_moments(Moments.of(x, mask=np.array([True, False])), expected(np.array(x)[:1]))


def assert_nothing(moments, C):
    assert moments.mean.shape == (C,)
    assert (moments.count == 0).all()
    assert (moments.m2 == 0).all()
    for a in (moments.mean, moments.var(), moments.std(1)):
        assert np.isnan(a).all()


@pytest.mark.parametrize("shape", [(0, 4), (3, 4, 0)])
def test_no_values(shape):
    assert_nothing(Moments.of(np.empty(shape)), 4)
    assert_nothing(Moments.of(values((9, 4)), mask=np.zeros(9, bool)), 4)
    assert_moments(Moments.of(np.empty(shape)) + Moments.of(values((9, 4))), expected(values((9, 4))))
    assert_moments(Moments.of(values((9, 4))).update(np.empty(shape)), expected(values((9, 4))))


def test_update_is_as_merging():
    x, mask = values((50, 4, 6), offset=3.0), values((20, 6), seed=1) < 0
    moments = Moments.of(x[:30])
    assert moments.update(x[30:], mask=mask) is moments
    both = np.concatenate([np.ones((30, 6), bool), mask])
    assert_moments(moments, expected(x, mask=both))
    turned = Moments.of(np.moveaxis(x, 1, 0)[:, :30], channel_axis=0)
    assert_moments(turned.update(np.moveaxis(x, 1, 0)[:, 30:], channel_axis=0), expected(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "channel_axis"), [((300, 3), 1), ((20, 3, 30), 1), ((3, 400), 0), ((2, 3, 1000), 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_nan_left_out_on_request(shape, channel_axis, masked, dtype):
    x = values(shape, dtype, 5.0)
    x[values(shape, seed=1) > 1] = np.nan
    mask = values(np.delete(shape, channel_axis), seed=7) < 0.5 if masked else None
    moments = Moments.of(x, channel_axis=channel_axis, mask=mask, nan_policy="omit")
    own = np.moveaxis(x, channel_axis, -1)
    own = own.reshape(-1, own.shape[-1]) if mask is None else own[mask]
    for c, column in enumerate(own.T):
        count, mean, m2 = expected(column[~np.isnan(column)][:, None])
        one = Moments(moments.count[c], moments.mean[c], moments.m2[c])
        assert_moments(one, (count, mean, m2))
    assert np.isnan(Moments.of(x, channel_axis=channel_axis, mask=mask).mean).all()
    parts = Moments.of(np.moveaxis(x, channel_axis, 1)[:2], nan_policy="omit")
    parts.update(np.moveaxis(x, channel_axis, 1)[2:], nan_policy="omit")
    if not masked and channel_axis == 1:
        np.testing.assert_allclose(parts.mean, moments.mean, rtol=1e-12)
        np.testing.assert_array_equal(parts.count, moments.count)


def test_infinity_is_not_left_out():
    moments = Moments.of(np.array([[1.0, np.inf], [np.nan, 2.0]]), nan_policy="omit")
    np.testing.assert_array_equal(moments.count, [1, 2])
    assert moments.mean[0] == 1
    assert not np.isfinite(moments.mean[1])


def test_one_axis_is_one_channel():
    x = values(100, offset=3.0)
    mask = values(100, seed=1) < 0
    assert_moments(Moments.of(x), expected(x[:, None]))
    assert_moments(Moments.of(x[::2]).update(x[1::2]), expected(x[:, None]))
    assert_moments(Moments.of(x, mask=mask), expected(x[:, None], mask=mask))
    assert_moments(Moments.of([x[:30], x[30:]]), expected(x[:, None]))
    with pytest.raises(ValueError, match=r"^mask: shape \(2,\), must be \(100,\)"):
        Moments.of(x, mask=mask[:2])


def test_equal_moments():
    x = values((30, 3), offset=1e6)
    moments = Moments.of(x)
    assert moments == Moments.of(x.copy())
    assert moments == pickle.loads(pickle.dumps(moments))
    assert moments != Moments.of(x + 1)
    assert moments != Moments.of(x[:, :2])
    assert moments != Moments(moments.count, moments.mean, 2 * moments.m2)
    assert moments != Moments(moments.count + 1, moments.mean, moments.m2)
    assert moments != 3
    assert Moments(0, [1, 2], 0) == Moments(0, [3, np.nan], 0)  # of no value
    assert Moments.of(x * np.float64(np.nan)) == Moments.of(x * np.float64(np.nan))
    with pytest.raises(TypeError, match="unhashable"):
        hash(moments)


def test_a_short_repr():
    text = repr(Moments.of(values((20, 768))))
    assert len(text) < 250
    assert text.startswith("Moments(count=[20. 20. 20. ... 20. 20. 20.], mean=[")
    assert "\n" not in text


def test_var_and_std():
    x = values((20, 3), np.float64)
    moments = Moments.of(x)
    for ddof in (0, 1, 0.5):
        np.testing.assert_allclose(moments.var(ddof), x.var(0, ddof=ddof), rtol=1e-13)
        np.testing.assert_allclose(moments.std(ddof), x.std(0, ddof=ddof), rtol=1e-13)
    one = Moments.of(x[:1])
    assert (one.var() == 0).all()
    assert np.isnan(one.var(ddof=1)).all()


def test_kept_and_made_anew():
    x = values((20, 3), offset=1e6)
    moments = Moments.of(x)
    for other in (pickle.loads(pickle.dumps(moments)), copy.deepcopy(moments), pickle.loads(pickle.dumps(moments, 0))):
        assert_moments(other.update(x + 1), expected(np.concatenate([x, x + 1])))
    assert_moments(moments, expected(x))  # the copies are apart
    made = Moments(moments.count, moments.mean, moments.m2)
    np.testing.assert_array_equal(made.var(), moments.var())
    assert repr(Moments(2, [1, 2], 8)) == "Moments(count=[2. 2.], mean=[1. 2.], m2=[8. 8.])"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2"])
def test_a_memmap_in_bounded_memory(tmp_path, dtype):
    shape = 60 * BLOCK // 16, 16
    x = np.memmap(tmp_path / "x", dtype, "w+", shape=shape)
    x[:] = np.arange(shape[0])[:, None] % 1000
    x = np.memmap(tmp_path / "x", dtype, "r", shape=shape)
    Moments.of(x[:100])  # compiles
    tracemalloc.start()
    moments = Moments.of(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * BLOCK < x.nbytes
    assert_moments(moments, expected(np.arange(shape[0])[:, None] % 1000 + np.zeros(16)))


def test_blocks_are_asked_for_one_at_a_time():
    """When one is asked for, none is alive but that before it."""
    alive, made = [], []

    def blocks():
        for i in range(20):
            alive.append(sum(block() is not None for block in made))
            block = values((1000, 3), seed=i)
            made.append(weakref.ref(block))
            yield block
            del block

    moments = Moments.of(blocks())
    assert len(alive) == 20
    assert max(alive) <= 1
    assert_moments(moments, expected(np.concatenate([values((1000, 3), seed=i) for i in range(20)])))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.float64(3), TypeError, "^x: numpy.float64, must be a numpy.ndarray"),
        (np.array(3.0), ValueError, r"^x: shape \(\), must have at least 1 axis"),
        (np.ones((3, 2), complex), TypeError, "^x: dtype complex128, must be of real numbers; pass the real"),
        (np.array([["a"]]), TypeError, "^x: dtype <U1, must be of real numbers"),
        (np.ones((3, 2), object), TypeError, "^x: dtype object, must be of real numbers; pass np.asarray"),
        (np.ma.ones((3, 2)), TypeError, "^x: .*MaskedArray, must be a plain numpy.ndarray"),
        ([[1.0, 2.0]], TypeError, "^x: builtins.list, must be a numpy.ndarray; pass np.asarray"),
        (5, TypeError, "^x: builtins.int, must be a numpy.ndarray"),
        ("text", TypeError, "^x: builtins.str, must be a numpy.ndarray"),
        ([], ValueError, "^x: no blocks, must be at least one"),
        ([np.ones((3, 2)), np.ones((3, 4))], ValueError, "4 channels, must be of 2"),
    ],
)
def test_wrong_x(x, error, message):
    with pytest.raises(error, match=message):
        Moments.of(x)


def test_wrong_arguments():
    x, moments = np.ones((3, 2)), Moments(3, [1, 2], [1, 1])
    with pytest.raises(ValueError, match=r"^mask: shape \(2,\), must be \(3,\)"):
        Moments.of(x, mask=np.ones(2, bool))
    with pytest.raises(TypeError, match=r"^mask: dtype float64, must be bool"):
        Moments.of(x, mask=np.ones(3))
    with pytest.raises(TypeError, match=r"^mask: beside an iterable of blocks, must be None"):
        Moments.of([x], mask=np.ones(3, bool))
    with pytest.raises(ValueError, match=r"^nan_policy: 'raise', must be 'propagate' or 'omit'"):
        Moments.of(x, nan_policy="raise")
    with pytest.raises(ValueError, match=r"^nan_policy: \[\], must be"):
        Moments.of(x, nan_policy=[])
    with pytest.raises(ValueError, match=r"^channel_axis: 2, must be in"):
        Moments.of(x, channel_axis=2)
    with pytest.raises(TypeError, match=r"^other: int, must be Moments"):
        moments.merge(3)
    with pytest.raises(TypeError, match="unsupported operand"):
        moments + 3
    with pytest.raises(ValueError, match="of 3 channels, must be of 2"):
        moments.merge(Moments(1, [1, 2, 3], 0))
    with pytest.raises(ValueError, match=r"^count: -1.0 in it, must not be negative"):
        Moments(-1.0, 0, 0)
    with pytest.raises(ValueError, match=r"^m2: -1.0 in it, must not be negative"):
        Moments(1, 0, [2, -1.0])
    with pytest.raises(ValueError, match=r"^mean: shape \(2,\), must be \(3,\)"):
        Moments(np.ones(3), np.ones(2), 0)
    with pytest.raises(ValueError, match=r"^mean: shape \(1, 1\), must be a number or an array of shape"):
        Moments(1, np.ones((1, 1)), 0)
    with pytest.raises(TypeError, match=r"^mean: .*, must be a number"):
        Moments(1, "a", 0)
    with pytest.raises(TypeError, match=r"^ddof: None, must be a number"):
        moments.var(None)
    np.testing.assert_array_equal(moments.m2, [1, 1])
