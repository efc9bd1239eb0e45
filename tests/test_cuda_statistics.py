"""Moments, the halves of the backward pass and the scalers on a GPU, emulated or real."""

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm import MinMaxScaler, Moments, StandardScaler, batch_norm_backward_apply, batch_norm_backward_reduce
from numbanorm.cuda import launch
from tests import emulator, test_batchnorm_halves
from tests.cases import values
from tests.layouts import LAYOUTS
from tests.test_moments import assert_moments, assert_nothing, expected
from tests.test_scalers import SCALERS, assert_same_fit, assert_scaled, new

SHAPES = [  # and the axis of the channels: each way in which they are shared out, with vectors of one lane and of more
    ((300, 8), 1),
    ((301, 7), 1),
    ((5, 3, 40), 1),
    ((5, 3, 37), 1),
    ((70, 3, 4), 1),
    ((3, 400), 0),
    ((1, 5), 1),
    ((2, 3, 3000), 1),
    ((9000, 3), 1),
]
PLACES = ["c", "fortran", "sliced", "read_only"]  # layouts that a device's arrays have


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES)
def test_moments(gpu, shape, channel_axis, masked, dtype):
    x = values(shape, dtype, 1e6)
    mask = values(np.delete(shape, channel_axis), seed=1) < 0.5 if masked else None
    there = None if mask is None else gpu.to_device(mask)
    moments = Moments.of(gpu.to_device(x), channel_axis=channel_axis, mask=there)
    if masked and not mask.any():
        assert_nothing(moments, shape[channel_axis])
    else:
        assert_moments(moments, expected(x, channel_axis, mask))


@pytest.mark.parametrize("layout", PLACES)
def test_moments_of_any_layout_merge_with_those_of_the_host(gpu, layout):
    x = values((40, 6, 9), offset=10.0)
    moments = Moments.of([gpu.to_device(LAYOUTS[layout](x[:25])), x[25:30]]).update(gpu.to_device(x[30:]))
    assert_moments(moments, expected(x))


def test_no_values(gpu):
    assert_nothing(Moments.of(gpu.to_device(np.empty((0, 4), np.float32))), 4)
    x, one = gpu.to_device(np.empty((0, 3), np.float32)), gpu.to_device(np.ones(3))
    for a in batch_norm_backward_reduce(x, x, one, one):
        assert (gpu.to_host(a) == 0).all()
    assert batch_norm_backward_apply(x, x, one, one, None, one, one, 5).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "channel_axis"), SHAPES)
def test_both_halves(gpu, shape, channel_axis, masked, dtype):
    x, dy = values(shape, dtype, 1e3), values(shape, dtype, 3.0, seed=2)
    mask = values(np.delete(shape, channel_axis), seed=7) < 0.5 if masked else None
    if mask is not None:
        mask.flat[0] = True
    test_batchnorm_halves.check(gpu, x, dy, channel_axis, values(shape[channel_axis], dtype, seed=3), mask)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(300, 8), (301, 7), (5000, 2)])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
def test_scalers(gpu, scaler, shape, order, missing):
    X = np.asarray(values(shape, offset=1e4), order=order)
    if missing:
        X[values(shape, seed=1) < 0] = np.nan
    here, there, both = new(scaler).fit(X), new(scaler).fit(gpu.to_device(X)), new(scaler).fit(X[:100])
    assert_same_fit(there, here)
    assert_same_fit(both.merge(new(scaler).fit(gpu.to_device(X[100:]))), here)
    y, in_place = there.transform(gpu.to_device(X)), gpu.to_device(X)
    assert type(y) is type(in_place)
    assert_scaled(gpu.to_host(y), X, scaler)
    assert there.transform(in_place, copy=False) is in_place
    np.testing.assert_array_equal(gpu.to_host(in_place), gpu.to_host(y))
    np.testing.assert_allclose(gpu.to_host(there.inverse_transform(y)), X, rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights(gpu, order, dtype):
    X, weights = np.asarray(values((700, 3), dtype), order=order), np.arange(700) % 4
    X[5, 1] = np.nan
    there = StandardScaler().fit(gpu.to_device(X), sample_weight=weights)
    assert_same_fit(there, StandardScaler().fit(X, sample_weight=weights))


@pytest.mark.parametrize("made", [StandardScaler, lambda: MinMaxScaler((-1, 1), clip=True)])
def test_float64_of_any_size(gpu, made):
    X = np.array([[1e155, 1e-170, 1.5e308, 0.0, 2.0], [-1e155, 3e-170, -1.5e308, 0.0, 3.0], [np.nan, 2e-170, 0, 0, 7]])
    here, there = made().fit(X), made().fit(gpu.to_device(X))
    assert_same_fit(there, here, 1e-14)
    y, expected = there.transform(gpu.to_device(X)), here.transform(X)
    np.testing.assert_allclose(gpu.to_host(y), expected, rtol=1e-14, atol=1e-15)
    size = np.array([1e155, 3e-170, 1.5e308, 1.0, 7.0])
    back, expected = gpu.to_host(there.inverse_transform(y)) / size, here.inverse_transform(expected) / size
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("made", [StandardScaler, lambda: MinMaxScaler((-1, 1), clip=True)])
def test_float32_columns_of_the_smallest_spread(gpu, made):
    """Whose standard deviation has no reciprocal in float32."""
    X = np.array([[1, 2], [3, 1], [2, 9], [2, 4]], np.float32) * np.float32(1e-40)
    scaler = made().fit(X)
    y, expected = scaler.transform(gpu.to_device(X)), scaler.transform(X)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(gpu.to_host(y), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(gpu.to_host(scaler.inverse_transform(y)), X, rtol=1e-6)
    in_place = gpu.to_device(X)
    assert scaler.transform(in_place, copy=False) is in_place
    np.testing.assert_array_equal(gpu.to_host(in_place), gpu.to_host(y))


@pytest.mark.parametrize("masked", [False, True])
def test_nan_left_out_on_request(gpu, masked):
    x, mask = values((50, 3), np.float64), values(50, seed=1) < 0 if masked else None
    x[3, 1] = x[4, 1] = np.nan
    there = Moments.of(gpu.to_device(x), mask=None if mask is None else gpu.to_device(mask), nan_policy="omit")
    here = Moments.of(x, mask=mask, nan_policy="omit")
    np.testing.assert_array_equal(there.count, here.count)
    np.testing.assert_allclose(there.mean, here.mean, rtol=1e-13)
    np.testing.assert_allclose(there.m2, here.m2, rtol=1e-13)
    column = x[:, 0].copy()
    assert_moments(Moments.of(gpu.to_device(column)), expected(column[:, None]))


def test_what_is_beyond_the_fit_is_clipped(gpu):
    X = values((50, 4))
    scaler = MinMaxScaler((-1, 2), clip=True).fit(gpu.to_device(X))
    far = np.vstack([X * 3, np.full((1, 4), np.nan, np.float32)])
    np.testing.assert_allclose(gpu.to_host(scaler.transform(gpu.to_device(far))), scaler.transform(far), atol=1e-6)


def test_columns_without_a_value(gpu):
    X = values((50, 2))
    X[:, 1] = np.nan
    for scaler in (StandardScaler(), MinMaxScaler()):
        assert_same_fit(new(scaler).fit(gpu.to_device(X)), new(scaler).fit(X))


@pytest.fixture
def emulated():
    with emulator.emulated():
        yield


def test_few_launches(emulated):
    x, one = emulator.to_device(values((600, 8))), emulator.to_device(np.ones(8))
    for launches, call in (
        (2, lambda: Moments.of(x)),
        (2, lambda: batch_norm_backward_reduce(x, x, one, one)),
        (2, lambda: batch_norm_backward_apply(x, x, one, one, None, one, one, 600)),
        (2, lambda: StandardScaler().fit(x)),
        (2, lambda: MinMaxScaler().fit(x)),
    ):
        emulator.launches.clear()
        call()
        assert len(emulator.launches) == launches
    scaler = StandardScaler().fit(x)
    emulator.launches.clear()
    scaler.transform(x)
    assert len(emulator.launches) == 1


def test_everything_on_the_stream_of_x(emulated, monkeypatch):
    used = []
    for name, where in (("fetch", slice(3, 5)), ("send", slice(2, 4))):
        plain = getattr(launch, name)
        monkeypatch.setattr(launch, name, lambda *a, f=plain, w=where: used.append(a[w]) or f(*a))
    x = emulator.to_device(values((60, 8)), stream=77, device=3)
    StandardScaler().fit(x).transform(x)
    Moments.of(x)
    assert {*used} == {(77, 3)}
    assert {launched[3:] for launched in emulator.launches} == {(77, 3)}


def test_the_first_half_waits_for_other_streams(emulated, monkeypatch):
    waits = []
    monkeypatch.setattr(launch, "wait", lambda *given: waits.append(given))
    x, one = emulator.to_device(values((60, 8)), stream=5), emulator.to_device(np.ones(8), stream=6)
    batch_norm_backward_reduce(x, x, one, one)
    assert waits == [(0, 5, {6}), (0, 6, {5})]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: Moments.of(emulator.to_device(x.astype(int))),
            TypeError,
            r"^x: dtype int64, must be float32 or float64",
        ),
        (lambda x: Moments.of(emulator.to_device(x[0, 0])), ValueError, r"^x: shape \(\), must have at least 2 axes"),
        (
            lambda x: Moments.of(emulator.to_device(x), mask=np.ones(9, bool)),
            TypeError,
            r"^mask: numpy.ndarray, must be",
        ),
        (
            lambda x: StandardScaler().fit(emulator.to_device(x.astype(int))),
            TypeError,
            r"^X: dtype int64, must be float32",
        ),
        (lambda x: MinMaxScaler().fit(emulator.to_device(x[0])), ValueError, r"^X: shape \(4,\), must have 2 axes"),
        (
            lambda x: MinMaxScaler().fit(emulator.to_device(x[:0])),
            ValueError,
            r"^X: 0 sample\(s\) \(shape=\(0, 4\)\) while",
        ),
        (
            lambda x: StandardScaler().fit(x).transform(emulator.to_device(x[:, 1:])),
            ValueError,
            "^X has 3 features, but",
        ),
        (lambda x: StandardScaler().fit(emulator.to_device(x), sample_weight=[1]), ValueError, "^sample_weight: shape"),
        (lambda x: MinMaxScaler().fit(emulator.to_device(x / np.float32(0))), ValueError, "^X: infinity in it"),
        (lambda x: StandardScaler().fit(emulator.to_device(x / np.float32(0))), ValueError, "^X: infinity in it"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_wrong_arguments(emulated, call, error, message):
    with pytest.raises(error, match=message):
        call(values((9, 4)))
