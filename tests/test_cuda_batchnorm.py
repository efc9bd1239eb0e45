"""The tests of batch normalization, through the compiled CUDA kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import reference, test_batchnorm
from tests.cases import LAYOUTS, assert_gradients, assert_normalized, two_values, values
from tests.on_device import on_device
from tests.test_batchnorm import shapes_axes_and_masks

_NOT_HERE = {
    # Below, with fewer examples and, but for nightly, smaller arrays:
    "test_any_shape_axis_mask_and_layout",
    "test_the_error_does_not_grow_with_the_count",
    "test_the_error_of_the_gradients_does_not_grow_with_the_count",
}
globals().update({n: t for n, t in vars(test_batchnorm).items() if n.startswith("test_") and n not in _NOT_HERE})


@pytest.fixture(autouse=True, scope="module")
def _on_device():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("batch_norm", "batch_norm_forward", "batch_norm_backward"):
            patch.setattr(test_batchnorm, name, on_device(getattr(test_batchnorm, name)))
        yield


@settings(max_examples=40)
@given(shapes_axes_and_masks(), st.sampled_from(sorted(LAYOUTS)), st.booleans(), st.sampled_from([0.0, 1e6]))
def test_any_shape_axis_mask_and_layout(case, layout, with_parameters, offset):
    """But for masks that leave less than two positions, which the device cannot refuse."""
    shape, channel_axis, share = case
    x = LAYOUTS[layout](values(shape, offset=offset))
    others = np.delete(shape, channel_axis)
    mask = None if share is None else np.random.default_rng(4).random(others) < share
    count = int(np.prod(others)) if mask is None else int(mask.sum())
    if x.size == 0:
        test_batchnorm.check_zero_size(x, channel_axis, mask)
    elif count > 1:
        own = test_batchnorm.parameters(x, channel_axis) if with_parameters else ()
        test_batchnorm.check(x, channel_axis, *own, mask=mask)


@pytest.mark.parametrize(
    "shape",
    [
        *((500_000, 2), (1, 1, 1_000_000)),
        *(pytest.param(shape, marks=pytest.mark.nightly) for shape in ((15_000_000, 2), (1, 1, 30_000_000))),
    ],
)
def test_the_error_does_not_grow_with_the_count(shape):
    x = values(shape, np.float32, 1e3)
    expected = reference.batch_norm_forward(x, None, None, 1)
    assert_normalized(test_batchnorm.batch_norm_forward(x).y, expected.y, expected.x_hat)


@pytest.mark.parametrize(
    "shape",
    [
        *((15_000, 64), (1, 1, 1_000_000)),
        *(pytest.param(shape, marks=pytest.mark.nightly) for shape in ((150_000, 64), (1, 1, 10_000_000))),
    ],
)
def test_the_error_of_the_gradients_does_not_grow_with_the_count(shape):
    x, dy = two_values(shape)
    _, mean, rstd = test_batchnorm.batch_norm_forward(x)
    gradients = test_batchnorm.batch_norm_backward(dy, x, mean, rstd)
    assert_gradients(gradients, reference.batch_norm_backward(dy, x, None, 1))
