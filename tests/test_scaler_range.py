"""The scalers and Moments over float64's whole range, and what small integers become; against extended precision."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numbanorm import MinMaxScaler, Moments, StandardScaler
from tests.cases import values
from tests.test_scalers import SCALERS, assert_same_fit, new, normalized

EXACT = 1e-14  # some roundings of results of magnitude 1
SIZES = [1e-300, 1e-170, 1e-150, 1e-120, 1.0, 1e120, 1e154, 1e200, 1e308]


def assert_right(scaler, X):
    """Fitted to X, back and forth."""
    y, (expected, scale) = scaler.transform(X), normalized(X, scaler)
    np.testing.assert_allclose(y, expected.astype(float), rtol=EXACT, atol=EXACT * np.nanmax(np.abs(expected)))
    factor = 1 / scaler.scale_ if isinstance(scaler, StandardScaler) else scaler.scale_
    np.testing.assert_allclose(factor, scale.astype(float), rtol=EXACT)
    back, size = scaler.inverse_transform(y), np.nanmax(np.abs(X), 0)
    np.testing.assert_allclose(back / size, X / size, rtol=0, atol=EXACT)


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("size", SIZES)
def test_columns_of_any_size(scaler, size):
    X = values((50, 3), np.float64)
    X *= size / np.abs(X).max()
    X[:, 1] = size * np.linspace(-1, 1, 50)  # of mean 0
    X[:, 2] = values(50, np.float64, 3.0)  # a neighbour of an ordinary size
    assert_right(new(scaler).fit(X), X)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.floats(1, 2) | st.floats(-2, -1), min_size=2, max_size=9), min_size=1, max_size=4), st.data()
)
def test_any_sizes_together_and_in_parts(parts, data):
    """Columns whose parts are of different sizes, from 1e-290 on, merged."""
    sizes = [10.0 ** data.draw(st.integers(-290, 307)) for _ in parts]
    parts = [size * np.array(part)[:, None] for size, part in zip(sizes, parts, strict=True)]
    X = np.vstack(parts)
    for made in (StandardScaler, MinMaxScaler):
        whole, merged = made().fit(X), made().fit(parts[0])
        for part in parts[1:]:
            merged.merge(made().fit(part))
        expected, _ = normalized(X, whole)
        for scaler in (whole, merged):
            constant = isinstance(scaler, StandardScaler) and scaler.scale_[0] == 1
            y = scaler.transform(X)
            atol = 1e-12 * np.fmax(1, np.abs(expected).max())
            np.testing.assert_allclose(y, np.zeros_like(y) if constant else expected.astype(float), rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("scaler", "X", "expected"),
    [
        (StandardScaler(), [1e155, -1e155], [1, -1]),
        (StandardScaler(), [1e-170, 3e-170], [-1, 1]),
        (StandardScaler(), [1.5e308, -1.5e308, 0], [1.5**0.5, -(1.5**0.5), 0]),
        (StandardScaler(), [1.7e308, 1.7e308], [0, 0]),
        (MinMaxScaler(), [1.5e308, -1.5e308, 0], [1, 0, 0.5]),
        (MinMaxScaler((0, 1e10)), [1e-300, 3e-300, 2e-300], [0, 1e10, 5e9]),
        (MinMaxScaler((0, 1e-300)), [1e300, 3e300, 2e300], [0, 1e-300, 5e-301]),
        (MinMaxScaler((-8e307, 8e307), clip=True), [1e300, 3e300, 2.5e300], [-8e307, 8e307, 4e307]),
    ],
)
def test_values_at_the_ends_of_float64(scaler, X, expected):
    X = np.array(X)[:, None]
    y = scaler.fit_transform(X)
    np.testing.assert_allclose(y[:, 0], expected, rtol=EXACT, atol=EXACT * np.max(np.abs(expected)))
    np.testing.assert_allclose(scaler.inverse_transform(y), X, rtol=EXACT, atol=EXACT * np.abs(X).max())
    in_place = X.copy()
    assert scaler.transform(in_place, copy=False) is in_place
    np.testing.assert_array_equal(in_place, y)
    if isinstance(scaler, StandardScaler):
        np.testing.assert_allclose(scaler.mean_, np.mean(X.astype(np.longdouble)).astype(float), atol=1e300)


def test_infinity_beside_large_values_is_refused():
    scaler = StandardScaler().fit([[1e155], [-1e155]])
    for call in (scaler.fit, scaler.partial_fit, scaler.transform):
        with pytest.raises(ValueError, match=r"^X: infinity in it"):
            call(np.array([[1e155], [np.inf]]))


@pytest.mark.parametrize("size", [1e-170, 1e155])
def test_missing_values_and_weights_beside_any_size(size):
    X, times = values((200, 3), np.float64) * size, np.arange(200) % 4
    X[::7, 1] = np.nan
    assert_right(StandardScaler().fit(X), X)
    weighted, repeated = StandardScaler().fit(X, sample_weight=times), StandardScaler().fit(np.repeat(X, times, 0))
    np.testing.assert_allclose(weighted.scale_, repeated.scale_, rtol=1e-13)
    np.testing.assert_allclose(weighted.mean_, repeated.mean_, rtol=0, atol=1e-13 * size)


@pytest.mark.parametrize("shape", [(70_001, 3), (300, 1500), (3, 40_000)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_tables_beside_zeros(shape, order):
    """Columns of zeros, and columns whose squares fall below float64, in each way in which kernels read a table."""
    X = np.zeros(shape, order=order)
    X[-1, 1], X[:, 2] = 1e-200, np.where(np.arange(shape[0]) % 2, 1e-170, -1e-170)
    scale = StandardScaler().fit(X).scale_
    n = shape[0]
    std = np.sqrt(np.var(X[:, 2].astype(np.longdouble)))
    np.testing.assert_allclose(scale[:3], [1, 1e-200 * np.sqrt(n - 1.0) / n, float(std)], rtol=1e-12)
    assert (scale[3:] == 1).all()


def test_a_scaler_restored_from_attributes_whose_variance_is_beyond_float64():
    X, more = np.array([[1e155, 1e-170], [-1e155, 3e-170]]), np.array([[5e155, 9e-170]])
    fitted, restored = StandardScaler().fit(X), StandardScaler()
    for name in ("n_samples_seen_", "mean_", "var_", "scale_"):
        setattr(restored, name, getattr(fitted, name))
    np.testing.assert_array_equal(fitted.var_, [np.inf, 0])
    assert_same_fit(restored.partial_fit(more), fitted.partial_fit(more))
    assert_right(restored, np.vstack([X, more]))


@pytest.mark.parametrize("size", SIZES)
def test_moments_of_any_size(size):
    x = values((2000, 3), np.float64) * (size / 8)
    exact, halves = x.astype(np.longdouble).std(0), Moments.of(x[:700]) + Moments.of(x[700:])
    for moments in (Moments.of(x), halves, pickle.loads(pickle.dumps(halves))):
        np.testing.assert_allclose(moments.std(), exact.astype(float), rtol=1e-13)
        np.testing.assert_allclose(moments.mean, x.astype(np.longdouble).mean(0).astype(float), rtol=1e-12)
        with np.errstate(over="ignore", under="ignore"):
            np.testing.assert_allclose(moments.var(), (exact**2).astype(float), rtol=1e-12)
    assert halves == pickle.loads(pickle.dumps(halves))
    assert halves != Moments.of(x[:700])


# --- small integers ---


def test_what_is_float64_has_its_accuracy():
    X = np.array([[0], [1], [3]], np.uint8)
    np.testing.assert_array_equal(MinMaxScaler().fit_transform(X)[:, 0], [0, 1 / 3, 1])
    np.testing.assert_allclose(
        StandardScaler().fit_transform(X)[:, 0], normalized(X, StandardScaler())[0][:, 0].astype(float), rtol=1e-15
    )


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4"])
def test_integers_of_a_few_bits_are_integers(name):
    dtype = getattr(pytest.importorskip("ml_dtypes"), name)
    X = np.array([[0], [1], [1], [0]]).astype(dtype)
    for scaler, expected in ((MinMaxScaler(), [0, 1, 1, 0]), (StandardScaler(), [-1, 1, 1, -1])):
        y = scaler.fit_transform(X)
        assert y.dtype == np.float64
        np.testing.assert_array_equal(y[:, 0], expected)


@pytest.mark.parametrize("dtype", ["u1", "f2", "f4", "f8", "bfloat16"])
@pytest.mark.parametrize("feature_range", [(-1e-3, 2e-3), (0.1, 0.3), (-1, 1e-8)])
def test_clipped_values_lie_in_the_range(dtype, feature_range):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    X = np.array([[0], [1], [3], [9]]).astype(dtype)
    y = MinMaxScaler(feature_range, clip=True).fit(X[:3]).transform(X).astype(float)
    assert feature_range[0] <= y.min()
    assert y.max() <= feature_range[1]
    np.testing.assert_allclose(y[[0, 3], 0], feature_range, rtol=1e-2, atol=1e-6)
