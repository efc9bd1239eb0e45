"""The scalers, against their formulas in extended precision and against scikit-learn's."""

import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from numbanorm import MinMaxScaler, StandardScaler, get_num_threads, set_num_threads
from numbanorm._scaling.measured import BLOCK
from tests.cases import assert_within, tolerance, values
from tests.layouts import LAYOUTS

SCALERS = [StandardScaler(), MinMaxScaler((-2, 3)), MinMaxScaler(clip=True)]


def new(scaler):
    """Of the same parameters, not fitted."""
    return type(scaler)(**scaler.get_params())


def normalized(X, scaler):
    """y, and scale, of a fit to X itself."""
    X = np.asarray(X).astype(np.longdouble)
    X -= np.nanmin(X, 0)  # exact, and then there are more digits for the mean
    if isinstance(scaler, StandardScaler):
        center, span, (low, high) = np.nanmean(X, 0), np.sqrt(np.nanvar(X, 0)), (0, 1)
    else:
        center, span, (low, high) = 0, np.nanmax(X, 0), scaler.feature_range
    scale = (high - low) / np.where(span == 0, 1, span)
    return (X - center) * scale + low, scale


def assert_scaled(y, X, scaler, dtype=np.float32):
    expected, _ = normalized(X, scaler)
    assert_within(np.nan_to_num(y), np.nan_to_num(expected), tolerance(dtype) * np.fmax(1, np.abs(expected)).max())
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


def assert_same_fit(scaler, other, limit=1e-12):
    for name, value in vars(other).items():
        if name.endswith("_") and value is not None and name != "feature_names_in_":
            own = getattr(scaler, name)
            assert np.shape(own) == np.shape(value), name
            unit = 1.0 if name != "mean_" or other.scale_ is None else other.scale_  # of a mean: the spread
            np.testing.assert_allclose(own / unit, value / unit, rtol=limit, atol=limit, err_msg=name)


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 1), (3, 7), (1000, 10), (70_001, 3), (300, 1500), (2, 40_000)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_shape_far_from_zero_and_back(scaler, shape, dtype, order):
    X = np.asarray(values(shape, dtype, 1e6), order=order)
    scaler = new(scaler)
    y = scaler.fit(X).transform(X)
    assert y.dtype == dtype
    assert_scaled(y, X, scaler, dtype)
    back = scaler.inverse_transform(y)
    assert back.dtype == dtype
    _, scale = normalized(X, scaler)
    assert_within(back, X, np.spacing(np.abs(X)) + tolerance(dtype) * np.max(np.fmax(1, np.abs(y)) / scale))


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("in_place", [False, True])
def test_any_layout(scaler, layout, in_place):
    X = values((501, 13), offset=100.0)
    X[[3, 77], [2, 5]] = np.nan
    X = LAYOUTS[layout](X)
    before, scaler = np.array(X), new(scaler)
    y = scaler.fit(X).transform(X, copy=not in_place)
    assert_scaled(y, before, scaler)
    if in_place and layout != "read_only":
        assert y is X or (layout == "subclass" and np.shares_memory(y, X))
    else:
        np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "int64", "float16", ">i4", ">f8"])
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_any_dtype(scaler, dtype):
    X = values((2000, 3)) > 0 if dtype == "bool" else (values((2000, 3)) * 20).astype(dtype)
    scaler = new(scaler)
    y = scaler.fit(X).transform(X)
    assert y.dtype == (np.dtype(dtype).newbyteorder("=") if np.dtype(dtype).kind == "f" else np.float64)
    unit = 2e-3 if dtype == "float16" else 1e-12
    expected, _ = normalized(X, scaler)
    assert_within(y, expected, unit * np.fmax(1, np.abs(expected)))


@pytest.mark.parametrize("kind", ["plain", "missing", "weights", "weights and missing"])
@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_scikit_learns_standard_scaler(kind, with_mean, with_std):
    sklearn = pytest.importorskip("sklearn.preprocessing")
    X, rng = values((1000, 5), np.float64, 3.0), np.random.default_rng(1)
    X[:, 3] = 7.0
    if "missing" in kind:
        X[rng.random(X.shape) < 0.2] = np.nan
        X[:, 4] = np.nan
        X[[0, 1, 300, 400], 4] = 1.0, 2.0, 3.0, 4.0  # in each chunk, or scikit-learn warns
    weights = rng.integers(0, 4, 1000).astype(float) + 0.5 if "weights" in kind else None
    own, other = (
        made.StandardScaler(with_mean=with_mean, with_std=with_std) for made in (sys.modules[__name__], sklearn)
    )
    for chunk in (slice(0, 300), slice(300, 310), slice(310, 1000)):
        w = None if weights is None else weights[chunk]
        own.partial_fit(X[chunk], sample_weight=w)
        other.partial_fit(X[chunk], sample_weight=w)
    for name in ("mean_", "var_", "scale_"):
        assert (getattr(own, name) is None) == (getattr(other, name) is None), name
    if not with_mean and not with_std:
        del own.n_samples_seen_, other.n_samples_seen_  # scikit-learn leaves the weights out then
    assert_same_fit(own, other)
    np.testing.assert_allclose(own.transform(X), other.transform(X), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(own.inverse_transform(X), other.inverse_transform(X), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("feature_range", [(0, 1), (-5, 7.5)])
@pytest.mark.parametrize("clip", [False, True])
def test_scikit_learns_min_max_scaler(feature_range, clip):
    sklearn = pytest.importorskip("sklearn.preprocessing")
    X = values((1000, 5), np.float64, 3.0)
    X[:, 3] = 7.0
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    own, other = MinMaxScaler(feature_range, clip=clip), sklearn.MinMaxScaler(feature_range, clip=clip)
    for chunk in (slice(0, 300), slice(300, 310), slice(310, 900)):
        own.partial_fit(X[chunk])
        other.partial_fit(X[chunk])
    assert_same_fit(own, other)
    far = X * 3  # beyond what was fitted
    np.testing.assert_allclose(own.transform(far), other.transform(far), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(own.inverse_transform(far), other.inverse_transform(far), rtol=1e-11, atol=1e-12)


def test_columns_without_a_value():
    X = np.full((5, 2), np.nan, np.float32)
    X[:, 0] = [1, 2, 3, 4, 5]
    standard, extremes = StandardScaler().fit(X), MinMaxScaler().fit(X)
    np.testing.assert_array_equal(standard.n_samples_seen_, [5, 0])
    for attribute in (standard.mean_, standard.var_, extremes.data_min_, extremes.scale_):
        np.testing.assert_array_equal(np.isnan(attribute), [False, True])
    for scaler in (standard, extremes):
        y = scaler.transform(X)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(X))
        later = scaler.partial_fit(np.array([[3, 1], [3, 2]], np.float32)).transform(np.ones((1, 2), np.float32))
        assert np.isfinite(later).all()


@pytest.mark.parametrize("value", [0.0, 1e-20, 3.3, -1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_columns_of_equal_values(value, dtype):
    X = np.full((1000, 2), value, dtype)
    standard = StandardScaler().fit(X)
    assert (standard.scale_ == 1).all()
    assert (standard.transform(X) == 0).all()
    assert (MinMaxScaler((2, 3)).fit_transform(X) == 2).all()


def test_columns_of_values_equal_but_for_rounding():
    X = np.nextafter(0.3, np.where(values((100, 1)) < 0, 0, 1))
    assert (StandardScaler().fit(X).scale_ == 1).all()
    X[:50] += 1e-13
    assert (StandardScaler().fit(X).scale_ < 1e-12).all()


def test_small_values_are_scaled():
    """Those of which scikit-learn takes a column for constant in float32."""
    X = values((100, 2)) * np.float32(1e-12)
    for scaler in (StandardScaler(), MinMaxScaler()):
        assert_scaled(scaler.fit_transform(X), X, scaler)


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("span", [1e-42, 1e-38, 1e38, 3e38])
def test_float32_at_the_ends_of_its_range(scaler, span):
    """Where it cannot hold the differences of values, or the reciprocal of their spread."""
    X = np.array([[-1, 0.5], [0.25, 1], [1, -1]], np.float32) * np.float32(span)
    for in_place in (False, True):
        own = X.copy()
        y = new(scaler).fit(X).transform(own, copy=not in_place)
        assert (y is own) == in_place
        assert_scaled(y, X, scaler)


def test_spans_that_have_no_reciprocal():
    X = np.array([[0.0], [1e-310]])
    for scaler in (StandardScaler(), MinMaxScaler()):
        assert (np.abs(scaler.fit_transform(X)) <= 1e-310).all()
    MinMaxScaler().fit(np.array([[-1.7e308], [1.7e308]]))  # without a warning


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_attributes_set_by_hand(scaler):
    """As by a program that has kept them, and then changed."""
    X, more = values((50, 3), offset=5.0), values((20, 3), seed=1)
    fitted, restored = new(scaler).fit(X), new(scaler)
    for name, value in vars(fitted).items():
        if name.endswith("_"):
            setattr(restored, name, np.copy(value))
    np.testing.assert_allclose(restored.transform(X), fitted.transform(X), rtol=0, atol=1e-6)
    assert_same_fit(restored.partial_fit(more), fitted.partial_fit(more))
    if isinstance(scaler, MinMaxScaler) and not scaler.clip:
        y = fitted.transform(X)
        fitted.min_ += 5
        np.testing.assert_allclose(fitted.transform(X), y + 5, rtol=0, atol=1e-5)
        fitted.data_min_[:] = -100
        np.testing.assert_allclose(fitted.transform(X), y + 5, rtol=0, atol=1e-5)
        assert (fitted.partial_fit(more).data_min_ == -100).all()


def test_parameters_set_after_a_fit():
    X = values((50, 3), offset=5.0)
    scaler = StandardScaler().fit(X)
    np.testing.assert_allclose(scaler.set_params(with_std=False).transform(X), X - scaler.mean_, atol=1e-5)
    np.testing.assert_allclose(scaler.set_params(with_mean=False).transform(X), X)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.parametrize("dtype", ["f4", ">f4", "f2"])
def test_in_place_after_a_fit_to_names(dtype):
    pandas = pytest.importorskip("pandas")
    X = values((50, 2)).astype(dtype)
    scaler = StandardScaler(copy=False).fit(pandas.DataFrame(np.array(X, "f8"), columns=["a", "b"]))
    before = X.copy()
    assert scaler.transform(X) is X
    assert_within(X, normalized(before, scaler)[0], 2e-3 if dtype == "f2" else 1e-5)


def test_bfloat16():
    dtype = pytest.importorskip("ml_dtypes").bfloat16
    X = values((500, 2)).astype(dtype)
    y = StandardScaler().fit_transform(X)
    assert y.dtype == dtype
    assert_within(y.astype(float), normalized(X, StandardScaler())[0], 2e-2)


def test_weights_are_numbers_of_times():
    X, times = values((200, 3), np.float64), np.random.default_rng(1).integers(0, 4, 200)
    X[times == 0] = 1e9
    X[5] = np.nan
    weighted, repeated = StandardScaler().fit(X, sample_weight=times), StandardScaler().fit(np.repeat(X, times, 0))
    assert_same_fit(weighted, repeated)
    assert_same_fit(StandardScaler().fit(X[:4], sample_weight=2), StandardScaler().fit(np.repeat(X[:4], 2, 0)))


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@settings(max_examples=60)
@given(
    arrays(np.float32, st.tuples(st.integers(2, 60), st.integers(1, 5)), elements=st.floats(-1e3, 1e3, width=32)),
    st.lists(st.integers(1, 59), max_size=4),
    st.floats(0, 0.5),
)
def test_parts_merge_to_the_whole(scaler, X, cuts, missing):
    X = X.copy()
    X[np.random.default_rng(0).random(X.shape) < missing] = np.nan
    parts = [part for part in np.split(X, sorted(cuts)) if len(part)]
    whole, one_by_one, merged = (new(scaler) for _ in range(3))
    whole.fit(X)
    for part in parts:
        one_by_one.partial_fit(part)
    merged.fit(parts[0])
    for part in parts[1:]:
        assert merged.merge(new(scaler).fit(part)) is merged
    for other in (one_by_one, merged):
        for name in ("n_samples_seen_", "mean_", "var_", "data_min_", "data_max_"):
            if hasattr(whole, name):
                expected = np.asarray(getattr(whole, name), float)
                # x is of up to 1e3, and so are the errors of means and variances
                np.testing.assert_allclose(getattr(other, name), expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
@pytest.mark.parametrize("scaler", [StandardScaler(copy=False), MinMaxScaler(copy=False, clip=True)], ids=repr)
def test_a_memmap_in_place_in_bounded_memory(tmp_path, scaler, dtype):
    shape = 490_000, 16
    X = np.memmap(tmp_path / "X", dtype, "w+", shape=shape)
    X[:] = np.arange(shape[0])[:, None] % 1000 + np.arange(16)
    scaler.fit_transform(X[:100].copy())  # compiles
    expected, _ = normalized(X[:1000], scaler)
    tracemalloc.start()
    y = scaler.fit(X).transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert y is X
    assert peak < 6 * 8 * BLOCK < X.nbytes
    X.flush()
    written = np.memmap(tmp_path / "X", dtype, "r", shape=shape)
    assert_within(written[:1000], expected, 1e-6)
    np.testing.assert_array_equal(written[:1000], written[1000:2000])


def test_the_same_bits_for_any_number_of_threads():
    X, threads, found = values((100_000, 20)), get_num_threads(), []
    missing = np.where(values(X.shape, seed=1) > 2, np.nan, X)
    try:
        for n in (1, threads):
            set_num_threads(n)
            found.append([s.fit(a).transform(a).tobytes() for s in SCALERS for a in (X, missing)])
    finally:
        set_num_threads(threads)
    assert found[0] == found[1]


# --- errors ---


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(50, 3), (100_000, 4)])
def test_infinity_is_refused_and_nothing_changed(scaler, value, shape):
    X = values(shape)
    scaler = new(scaler).fit(X)
    before = pickle.dumps(scaler)
    X[shape[0] // 2, 1], X[0, 2] = value, np.nan
    kept = X.copy()
    for call in (scaler.fit, scaler.partial_fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(ValueError, match=r"^X: infinity in it, must be finite"):
            call(X)
    with pytest.raises(ValueError, match=r"^X: infinity in it"):
        scaler.transform(X, copy=False)
    np.testing.assert_array_equal(X, kept)
    assert pickle.dumps(scaler) == before


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_a_mask_is_not_forgotten(scaler):
    X = np.ma.array(values((5, 2)), mask=np.zeros((5, 2)))
    with pytest.raises(TypeError, match=r"^X: numpy.ma.MaskedArray, must be a plain array"):
        new(scaler).fit(X)
    with pytest.raises(TypeError, match=r"^X: numpy.ma.MaskedArray, must be a plain array"):
        new(scaler).fit(values((5, 2))).transform(X)


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_other_columns_are_refused(scaler):
    scaler = new(scaler).fit(values((9, 3)))
    before = pickle.dumps(scaler)
    for call in (scaler.partial_fit, scaler.transform, scaler.inverse_transform):
        with pytest.raises(ValueError, match=r"^X has 4 features, but \w+ is expecting 3 features as input"):
            call(values((9, 4)))
    with pytest.raises(ValueError, match=r"^other: fitted to 4 features, must be 3"):
        scaler.merge(new(scaler).fit(values((9, 4))))
    other = StandardScaler() if isinstance(scaler, MinMaxScaler) else MinMaxScaler()
    with pytest.raises(TypeError, match=f"^other: {type(other).__name__}, must be {type(scaler).__name__}"):
        scaler.merge(other)
    assert pickle.dumps(scaler) == before


@pytest.mark.parametrize(
    ("scaler", "error", "message"),
    [
        (StandardScaler(copy=1), TypeError, "^copy: 1, must be True or False"),
        (StandardScaler(with_mean=None), TypeError, "^with_mean: None, must be True or False"),
        (MinMaxScaler((1, 0)), ValueError, r"^feature_range: \(1, 0\), must have the smaller number first"),
        (MinMaxScaler(5), TypeError, "^feature_range: 5, must be a tuple of two numbers"),
        (MinMaxScaler((0, np.inf)), ValueError, "^feature_range: inf, must be finite$"),
        (MinMaxScaler(clip="yes"), TypeError, "^clip: 'yes', must be True or False"),
    ],
)
def test_wrong_parameters(scaler, error, message):
    with pytest.raises(error, match=message):
        scaler.fit(values((5, 2)))
    assert not hasattr(scaler, "n_features_in_")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(4), r"^sample_weight: shape \(4,\), must be \(5,\)"),
        (np.ones((5, 1)), r"^sample_weight: shape \(5, 1\), must be \(5,\)"),
        ([1, 1, 1, 1, -1], "^sample_weight: must be finite and not negative"),
        ([1, 1, 1, 1, np.nan], "^sample_weight: must be finite and not negative"),
        (5 * ["a"], r"^sample_weight: list, must be an array of real numbers: could not convert string"),
        (5 * [1j], r"^sample_weight: list, must be an array of real numbers: Complex data not supported"),
        (np.ma.ones(5), r"^sample_weight: numpy.ma.MaskedArray, must be a plain array"),
        (5 * [1e308], r"^sample_weight: 1e\+308 in it, too large for the sum of weighted squares"),
        ([1, [2], 3, 4, 5], r"^sample_weight: list, must be an array of real numbers"),
        (np.zeros(5), "^sample_weight: zero for all samples, must be positive for one"),
    ],
)
def test_wrong_weights(weights, message):
    with pytest.raises((TypeError, ValueError), match=message):
        StandardScaler().fit(values((5, 2)), sample_weight=weights)


# --- in scikit-learn, and without it ---


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_scikit_learns_own_checks(scaler):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    results = checks.check_estimator(new(scaler), on_skip=None)
    assert len(results) > 40
    assert [r["check_name"] for r in results if r["status"] != "passed"] in ([], ["check_array_api_input"])


def test_in_a_pipeline_with_clone_and_set_output():
    pytest.importorskip("sklearn")
    pandas = pytest.importorskip("pandas")
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    X = pandas.DataFrame(values((50, 3), np.float64, 5.0), columns=["a", "b", "c"])
    both = clone(make_pipeline(MinMaxScaler((2, 3)), StandardScaler())).set_output(transform="pandas")
    y = both.fit_transform(X, standardscaler__sample_weight=np.ones(50))
    assert list(y.columns) == ["a", "b", "c"]
    assert_scaled(y.to_numpy(), X, StandardScaler(), np.float32)
    assert list(both[-1].feature_names_in_) == ["a", "b", "c"]
    other = StandardScaler().fit(X.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match=r"^other: fitted to features \['z', 'b', 'c'\], must be \['a', 'b', 'c'\]"):
        both[-1].merge(other)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        both[-1].transform(X.to_numpy())


_WITHOUT = """
import sys
sys.modules["sklearn"] = None
import pickle
import numpy as np
import numbanorm
from numbanorm import MinMaxScaler, StandardScaler

X = np.random.default_rng(0).normal(5, 2, (100, 3)).astype(np.float32)
class Frame:
    columns = ["a", "b", "c"]
    def __array__(self, dtype=None, copy=None):
        return np.array(X, dtype)
y = StandardScaler().fit_transform(X)
assert abs(y - (X - X.mean(0)) / X.std(0)).max() < 1e-5
scaler = MinMaxScaler((0, 2)).set_params(clip=True)
assert repr(scaler) == "MinMaxScaler(feature_range=(0, 2), clip=True)", scaler
assert scaler.get_params() == {"feature_range": (0, 2), "copy": True, "clip": True}
for call, error in [
    (lambda: scaler.transform(X), (ValueError, AttributeError)),
    (lambda: scaler.set_params(copies=1), ValueError),
    (lambda: scaler.fit([1, 2]), ValueError),
    (lambda: scaler.fit(np.empty((0, 3))), ValueError),
    (lambda: scaler.fit([["a"]]), ValueError),
    (lambda: scaler.fit(np.ma.ones((3, 2))), TypeError),
    (lambda: scaler.fit(X).transform(X[:, :2].tolist()), ValueError),
]:
    try:
        call()
    except error:
        pass
    else:
        raise AssertionError(error)
y = scaler.fit_transform(X.tolist())
assert y.dtype == np.float64 and y.max() < 2 + 1e-6 and abs(y.min()) < 1e-6
assert list(scaler.get_feature_names_out()) == ["x0", "x1", "x2"]
assert list(scaler.fit(Frame()).get_feature_names_out()) == ["a", "b", "c"]
assert (pickle.loads(pickle.dumps(scaler)).transform(Frame()) == scaler.transform(Frame())).all()
class Turned(Frame):
    columns = ["b", "a", "c"]
for call in (lambda: scaler.transform(Turned()), lambda: scaler.get_feature_names_out(["a"])):
    try:
        call()
    except ValueError as error:
        assert "must be ['a', 'b', 'c']" in str(error)
    else:
        raise AssertionError
assert not [name for name in sys.modules if name.startswith("sklearn.")]
"""


def test_without_scikit_learn():
    command = [sys.executable, "-W", "error", "-c", _WITHOUT]
    subprocess.run(command, check=True, timeout=300)
