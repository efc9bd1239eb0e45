"""The tests of layer normalization, through the compiled CUDA kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import reference, test_layernorm
from tests.arranged import shapes_and_axes
from tests.cases import LAYOUTS, assert_gradients, assert_normalized, two_values, values
from tests.on_device import on_device

_NOT_HERE = {
    "test_sums_of_narrow_rows",  # of the CPU's own
    # Below, with fewer examples and, but for nightly, smaller arrays:
    "test_any_shape_axes_and_layout",
    "test_the_error_does_not_grow_with_the_count",
    "test_the_error_of_the_gradients_does_not_grow_with_the_count",
}
globals().update({n: t for n, t in vars(test_layernorm).items() if n.startswith("test_") and n not in _NOT_HERE})


@pytest.fixture(autouse=True, scope="module")
def _on_device():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("layer_norm", "layer_norm_forward", "layer_norm_backward"):
            patch.setattr(test_layernorm, name, on_device(getattr(test_layernorm, name)))
        yield


@settings(max_examples=40)
@given(shapes_and_axes(), st.sampled_from(sorted(LAYOUTS)), st.booleans(), st.sampled_from([0.0, 1e6]))
def test_any_shape_axes_and_layout(shape_and_axes, layout, with_parameters, offset):
    shape, axes = shape_and_axes
    x = LAYOUTS[layout](values(shape, offset=offset))
    if x.size == 0:
        test_layernorm.check_zero_size(x, axes)
    else:
        test_layernorm.check(x, axes, *(test_layernorm.parameters(x, axes) if with_parameters else ()))


@pytest.mark.parametrize("cols", [1_000_000, pytest.param(30_000_000, marks=pytest.mark.nightly)])
def test_the_error_does_not_grow_with_the_count(cols):
    x = values((1, cols), np.float32, 1e3)
    expected = reference.layer_norm_forward(x, None, None, -1)
    assert_normalized(test_layernorm.layer_norm(x), expected.y, expected.x_hat)


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1_000_000), (300_000, 2)),
        *(pytest.param(shape, marks=pytest.mark.nightly) for shape in ((1, 10_000_000), (5_000_000, 2))),
    ],
)
def test_the_error_of_the_gradients_does_not_grow_with_the_count(shape):
    x, dy = two_values(shape)
    _, mean, rstd = test_layernorm.layer_norm_forward(x)
    gradients = test_layernorm.layer_norm_backward(dy, x, mean, rstd)
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, None, -1))
