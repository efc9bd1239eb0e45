"""Layer normalization against the float64 reference."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numbanorm.cpu.kernels import row_groups as kernels
from numbanorm.cpu.vectors.simd import LANES, first_few, put
from tests import reference
from tests.arranged import shapes_and_axes
from tests.cases import (
    LAYER_NORM_CASES,
    OFFSETS,
    assert_gradients,
    assert_normalized,
    assert_statistics,
    assert_within,
    gradient_bounds,
    two_values,
    values,
)
from tests.layouts import LAYOUTS, WRITABLE_LAYOUTS


def parameters(x, axis):
    """Random weight and bias, and the weight as it lies over x."""
    axes = {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
    shape = [n for i, n in enumerate(x.shape) if i in axes]
    weight, bias = values((2, *shape), x.dtype.type, seed=1)
    return weight, bias, weight.reshape([n if i in axes else 1 for i, n in enumerate(x.shape)])


def check(device, x, axis, weight=None, bias=None, over_x=1.0):
    """Forward and backward against the reference."""
    y, mean, rstd = device.layer_norm_forward(x, weight, bias, axis=axis)
    expected = reference.layer_norm_forward(x, weight, bias, axis)
    assert y.shape == x.shape
    assert y.dtype == x.dtype.newbyteorder("=")
    assert mean.shape == rstd.shape == expected.mean.shape
    assert_normalized(y, expected.y, expected.x_hat, over_x)
    assert_statistics(mean, rstd, expected)

    dy = values(x.shape, x.dtype.type, seed=2)
    gradients = device.layer_norm_backward(dy, x, mean, rstd, weight, axis=axis)
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, weight, axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), LAYER_NORM_CASES, ids=str)
def test_every_shape(device, shape, axis, dtype):
    x = values(shape, dtype)
    check(device, x, axis, *parameters(x, axis))


@pytest.mark.parametrize("which", ["neither", "weight", "bias"])
@pytest.mark.parametrize(("shape", "axis"), [((64, 768), -1), ((4, 30, 50), 1)])
def test_missing_parameters(device, shape, axis, which):
    x = values(shape)
    weight, bias, over_x = parameters(x, axis)
    if which == "weight":
        check(device, x, axis, weight, None, over_x)
    else:
        check(device, x, axis, None, bias if which == "bias" else None)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), [((256, 768), -1), ((64, 33), -1), ((64, 4099), -1), ((2, 768, 300), 1)])
def test_the_error_is_the_same_at_any_offset(device, shape, axis, dtype, offset):
    x = values(shape, dtype, offset)
    check(device, x, axis, *parameters(x, axis))


@pytest.mark.parametrize("cols", [1_000_000, 30_000_000])
def test_the_error_does_not_grow_with_the_count(device, cols):
    x = values((1, cols), np.float32, 1e3)
    y = device.layer_norm(x)
    expected = reference.layer_norm_forward(x, None, None, -1)
    assert_normalized(y, expected.y, expected.x_hat)


@pytest.mark.parametrize("largest", [1.0, 1e6])
def test_the_error_of_columns_of_float64_does_not_grow_with_the_count(device, largest):
    x = values((1, 100_000, 3), np.float64)
    x[0, 0] *= largest
    check(device, x, 1)


@pytest.mark.parametrize("trend", ["first values far from the mean", "one huge value", "two clusters"])
@pytest.mark.parametrize(("shape", "axis"), [((20, 60), -1), ((4, 1000), -1), ((2, 300000), -1), ((2, 1000, 30), 1)])
def test_a_bad_first_guess_at_the_mean_is_made_good(device, shape, axis, trend):
    x = np.moveaxis(values(shape), axis, 0)
    if trend == "first values far from the mean":
        x[: len(x) // 50] += 1e4
    elif trend == "one huge value":
        x[0] = 1e7
    else:
        x[::2] += 1e4
    check(device, np.ascontiguousarray(np.moveaxis(x, 0, axis)), axis)


@numba.njit
def _sums_of_narrow_rows(first, count, x, m, sum_d, sum_dd):
    scratch, shifts = np.zeros(2 * kernels.GROUP * LANES), np.zeros(kernels.GROUP, x.dtype)
    found = kernels.sums_of_narrow_rows(first, count, True, x, scratch, shifts)
    put(m, first_few(m), found[0])
    put(sum_d, first_few(m), found[1])
    put(sum_dd, first_few(m), found[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cols", [1, 3, 7, 8, 16, 31, 32, 64])
def test_sums_of_narrow_rows(cols, dtype):
    """Wrong ones would be found inexact and made good, slowly: no result would show it."""
    x, (m, sum_d, sum_dd) = values((13, cols), dtype, offset=3), np.zeros((3, kernels.GROUP))
    for first, count in ((0, 8), (8, 5)):
        _sums_of_narrow_rows(first, count, x, m, sum_d, sum_dd)
        rows = x[first : first + count].astype(np.float64)
        samples = 1 << min(cols, 8).bit_length() - 1  # 8, 4, 2 or 1
        np.testing.assert_allclose(m[:count], rows[:, :samples].mean(1), rtol=4 * np.finfo(dtype).eps)
        d = rows - m[:count, None]
        rounding = 2 * np.finfo(dtype).eps * np.abs(d).sum(1).max()  # of d, and of the few that share a lane
        np.testing.assert_allclose(sum_d[:count], d.sum(1), rtol=0, atol=rounding)
        np.testing.assert_allclose(sum_dd[:count], (d * d).sum(1), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e25, 1e-12, 1e-19, 1e-22, 1e-30])
@pytest.mark.parametrize(("shape", "axis"), [((20, 60), -1), ((4, 1000), -1), ((2, 300000), -1), ((2, 1000, 30), 1)])
def test_squares_beyond_float32(device, shape, axis, scale):
    x, dy = values(shape) * np.float32(scale), values(shape, seed=2)
    y, mean, rstd = device.layer_norm_forward(x, axis=axis, eps=0.0)
    expected = reference.layer_norm_forward(x, None, None, axis, 0.0)
    assert_normalized(y, expected.y, expected.x_hat)
    gradients = device.layer_norm_backward(dy, x, mean, rstd, axis=axis)
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, None, axis, 0.0))


@pytest.mark.parametrize(("shape", "axis"), [((20, 60), -1), ((4, 1000), -1), ((2, 300000), -1), ((2, 1000, 30), 1)])
def test_sums_beyond_float32(device, shape, axis):
    x = np.clip(values(shape), -3.5, 3.5) * np.float32(1e37)
    expected = reference.layer_norm_forward(x, None, None, axis)
    assert_normalized(device.layer_norm(x, axis=axis), expected.y, expected.x_hat)


@pytest.mark.parametrize("offset", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("shape", "axis"), [((256, 768), -1), ((5003, 33), -1), ((40, 3001), -1), ((2, 768, 300), 1)])
def test_the_error_of_dx_is_the_same_at_any_offset_of_dy(device, shape, axis, offset, scale):
    x, dy = values(shape), values(shape, offset=offset, seed=2) * np.float32(scale)
    _, mean, rstd = device.layer_norm_forward(x, axis=axis)
    gradients = device.layer_norm_backward(dy, x, mean, rstd, axis=axis)
    expected = reference.layer_norm_backward(dy, x, None, axis)
    assert_gradients(gradients, expected)
    near = reference.layer_norm_backward(dy - np.float64(offset * scale), x, None, axis)  # dx is the same
    assert_within(gradients.dx, expected.dx, gradient_bounds(near, x.dtype).dx)


@pytest.mark.parametrize("shape", [(1, 1_000_000), (300_000, 2), (1, 10_000_000), (5_000_000, 2)], ids=str)
def test_the_error_of_the_gradients_does_not_grow_with_the_count(device, shape):
    """Of dx over one row, and of dweight and dbias over many."""
    x, dy = two_values(shape)
    _, mean, rstd = device.layer_norm_forward(x)
    assert_gradients(device.layer_norm_backward(dy, x, mean, rstd), reference.layer_norm_backward(dy, x, None, -1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 40), -1), ((4, 5, 6), 1), ((4, 5, 6), (0, 2)), ((4, 5, 6), (1, 2))])
def test_every_layout(device, shape, axis, layout):
    x = values(shape)
    weight, bias, over_x = parameters(x, axis)
    arranged, weight, bias = (LAYOUTS[layout](a) for a in (x, weight, bias))
    check(device, arranged, axis, weight, bias, over_x)
    dy = LAYOUTS[layout](values(shape, seed=2))
    _, mean, rstd = device.layer_norm_forward(x, axis=axis)
    statistics = LAYOUTS[layout](mean), LAYOUTS[layout](rstd)
    gradients = device.layer_norm_backward(dy, arranged, *statistics, weight, axis=axis)
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, weight, axis))
    np.testing.assert_array_equal(arranged, x)  # inputs are not written


def test_a_broadcast_input(device):
    x = np.broadcast_to(values((5, 1, 7)), (5, 4, 7))
    check(device, x, -1)
    check(device, x, 1)


@given(shapes_and_axes(), st.sampled_from(sorted(LAYOUTS)), st.booleans(), st.sampled_from([0.0, 1e6]))
def test_any_shape_axes_and_layout(device, shape_and_axes, layout, with_parameters, offset):
    shape, axes = shape_and_axes
    x = LAYOUTS[layout](values(shape, offset=offset))
    if x.size == 0:
        check_zero_size(device, x, axes)
    else:
        check(device, x, axes, *(parameters(x, axes) if with_parameters else ()))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (2, 0, 3), (0,)])
@pytest.mark.parametrize("axis", [0, -1])
def test_zero_size(device, shape, axis):
    check_zero_size(device, values(shape), axis)


def check_zero_size(device, x, axis):
    axes = {a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))}
    y, mean, rstd = device.layer_norm_forward(x, axis=axis)
    gradients = device.layer_norm_backward(x, x, mean, rstd, axis=axis)
    assert y.shape == gradients.dx.shape == x.shape
    np.testing.assert_array_equal(mean, np.full([1 if i in axes else n for i, n in enumerate(x.shape)], np.nan))
    np.testing.assert_array_equal(gradients.dweight, np.zeros([n for i, n in enumerate(x.shape) if i in axes]))
    np.testing.assert_array_equal(gradients.dbias, gradients.dweight)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.3, 1e6 + 1 / 3, 1e30])
@pytest.mark.parametrize(("shape", "axis"), [((3, 1), -1), ((3, 33), -1), ((3, 5000), -1), ((2, 700, 40), 1)])
def test_constant_rows_give_exactly_the_bias(device, shape, axis, value):
    x = np.full(shape, value, np.float32)
    weight, bias, _ = parameters(x, axis)
    y, mean, rstd = device.layer_norm_forward(x, weight, bias, axis=axis)
    np.testing.assert_array_equal(np.moveaxis(y, axis, -1), np.broadcast_to(bias, np.moveaxis(y, axis, -1).shape))
    np.testing.assert_array_equal(mean, np.full(mean.shape, np.float32(value)))
    np.testing.assert_array_max_ulp(rstd, np.full(rstd.shape, np.float32(1 / np.sqrt(1e-5))), 1)  # one: on a GPU


BAD_VALUES = [(bad, place) for bad in (np.nan, np.inf, -np.inf) for place in (0, 1, -100)]


@pytest.mark.parametrize(
    ("shape", "axis", "bad", "place"),
    [
        *(
            (*case, *bad)
            for case in (((10, 60), -1), ((5, 700), -1), ((40, 3001), -1), ((2, 700, 30), 1))
            for bad in BAD_VALUES
        ),
        *(((3, 280000), -1, *bad) for bad in BAD_VALUES[::4]),  # which takes the emulated GPU seconds
    ],
)
def test_non_finite_values_stay_in_their_row(device, shape, axis, bad, place):
    x, place = values(shape), place % shape[axis]
    where = (1, place) if x.ndim == 2 else (1, place, 7)
    x[where] = bad
    own = tuple(slice(None) if i == axis % x.ndim else k for i, k in enumerate(where))
    dy = values(shape, seed=2)
    clean = values(shape)
    with np.errstate(invalid="ignore"):
        y, mean, rstd = device.layer_norm_forward(x, axis=axis)
        dx = device.layer_norm_backward(dy, x, mean, rstd, axis=axis).dx
    expected, clean_mean, clean_rstd = device.layer_norm_forward(clean, axis=axis)
    expected_dx = device.layer_norm_backward(dy, clean, clean_mean, clean_rstd, axis=axis).dx
    bad_dy = dy.copy()
    bad_dy[where] = bad
    dx_of_bad_dy = device.layer_norm_backward(bad_dy, clean, clean_mean, clean_rstd, axis=axis).dx
    for result, without in ((y, expected), (dx, expected_dx), (dx_of_bad_dy, expected_dx.copy())):
        assert not np.isfinite(result[own]).any()
        result[own] = without[own] = 0
        np.testing.assert_array_equal(result, without)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 40), -1), ((4, 5, 6), 1), ((4, 5, 6), (0, 2))])
def test_out_of_any_layout(device, shape, axis, layout):
    x = values(shape)
    weight, bias, over_x = parameters(x, axis)
    out = LAYOUTS[layout](np.full_like(x, np.nan))
    y, mean, rstd = device.layer_norm_forward(x, weight, bias, axis=axis, out=out)
    assert y is out
    expected = reference.layer_norm_forward(x, weight, bias, axis)
    assert_normalized(out, expected.y, expected.x_hat, over_x)
    dy = values(shape, seed=2)
    gradients = device.layer_norm_backward(dy, x, mean, rstd, weight, axis=axis, out=out)
    assert gradients.dx is out
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, weight, axis))


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 40), -1), ((300, 33), -1), ((300, 600), -1), ((4, 5, 6), 1), ((3, 200, 300), 1), ((4, 5, 6), (0, 2))],
)
def test_in_place_is_exact(device, shape, axis, layout):
    x, dy = LAYOUTS[layout](values(shape)), LAYOUTS[layout](values(shape, seed=2))
    y, mean, rstd = device.layer_norm_forward(x, axis=axis)
    dx, dweight, dbias = device.layer_norm_backward(dy, x, mean, rstd, axis=axis)

    same = LAYOUTS[layout](values(shape))
    assert device.layer_norm(same, axis=axis, out=same) is same
    np.testing.assert_array_equal(same, y)
    for target in ("dy", "x"):
        again = {"dy": LAYOUTS[layout](values(shape, seed=2)), "x": LAYOUTS[layout](values(shape))}
        result = device.layer_norm_backward(**again, mean=mean, rstd=rstd, axis=axis, out=again[target])
        assert result.dx is again[target]
        np.testing.assert_array_equal(result.dx, dx)
        np.testing.assert_array_equal(result.dweight, dweight)
        np.testing.assert_array_equal(result.dbias, dbias)
