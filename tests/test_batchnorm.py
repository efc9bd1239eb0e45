"""Batch normalization against the float64 reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import reference
from tests.cases import (
    BATCH_NORM_CASES,
    OFFSETS,
    assert_gradients,
    assert_normalized,
    assert_statistics,
    assert_within,
    gradient_bounds,
    tolerance,
    two_values,
    values,
)
from tests.layouts import LAYOUTS, WRITABLE_LAYOUTS


def parameters(x, channel_axis):
    """Random weight and bias, and the weight as it lies over x."""
    weight, bias = values((2, x.shape[channel_axis]), x.dtype.type, seed=1)
    return weight, bias, reference._per_channel(weight, channel_axis, x.ndim, 1)


def check(device, x, channel_axis, weight=None, bias=None, over_x=1.0, mask=None, dy=None):
    """Forward, backward, inference and frozen backward against the reference."""
    y, mean, rstd = device.batch_norm_forward(x, weight, bias, channel_axis=channel_axis, mask=mask)
    expected = reference.batch_norm_forward(x, weight, bias, channel_axis, mask=mask)
    assert y.shape == x.shape
    assert y.dtype == x.dtype.newbyteorder("=")
    assert mean.shape == rstd.shape == (x.shape[channel_axis],)
    assert_normalized(y, expected.y, expected.x_hat, over_x)
    assert_statistics(mean, rstd, expected)

    dy = values(x.shape, x.dtype.type, seed=2) if dy is None else dy
    gradients = device.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis=channel_axis, mask=mask)
    assert_gradients(gradients, reference.batch_norm_backward(dy, x, weight, channel_axis, mask=mask))


def check_given_statistics(device, x, channel_axis, weight, bias, over_x):
    """Inference and the frozen backward pass against the reference."""
    var = 0.5 + np.random.default_rng(3).random(x.shape[channel_axis])
    mean = x.mean(axis=reference._non_channel(x, channel_axis), dtype=np.float64) + 1 / 3
    y = device.batch_norm(x, mean, var, weight, bias, channel_axis=channel_axis)
    expected, x_hat = reference.batch_norm(x, mean, var, weight, bias, channel_axis)
    assert_normalized(y, expected, x_hat, over_x)

    dy, rstd = values(x.shape, x.dtype.type, seed=2), 1 / np.sqrt(var + 1e-5)
    gradients = device.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis=channel_axis, frozen=True)
    assert_gradients(gradients, reference.batch_norm_backward_frozen(dy, x, mean, rstd, weight, channel_axis))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "channel_axis"), BATCH_NORM_CASES, ids=str)
def test_every_shape(device, shape, channel_axis, dtype):
    x = values(shape, dtype)
    check(device, x, channel_axis, *parameters(x, channel_axis))
    check_given_statistics(device, x, channel_axis, *parameters(x, channel_axis))


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4096, 64), (9, 513), (32, 8, 28, 28), (70000, 5), (300, 600, 4), (2, 2, 300000)])
def test_the_error_is_the_same_at_any_offset(device, shape, dtype, offset):
    x = values(shape, dtype, offset)
    check(device, x, 1, *parameters(x, 1))
    check_given_statistics(device, x, 1, *parameters(x, 1))


@pytest.mark.parametrize("shape", [(500_000, 2), (1, 1, 1_000_000), (15_000_000, 2), (1, 1, 30_000_000)], ids=str)
def test_the_error_does_not_grow_with_the_count(device, shape):
    x = values(shape, np.float32, 1e3)
    y, _, _ = device.batch_norm_forward(x)
    expected = reference.batch_norm_forward(x, None, None, 1)
    assert_normalized(y, expected.y, expected.x_hat)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(513, 60), (40, 60, 16)])
def test_a_bias_beside_a_power_of_two(device, shape, dtype):
    """Where bias - delta * scale has a larger unit in the last place than bias, or the smaller y has a smaller one."""
    x = values(shape, dtype, offset=3)
    weight, _, over_x = parameters(x, 1)
    bias = np.repeat([512.0, 1024.0, -4096.0], 20) * (1 + np.linspace(-1e-3, 1e-3, 60))
    check(device, x, 1, weight, bias.astype(dtype), over_x)
    check_given_statistics(device, x, 1, weight, bias.astype(dtype), over_x)


@pytest.mark.parametrize("which", ["neither", "weight", "bias"])
def test_missing_parameters(device, which):
    x = values((64, 5, 7))
    weight, bias, over_x = parameters(x, 1)
    if which == "weight":
        check(device, x, 1, weight, None, over_x)
    else:
        check(device, x, 1, None, bias if which == "bias" else None)


@pytest.mark.parametrize("shape", [(5000, 3), (400, 3, 300), (40000, 3, 4)])
def test_a_bad_first_guess_at_the_mean_is_made_good(device, shape):
    x = values(shape)
    x[:: max(1, len(x) // 16)] += 1e4  # where the guess is taken, and little else
    check(device, x, 1)


@pytest.mark.parametrize("scale", [1e25, 1e-12, 1e-19, 1e-22, 1e-30])
@pytest.mark.parametrize("shape", [(60, 100), (5000, 64), (30, 2, 100, 100), (70, 9, 49)])
def test_squares_beyond_float32(device, shape, scale):
    x, dy = values(shape) * np.float32(scale), values(shape, seed=2)
    y, mean, rstd = device.batch_norm_forward(x, eps=0.0)
    expected = reference.batch_norm_forward(x, None, None, 1, 0.0)
    assert_normalized(y, expected.y, expected.x_hat)
    gradients = device.batch_norm_backward(dy, x, mean, rstd)
    assert_gradients(gradients, reference.batch_norm_backward(dy, x, None, 1, 0.0))


@pytest.mark.parametrize("shape", [(60, 100), (5000, 64), (30, 2, 100, 100), (70, 9, 49)])
def test_sums_beyond_float32(device, shape):
    x = np.clip(values(shape), -3.5, 3.5) * np.float32(1e37)
    expected = reference.batch_norm_forward(x, None, None, 1)
    assert_normalized(device.batch_norm_forward(x).y, expected.y, expected.x_hat)


@pytest.mark.parametrize("offset", [1.0, 1e2, 1e4, 1e6])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(256, 100), (5000, 64), (30, 2, 100, 100), (70, 9, 49)])
def test_the_error_of_dx_is_the_same_at_any_offset_of_dy(device, shape, offset, scale):
    x, dy = values(shape), values(shape, offset=offset, seed=2) * np.float32(scale)
    _, mean, rstd = device.batch_norm_forward(x)
    gradients = device.batch_norm_backward(dy, x, mean, rstd)
    expected = reference.batch_norm_backward(dy, x, None, 1)
    assert_gradients(gradients, expected)
    near = reference.batch_norm_backward(dy - np.float64(offset * scale), x, None, 1)  # dx is the same
    assert_within(gradients.dx, expected.dx, gradient_bounds(near, x.dtype).dx)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", ["the first of each row", "one", "one per eighth"])
@pytest.mark.parametrize("shape", [(64, 16, 197), (32, 16, 1024), (8, 4, 56, 56), (100_000, 4)])
def test_a_few_large_dy_do_not_spoil_the_sums(device, shape, which, dtype):
    """Though the guess at the mean of dy is made from them."""
    x, dy = values(shape, dtype), np.full(shape, 0.3, dtype)
    if which == "the first of each row":
        dy[...] = 0
        first = dy.reshape(shape[0], shape[1], -1)[:, :, 0]
        first[...] = values(first.shape, dtype, offset=1, seed=2)
    elif which == "one":
        dy[0] = 3e4
    else:
        dy[:: max(1, len(dy) // 8)] = 3e4
    weight, _, _ = parameters(x, 1)
    _, mean, rstd = device.batch_norm_forward(x)
    assert_gradients(
        device.batch_norm_backward(dy, x, mean, rstd, weight), reference.batch_norm_backward(dy, x, weight, 1)
    )
    gradients = device.batch_norm_backward(dy, x, mean.astype(float), rstd, weight, frozen=True)
    assert_gradients(gradients, reference.batch_norm_backward_frozen(dy, x, mean, rstd, weight, 1))


@pytest.mark.parametrize("shape", [(15_000, 64), (1, 1, 1_000_000), (150_000, 64), (1, 1, 10_000_000)], ids=str)
def test_the_error_of_the_gradients_does_not_grow_with_the_count(device, shape):
    x, dy = two_values(shape)
    _, mean, rstd = device.batch_norm_forward(x)
    assert_gradients(device.batch_norm_backward(dy, x, mean, rstd), reference.batch_norm_backward(dy, x, None, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "channel_axis"), [((6, 40), 1), ((6, 40), 0), ((4, 5, 6), 1), ((4, 5, 6), -1)])
def test_every_layout(device, shape, channel_axis, layout):
    arrange = LAYOUTS[layout]
    x, mask = values(shape), np.random.default_rng(4).random(np.delete(shape, channel_axis)) < 0.7
    weight, bias, over_x = parameters(x, channel_axis)
    arranged, weight, bias, dy = (arrange(a) for a in (x, weight, bias, values(shape, seed=2)))
    check(device, arranged, channel_axis, weight, bias, over_x, dy=dy)
    check(device, arranged, channel_axis, weight, bias, over_x, mask=arrange(mask), dy=dy)
    check_given_statistics(device, arranged, channel_axis, weight, bias, over_x)
    np.testing.assert_array_equal(arranged, x)  # inputs are not written


def test_a_broadcast_input(device):
    check(device, np.broadcast_to(values((5, 4, 1)), (5, 4, 7)), 1)


@st.composite
def shapes_axes_and_masks(draw):
    shape = tuple(draw(st.lists(st.integers(0, 30), min_size=2, max_size=4)))
    channel_axis = draw(st.integers(-len(shape), len(shape) - 1))
    share = draw(st.sampled_from([None, 0.1, 0.5, 0.9]))
    return shape, channel_axis, share


@given(shapes_axes_and_masks(), st.sampled_from(sorted(LAYOUTS)), st.booleans(), st.sampled_from([0.0, 1e6]))
def test_any_shape_axis_mask_and_layout(device, case, layout, with_parameters, offset):
    shape, channel_axis, share = case
    x = LAYOUTS[layout](values(shape, offset=offset))
    others = np.delete(shape, channel_axis)
    mask = None if share is None else np.random.default_rng(4).random(others) < share
    count = int(np.prod(others)) if mask is None else int(mask.sum())
    all_left_out = mask is not None and mask.size > 0 and count == 0
    if x.size == 0 and not (all_left_out and device.counts_masks):
        check_zero_size(device, x, channel_axis, mask)
    elif count > 1:
        check(device, x, channel_axis, *(parameters(x, channel_axis) if with_parameters else ()), mask=mask)
    elif mask is None or device.counts_masks:
        message = "mask: all False" if all_left_out else "one value per channel|leaves one position"
        with pytest.raises(ValueError, match=message):
            device.batch_norm_forward(x, channel_axis=channel_axis, mask=mask)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 0), (0, 0), (2, 3, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_zero_size(device, shape, masked):
    check_zero_size(device, values(shape), 1, np.ones(np.delete(shape, 1), bool) if masked else None)


def check_zero_size(device, x, channel_axis, mask=None):
    C = x.shape[channel_axis]
    running_mean, running_var = np.full(C, 2.0), np.full(C, 3.0)
    options = {"channel_axis": channel_axis, "mask": mask}
    y, mean, rstd = device.batch_norm_forward(x, None, None, running_mean, running_var, **options)
    gradients = device.batch_norm_backward(x, x, mean, rstd, **options)
    inference = device.batch_norm(x, running_mean, running_var, channel_axis=channel_axis)
    assert y.shape == gradients.dx.shape == inference.shape == x.shape
    np.testing.assert_array_equal(mean, np.full(C, np.nan))
    np.testing.assert_array_equal(gradients.dweight, np.zeros(C))
    np.testing.assert_array_equal(gradients.dbias, np.zeros(C))
    np.testing.assert_array_equal((running_mean, running_var), (np.full(C, 2.0), np.full(C, 3.0)))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.3, 1e6 + 1 / 3, 1e30])
@pytest.mark.parametrize("shape", [(2, 3), (5000, 64), (7, 3, 49), (30, 2, 100, 100)])
def test_constant_channels_give_exactly_the_bias(device, shape, value):
    x = np.full(shape, value, np.float32)
    weight, bias, _ = parameters(x, 1)
    y, mean, rstd = device.batch_norm_forward(x, weight, bias)
    np.testing.assert_array_equal(np.moveaxis(y, 1, -1), np.broadcast_to(bias, np.moveaxis(y, 1, -1).shape))
    np.testing.assert_array_equal(mean, np.full(shape[1], np.float32(value)))
    np.testing.assert_array_max_ulp(rstd, np.full(shape[1], np.float32(1 / np.sqrt(1e-5))), 1)  # one: on a GPU


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(60, 5), (5000, 64), (7, 5, 49), (30, 3, 100, 100)])
def test_non_finite_values_stay_in_their_channel(device, shape, bad):
    x, clean, dy = values(shape), values(shape), values(shape, seed=2)
    x[(3, 1) + (2,) * (len(shape) - 2)] = bad
    y, mean, rstd = device.batch_norm_forward(x)
    expected, clean_mean, clean_rstd = device.batch_norm_forward(clean)
    dx = device.batch_norm_backward(dy, x, mean, rstd).dx
    expected_dx = device.batch_norm_backward(dy, clean, clean_mean, clean_rstd).dx
    for result, without in ((y, expected), (dx, expected_dx)):
        assert not np.isfinite(result[:, 1]).any()
        result[:, 1] = without[:, 1] = 0
        np.testing.assert_array_equal(result, without)


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [np.inf, -np.inf], [3e38, 3e38, -3e38, -3e38]])
@pytest.mark.parametrize("shape", [(60, 5), (5000, 64), (7, 5, 49), (30, 3, 100, 100)])
def test_a_gradient_that_is_not_finite_stays_in_its_channel(device, shape, bad):
    """Also one whose sums overflow: they are taken anew once, not for ever."""
    x, dy = values(shape), values(shape, seed=2)
    _, mean, rstd = device.batch_norm_forward(x)
    clean = device.batch_norm_backward(dy, x, mean, rstd)
    dy[(slice(None), 1)] += 5  # to be summed about a shift, which is then found to be wrong
    dy[(slice(3, 3 + len(bad)), 1) + (2,) * (len(shape) - 2)] = bad
    gradients = device.batch_norm_backward(dy, x, mean, rstd)
    if not np.isfinite(bad).all():
        assert not np.isfinite(gradients.dx[:, 1]).any()
        assert not np.isfinite(gradients.dbias[1])
    for result, without in zip(gradients, clean, strict=True):
        result, without = (np.delete(a, 1, axis=min(1, a.ndim - 1)) for a in (result, without))
        np.testing.assert_array_equal(result, without)


def test_what_the_mask_leaves_out_does_not_matter(device):
    x, dy = values((6, 5, 4)), values((6, 5, 4), seed=2)
    mask = np.random.default_rng(4).random((6, 5)) < 0.6
    weight, bias, over_x = parameters(x, -1)
    x[~mask], dy[~mask] = np.nan, np.inf
    check(
        device,
        np.where(mask[..., None], x, 0),
        -1,
        weight,
        bias,
        over_x,
        mask=mask,
        dy=np.where(mask[..., None], dy, 0),
    )
    y, mean, rstd = device.batch_norm_forward(x, weight, bias, channel_axis=-1, mask=mask)
    dx, dweight, _ = device.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis=-1, mask=mask)
    for result in (y, dx):
        assert np.isfinite(result).all()
        np.testing.assert_array_equal(result[~mask], 0)
    assert np.isfinite(dweight).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_statistics(device, momentum, masked, dtype):
    x = values((20, 3, 5), dtype, offset=1e3)
    mask = np.random.default_rng(4).random((20, 5)) < 0.6 if masked else None
    running_mean, running_var = values(3, dtype, seed=5), values(3, dtype, offset=5, seed=6)
    expected = reference.batch_norm_forward(x, None, None, 1, mask=mask)
    count = 100 if mask is None else mask.sum()
    mean, unbiased = expected.mean.ravel(), expected.var.ravel() * (count / (count - 1))
    expected_mean = (1 - momentum) * reference.precise(running_mean) + momentum * mean
    expected_var = (1 - momentum) * reference.precise(running_var) + momentum * unbiased
    device.batch_norm_forward(x, None, None, running_mean, running_var, momentum=momentum, mask=mask)
    assert_within(running_mean, expected_mean, tolerance(dtype) * np.abs(expected_mean) / 4)
    assert_within(running_var, expected_var, tolerance(dtype) * np.abs(expected_var) / 4)


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize(("shape", "channel_axis"), [((6, 40), 1), ((4, 5, 6), 1), ((4, 5, 6), 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_out_of_any_layout(device, shape, channel_axis, layout, masked):
    x, dy = values(shape), values(shape, seed=2)
    mask = np.random.default_rng(4).random(np.delete(shape, channel_axis)) < 0.7 if masked else None
    options = {"channel_axis": channel_axis, "mask": mask}
    out = LAYOUTS[layout](np.full_like(x, np.nan))
    y, mean, rstd = device.batch_norm_forward(x, **options, out=out)
    assert y is out
    expected = reference.batch_norm_forward(x, None, None, **options)
    assert_normalized(out, expected.y, expected.x_hat)
    for frozen in (False, True):
        gradients = device.batch_norm_backward(dy, x, mean, rstd, **options, frozen=frozen, out=out)
        assert gradients.dx is out
        without = device.batch_norm_backward(dy, x, mean, rstd, **options, frozen=frozen)
        np.testing.assert_array_equal(out, without.dx)
    assert device.batch_norm(x, mean, rstd, channel_axis=channel_axis, out=out) is out
    np.testing.assert_array_equal(out, device.batch_norm(x, mean, rstd, channel_axis=channel_axis))


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("shape", [(60, 40), (5000, 64), (30, 2, 100, 100), (7, 5, 49)])
@pytest.mark.parametrize("masked", [False, True])
def test_in_place_is_exact(device, shape, layout, masked):
    arrange = LAYOUTS[layout]
    x, dy = values(shape), values(shape, seed=2)
    mask = np.random.default_rng(4).random(np.delete(shape, 1)) < 0.7 if masked else None
    y, mean, rstd = device.batch_norm_forward(arrange(x), mask=mask)
    same = arrange(x)
    assert device.batch_norm_forward(same, mask=mask, out=same).y is same
    np.testing.assert_array_equal(same, y)
    for frozen in (False, True):
        dx, dweight, _ = device.batch_norm_backward(arrange(dy), arrange(x), mean, rstd, mask=mask, frozen=frozen)
        for target in ("dy", "x"):
            again = {"dy": arrange(dy), "x": arrange(x)}
            result = device.batch_norm_backward(
                **again, mean=mean, rstd=rstd, mask=mask, frozen=frozen, out=again[target]
            )
            assert result.dx is again[target]
            np.testing.assert_array_equal(result.dx, dx)
            np.testing.assert_array_equal(result.dweight, dweight)


@pytest.mark.parametrize("masked", [False, True])
def test_a_frozen_pass_has_no_gradient_through_the_statistics(device, masked):
    x, dy = values((6, 4, 5)), values((6, 4, 5), seed=2)
    mask = np.random.default_rng(4).random((6, 5)) < 0.6 if masked else None
    weight, mean, rstd = values(4, seed=5), values(4, seed=6), np.abs(values(4, seed=7))
    where = True if mask is None else mask[:, None]
    gradients = device.batch_norm_backward(dy, x, mean, rstd, weight, mask=mask, frozen=True)
    expected = reference.batch_norm_backward_frozen(np.where(where, dy, 0), x, mean, rstd, weight, 1)
    assert_gradients(gradients, expected)
