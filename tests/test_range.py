"""Values over the whole range of their dtype, also where their squares, differences or reciprocals leave it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbanorm import batch_norm_forward, layer_norm
from tests import reference
from tests.cases import assert_gradients, assert_normalized, assert_within, tolerance, values

# The largest magnitudes. Around the root of each range, at its ends, and among the subnormal numbers.
SIZES = [
    *((np.float32, size) for size in (3.4e38, 1e37, 1e-36, 1e-40, 1e-43)),
    *((np.float64, size) for size in (1.7e308, 1e300, 1e155, 1e154, 1e-150, 1e-155, 1e-300, 1e-310)),
]
LAYER_NORM_CASES = [
    *(((20, 60), -1), ((4, 1000), -1), ((2, 4099), -1), ((33, 3001), -1), ((1, 16400), -1), ((2, 300000), -1)),
    *(((2, 70, 30), 1), ((2, 700, 30), 1)),
]
BATCH_NORM_CASES = [(60, 100), (5000, 64), (9, 2, 300), (70, 9, 49), (3, 2, 90000)]


def sized(shape, dtype, size, seed=0):
    """Normal values up to a largest magnitude, with both signs of it in each row and channel."""
    x = values(shape, np.float64, seed=seed)
    return (np.clip(x, -1, 1) * size).astype(dtype)


def assert_statistic(actual, expected, unit):
    """To a few units or to the steps of subnormal numbers; infinite where the dtype does not hold it."""
    with np.errstate(over="ignore"):
        rounded = expected.reshape(actual.shape).astype(actual.dtype)
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(actual[~finite], rounded[~finite])
    limit = unit.reshape(actual.shape) + np.finfo(actual.dtype).smallest_subnormal
    assert_within(actual[finite], expected.reshape(actual.shape)[finite], limit[finite])


def assert_forward(result, expected):
    """y, mean and rstd."""
    unit = tolerance(result.y.dtype)
    assert_normalized(result.y, expected.y, expected.x_hat)
    assert_statistic(result.mean, expected.mean, unit * (np.abs(expected.mean) / 8 + np.sqrt(expected.var)))
    assert_statistic(result.rstd, expected.rstd, unit * expected.rstd / 4)


def has_gradients(dtype, size):
    """Whether rstd, about 1 / size, and its product with dy are finite."""
    return size > 16 / float(np.finfo(dtype).max)


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize(("shape", "axis"), LAYER_NORM_CASES, ids=str)
def test_layer_norm(device, shape, axis, dtype, size):
    x, dy = sized(shape, dtype, size), values(shape, dtype, seed=2)
    result = device.layer_norm_forward(x, axis=axis, eps=0.0)
    assert_forward(result, reference.layer_norm_forward(x, None, None, axis, 0.0))
    np.testing.assert_array_equal(device.layer_norm(x, axis=axis, eps=0.0), result.y)
    if has_gradients(dtype, size):
        gradients = device.layer_norm_backward(dy, x, result.mean, result.rstd, axis=axis)
        assert_gradients(gradients, reference.layer_norm_backward(dy, x, None, axis, 0.0))


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize("shape", BATCH_NORM_CASES, ids=str)
def test_batch_norm(device, shape, dtype, size):
    x, dy = sized(shape, dtype, size), values(shape, dtype, seed=2)
    result = device.batch_norm_forward(x, eps=0.0)
    expected = reference.batch_norm_forward(x, None, None, 1, 0.0)
    assert_forward(result, expected)
    if has_gradients(dtype, size):
        gradients = device.batch_norm_backward(dy, x, result.mean, result.rstd)
        exact = reference.batch_norm_backward(dy, x, None, 1, 0.0)
        assert_gradients(gradients, exact)
        statistics = expected.mean.ravel().astype(np.float64), expected.rstd.ravel().astype(np.float64)
        sums = device.batch_norm_backward_reduce(dy, x, *statistics)
        assert_within(sums.sum_dy_xhat, exact.dweight, 1e-6 * exact.dweight_terms)
        count = x.size // x.shape[1]
        dx = device.batch_norm_backward_apply(dy, x, *statistics, None, *sums, count)
        assert_within(dx, exact.dx, tolerance(dtype) * exact.dx_terms.max())


@pytest.mark.parametrize(("dtype", "size"), [case for case in SIZES if case[0] is np.float32])
def test_given_statistics(device, dtype, size):
    """Of float64, beside values whose differences from the mean leave float32, or their reciprocals."""
    x, dy = sized((60, 100), dtype, size), values((60, 100), dtype, seed=2)
    mean, var = np.full(100, size / 3), np.full(100, size * size / 2)
    expected, x_hat = reference.batch_norm(x, mean, var, None, None, 1, 0.0)
    assert_normalized(device.batch_norm(x, mean, var, eps=0.0), expected, x_hat)
    if has_gradients(dtype, size):
        rstd = (1 / np.sqrt(var)).astype(dtype)
        gradients = device.batch_norm_backward(dy, x, mean, rstd, frozen=True)
        assert_gradients(gradients, reference.batch_norm_backward_frozen(dy, x, mean, rstd, None, 1))


@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_others_keep_their_bits(device, dtype, size):
    """Rows and channels beside those that leave the range, with parameters, in place."""
    x, dy = values((24, 48), dtype), values((24, 48), dtype, seed=2)
    weight, bias = values((2, 48), dtype, seed=3)
    far = x.copy()
    far[5] = sized(48, dtype, size)
    before, after = (
        device.layer_norm_forward(x, weight, bias, eps=0.0),
        device.layer_norm_forward(far, weight, bias, eps=0.0),
    )
    near = np.arange(24) != 5
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[near], b[near])
    own = far.copy()
    assert device.layer_norm(own, weight, bias, eps=0.0, out=own) is own
    np.testing.assert_array_equal(own, after.y)
    if has_gradients(dtype, size):
        dx, far_dx = device.layer_norm_backward(dy, x, *before[1:], weight).dx, dy.copy()
        device.layer_norm_backward(far_dx, far, *after[1:], weight, out=far_dx)
        np.testing.assert_array_equal(far_dx[near], dx[near])

    x, far, dy = x.T.copy(), far.T.copy(), dy.T.copy()
    before, after = device.batch_norm_forward(x, eps=0.0), device.batch_norm_forward(far, eps=0.0)
    np.testing.assert_array_equal(after.y[:, near], before.y[:, near])
    np.testing.assert_array_equal(device.batch_norm_forward(far, eps=0.0, out=far).y, after.y)


@given(
    st.sampled_from([np.float32, np.float64]),
    st.floats(0, 1),
    st.floats(-1, 1),
    st.tuples(st.integers(2, 9), st.integers(2, 40)),
    st.integers(0, 99),
)
def test_any_size_and_offset(device, dtype, place, offset, shape, seed):
    """A size anywhere in the range, by its logarithm, and a mean of up to 100 times the size where it fits."""
    info = np.finfo(dtype)
    low, high = info.minexp - info.nmant + 8, info.maxexp - 1
    size = 2.0 ** (low + place * (high - low))
    most = float(info.max)
    x = np.clip(values(shape, np.float64, seed=seed) * (size / 8) + 100 * offset * min(size, most / 200), -most, most)
    x = x.astype(dtype)
    if (x == x[:, :1]).all(1).any() or (x == x[:1]).all(0).any():
        return  # equal values: 0 / 0
    assert_forward(device.layer_norm_forward(x, eps=0.0), reference.layer_norm_forward(x, None, None, -1, 0.0))
    assert_forward(device.batch_norm_forward(x, eps=0.0), reference.batch_norm_forward(x, None, None, 1, 0.0))


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 3e38), (np.float64, 1.5e308)])
def test_a_difference_beyond_the_range_over_a_moderate_std(gpu, dtype, size):
    """Means of that many deviations are beyond the contract; on the host, such differences are infinite."""
    x, dy = np.array([[-size, 1], [size, 2], [0, 3]], dtype), values((3, 2), dtype)
    mean, var = np.array([size, 1.5], dtype), np.array([1e20, 1], dtype)
    expected, x_hat = reference.batch_norm(x, mean, var, None, None, 1, 0.0)
    assert_normalized(gpu.batch_norm(x, mean, var, eps=0.0), expected, x_hat)
    rstd = 1 / np.sqrt(var)
    gradients = gpu.batch_norm_backward(dy, x, mean, rstd, frozen=True)
    assert_gradients(gradients, reference.batch_norm_backward_frozen(dy, x, mean, rstd, None, 1))


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 1e-30), (np.float64, 1e-300)])
@pytest.mark.parametrize("value", [0.0, 1e-40, 3e-5, 1.0, 1e10, 3e38])
def test_equal_values_with_a_small_eps(device, dtype, value, eps):
    x = np.full((5, 64), value, dtype)
    np.testing.assert_array_equal(device.layer_norm(x, eps=eps), np.zeros_like(x))
    np.testing.assert_array_equal(device.batch_norm_forward(x, eps=eps).y, np.zeros_like(x))


@pytest.mark.parametrize("value", [0.0, 1e-40, 3e-5, 1.0, 1e10, 3e38])
def test_equal_values_with_an_eps_that_float32_does_not_hold(value):
    """On the host alone: on a GPU, eps has the dtype of x."""
    x = np.full((5, 64), value, np.float32)
    np.testing.assert_array_equal(layer_norm(x, eps=1e-60), np.zeros_like(x))
    np.testing.assert_array_equal(batch_norm_forward(x, eps=1e-60).y, np.zeros_like(x))
