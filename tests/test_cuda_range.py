"""The tests over the whole range of both dtypes, through the compiled CUDA kernels, of arrays that each kernel has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import reference, test_range
from tests.cases import assert_gradients, assert_normalized, values
from tests.on_device import on_device
from tests.test_range import SIZES

LAYER_NORM_CASES = [((20, 60), -1), ((2, 4099), -1), ((1, 16400), -1), ((2, 70, 30), 1)]
BATCH_NORM_CASES = [(60, 100), (9, 2, 300)]
COLUMNS = 60  # for which the kernels are compiled


@pytest.fixture(autouse=True, scope="module")
def _on_device():
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            *("layer_norm", "layer_norm_forward", "layer_norm_backward"),
            *("batch_norm", "batch_norm_forward", "batch_norm_backward"),
            *("batch_norm_backward_reduce", "batch_norm_backward_apply"),
        ):
            patch.setattr(test_range, name, on_device(getattr(test_range, name)))
        yield


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize(("shape", "axis"), LAYER_NORM_CASES)
def test_layer_norm(shape, axis, dtype, size):
    test_range.test_layer_norm(shape, axis, dtype, size)


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize("shape", BATCH_NORM_CASES)
def test_batch_norm(shape, dtype, size):
    test_range.test_batch_norm(shape, dtype, size)


test_given_statistics = test_range.test_given_statistics
test_others_keep_their_bits = test_range.test_others_keep_their_bits


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 3e38), (np.float64, 1.5e308)])
def test_a_difference_beyond_the_range_over_a_moderate_std(dtype, size):
    x, dy = np.array([[-size, 1], [size, 2], [0, 3]], dtype), values((3, 2), dtype)
    mean, var = np.array([size, 1.5], dtype), np.array([1e20, 1], dtype)
    expected, x_hat = reference.batch_norm(x, mean, var, None, None, 1, 0.0)
    assert_normalized(test_range.batch_norm(x, mean, var, eps=0.0), expected, x_hat)
    rstd = 1 / np.sqrt(var)
    gradients = test_range.batch_norm_backward(dy, x, mean, rstd, frozen=True)
    assert_gradients(gradients, reference.batch_norm_backward_frozen(dy, x, mean, rstd, None, 1))


@settings(max_examples=40)
@given(
    st.sampled_from([np.float32, np.float64]), st.floats(0, 1), st.floats(-1, 1), st.integers(2, 9), st.integers(0, 99)
)
def test_any_size_and_offset(dtype, place, offset, rows, seed):
    test_range.test_any_size_and_offset.hypothesis.inner_test(dtype, place, offset, (rows, COLUMNS), seed)


@pytest.mark.parametrize(("dtype", "eps"), [(np.float32, 1e-30), (np.float64, 1e-300)])
@pytest.mark.parametrize("value", [0.0, 1e-40, 3e-5, 1.0, 1e10, 3e38])
def test_equal_values_with_a_small_eps(dtype, value, eps):
    """Of those that the dtype holds: an eps of 1e-60 is 0 in the kernels of float32."""
    test_range.test_equal_values_with_a_small_eps(dtype, value, eps)
