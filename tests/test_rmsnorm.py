"""RMS normalization against the float64 reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbanorm
from numbanorm import RMSNorm, rms_norm, rms_norm_backward, rms_norm_forward
from tests import reference
from tests.arranged import shapes_and_axes
from tests.cases import (
    LAYER_NORM_CASES,
    assert_forward,
    assert_gradients,
    assert_normalized,
    tolerance,
    two_values,
    values,
)
from tests.layouts import LAYOUTS, WRITABLE_LAYOUTS
from tests.test_range import LAYER_NORM_CASES as RANGE_CASES
from tests.test_range import SIZES, assert_statistic, has_gradients, sized


def axes_of(axis, ndim):
    return sorted({a % ndim for a in (axis if isinstance(axis, tuple) else (axis,))})


def weight_of(x, axis):
    """A random weight, and as it lies over x."""
    axes = axes_of(axis, x.ndim)
    weight = values([x.shape[i] for i in axes], x.dtype.type, seed=1)
    return weight, weight.reshape([n if i in axes else 1 for i, n in enumerate(x.shape)])


def check(device, x, axis, weight=None, over_x=1.0, dy=None, eps=1e-6):
    """Forward and backward against the reference."""
    result = device.rms_norm_forward(x, weight, axis=axis, eps=eps)
    assert result.y.dtype == result.rstd.dtype == x.dtype.newbyteorder("=")
    assert_forward(result, reference.rms_norm_forward(x, weight, axis, eps), over_x)
    np.testing.assert_array_equal(device.rms_norm(x, weight, axis=axis, eps=eps), result.y)
    dy = values(x.shape, x.dtype.type, seed=2) if dy is None else dy
    gradients = device.rms_norm_backward(dy, x, result.rstd, weight, axis=axis)
    assert_gradients(gradients, reference.rms_norm_backward(dy, x, weight, axis, eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), LAYER_NORM_CASES, ids=str)
def test_every_shape(device, shape, axis, dtype):
    x = values(shape, dtype)
    check(device, x, axis, *weight_of(x, axis))


@pytest.mark.parametrize(("shape", "axis"), [((64, 768), -1), ((4, 30, 50), 1)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_without_a_weight(device, shape, axis, offset):
    check(device, values(shape, offset=offset), axis)


@pytest.mark.parametrize("shape", [(1, 1_000_000), (300_000, 2), (1, 10_000_000), (5_000_000, 2)], ids=str)
def test_the_error_does_not_grow_with_the_count(device, shape):
    """Of rstd and dx over one row, and of dweight over many rows, of terms that are all rounded alike."""
    x, dy = two_values(shape)
    check(device, x, -1, dy=dy)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 40), -1), ((4, 5, 6), 1), ((4, 5, 6), (0, 2)), ((4, 5, 6), (1, 2))])
def test_every_layout(device, shape, axis, layout):
    x = values(shape)
    weight, over_x = weight_of(x, axis)
    arranged = LAYOUTS[layout](x)
    check(device, arranged, axis, LAYOUTS[layout](weight), over_x, LAYOUTS[layout](values(shape, seed=2)))
    np.testing.assert_array_equal(arranged, x)  # inputs are not written


@given(shapes_and_axes(), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_any_shape_axes_and_layout(device, shape_and_axes, layout, with_weight):
    shape, axes = shape_and_axes
    x = LAYOUTS[layout](values(shape))
    if x.size == 0:
        check_zero_size(device, x, axes)
    else:
        check(device, x, axes, *(weight_of(x, axes) if with_weight else ()))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (2, 0, 3), (0,)])
@pytest.mark.parametrize("axis", [0, -1])
def test_zero_size(device, shape, axis):
    check_zero_size(device, values(shape), axis)


def check_zero_size(device, x, axis):
    axes = axes_of(axis, x.ndim)
    y, rstd = device.rms_norm_forward(x, axis=axis)
    gradients = device.rms_norm_backward(x, x, rstd, axis=axis)
    assert y.shape == gradients.dx.shape == x.shape
    np.testing.assert_array_equal(rstd, np.full([1 if i in axes else n for i, n in enumerate(x.shape)], np.nan))
    np.testing.assert_array_equal(gradients.dweight, np.zeros([x.shape[i] for i in axes]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("shape", "axis"), [((10, 60), -1), ((5, 700), -1), ((40, 3001), -1), ((3, 280000), -1), ((2, 700, 30), 1)]
)
def test_non_finite_values_stay_in_their_row(device, shape, axis, bad):
    """NaN makes its row NaN. Beside inf, rstd is 0: the other values become 0, and inf NaN."""
    clean, dy = values(shape), values(shape, seed=2)
    where = (1, 7) if len(shape) == 2 else (1, 7, 11)
    own = tuple(slice(None) if i == axis % len(shape) else k for i, k in enumerate(where))
    x, bad_dy = clean.copy(), dy.copy()
    x[where] = bad_dy[where] = bad
    y, rstd = device.rms_norm_forward(x, axis=axis)
    expected, clean_rstd = device.rms_norm_forward(clean, axis=axis)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(y[own], x[own] * (np.float32(np.nan) if np.isnan(bad) else np.float32(0)))
        dx = device.rms_norm_backward(dy, x, rstd, axis=axis).dx
    expected_dx = device.rms_norm_backward(dy, clean, clean_rstd, axis=axis).dx
    assert not np.isfinite(dx[where])
    dx_of_bad_dy = device.rms_norm_backward(bad_dy, clean, clean_rstd, axis=axis).dx
    assert not np.isfinite(dx_of_bad_dy[own]).any()
    for result, without in ((y, expected), (dx, expected_dx), (dx_of_bad_dy, expected_dx.copy())):
        result[own] = without[own] = 0
        np.testing.assert_array_equal(result, without)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [((6, 40), -1), ((300, 600), -1), ((3, 200, 300), 1), ((4, 5, 6), (0, 2))])
def test_out_of_any_layout_and_in_place(device, shape, axis, layout):
    x, dy = LAYOUTS[layout](values(shape)), LAYOUTS[layout](values(shape, seed=2))
    weight, _ = weight_of(x, axis)
    y, rstd = device.rms_norm_forward(x, weight, axis=axis)
    dx, dweight = device.rms_norm_backward(dy, x, rstd, weight, axis=axis)
    out, same = LAYOUTS[layout](np.full_like(x, np.nan)), LAYOUTS[layout](x)
    assert device.rms_norm(x, weight, axis=axis, out=out) is out
    assert device.rms_norm(same, weight, axis=axis, out=same) is same
    np.testing.assert_array_equal(out, y)
    np.testing.assert_array_equal(same, y)
    for target in ("dy", "x"):
        given = {"dy": LAYOUTS[layout](dy), "x": LAYOUTS[layout](x)}
        found = device.rms_norm_backward(**given, rstd=rstd, weight=weight, axis=axis, out=given[target])
        assert found.dx is given[target]
        np.testing.assert_array_equal(found.dx, dx)
        np.testing.assert_array_equal(found.dweight, dweight)


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize(("shape", "axis"), RANGE_CASES, ids=str)
def test_the_whole_range_of_the_dtype(device, shape, axis, dtype, size):
    x, dy = sized(shape, dtype, size), values(shape, dtype, seed=2)
    result = device.rms_norm_forward(x, axis=axis, eps=0.0)
    expected = reference.rms_norm_forward(x, None, axis, 0.0)
    assert_normalized(result.y, expected.y, expected.x_hat)
    assert_statistic(result.rstd, expected.rstd, tolerance(dtype) * expected.rstd / 4)
    np.testing.assert_array_equal(device.rms_norm(x, axis=axis, eps=0.0), result.y)
    if has_gradients(dtype, size):
        gradients = device.rms_norm_backward(dy, x, result.rstd, axis=axis)
        assert_gradients(gradients, reference.rms_norm_backward(dy, x, None, axis, 0.0))


@pytest.mark.parametrize(("dtype", "size"), SIZES)
def test_others_keep_their_bits(device, dtype, size):
    """Rows beside one that leaves the range."""
    x, dy = values((24, 48), dtype), values((24, 48), dtype, seed=2)
    far, near = x.copy(), np.arange(24) != 5
    far[5] = sized(48, dtype, size)
    before, after = device.rms_norm_forward(x, eps=0.0), device.rms_norm_forward(far, eps=0.0)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[near], b[near])
    if has_gradients(dtype, size):
        dx, far_dx = (device.rms_norm_backward(dy, a, result.rstd).dx for a, result in ((x, before), (far, after)))
        np.testing.assert_array_equal(far_dx[near], dx[near])


@pytest.mark.parametrize("shape", [(3, 33), (3, 5000), (3, 280000)])
def test_zeros(device, shape):
    """Eps alone is under the root then, and without it 0 / 0 is left."""
    x = np.zeros(shape, np.float32)
    y, rstd = device.rms_norm_forward(x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_max_ulp(rstd, np.full((3, 1), 1e3, np.float32), 1)
    assert np.isnan(device.rms_norm(x, eps=0)).all()


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"weight": np.ones(4, np.float32)}, ValueError, r"^weight: shape \(4,\), must be \(5,\)"),
        ({"weight": np.ones(5)}, TypeError, "^weight: dtype float64, must be float32"),
        ({"rstd": np.ones(3, np.float32)}, ValueError, r"^rstd: shape \(3,\), must be \(3, 1\)"),
        ({"dy": np.ones((3, 4), np.float32)}, ValueError, "^dy: shape"),
        ({"axis": 2}, ValueError, "^axis: 2, must be in"),
        ({"out": "weight"}, TypeError, "^out: .*str, must be"),
    ],
)
def test_wrong_arguments(changed, error, match):
    x = np.ones((3, 5), np.float32)
    given = {"dy": x.copy(), "x": x, "rstd": np.ones((3, 1), np.float32), "weight": np.ones(5, np.float32)} | changed
    with pytest.raises(error, match=match):
        rms_norm_backward(**given)
    if not {"dy", "rstd"} & {*changed}:
        with pytest.raises(error, match=match):
            rms_norm_forward(x, **{"weight": given["weight"]} | changed)
    np.testing.assert_array_equal(x, 1)


def test_eps_is_not_negative():
    with pytest.raises(ValueError, match=r"^eps: -1, must be finite and not negative"):
        rms_norm(np.ones((3, 5), np.float32), eps=-1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("normalized_shape", "axes"), [(7, (2,)), ((5, 7), (1, 2))])
@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"eps": 0.1}])
def test_the_layer(normalized_shape, axes, options, dtype):
    layer = RMSNorm(normalized_shape, dtype=dtype, **options)
    eps = np.finfo(dtype).eps if layer.eps is None else layer.eps
    for parameter in layer.parameters():
        parameter[...] = values(parameter.shape, dtype, seed=1)
    x, dy = values((6, 5, 7), dtype), values((6, 5, 7), dtype, seed=2)
    y = layer(x)
    over_x = 1 if layer.weight is None else layer.weight
    expected = reference.rms_norm_forward(x, layer.weight, axes, eps)
    assert_normalized(y, expected.y, expected.x_hat, over_x)
    expected = reference.rms_norm_backward(dy, x, layer.weight, axes, eps)
    dx = layer.backward(dy)
    gradients = numbanorm.RMSGradients(dx, layer.grads.get("weight", expected.dweight))
    assert_gradients(gradients, expected)
    named = [name for name, _ in layer.named_parameters()]
    assert named == [*layer.grads] == [*layer.state_dict()] == (["weight"] if layer.elementwise_affine else [])
    with numbanorm.no_grad():
        np.testing.assert_array_equal(layer(x), y)
    again = eval(repr(layer), {"RMSNorm": RMSNorm, "np": np})
    again.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(again(x), y)
