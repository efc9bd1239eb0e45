"""The tests of layer normalization, through the compiled CUDA kernels."""

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import test_layernorm
from tests.on_device import on_device

_NOT_HERE = {
    "test_sums_of_narrow_rows",  # of the CPU's own
    "test_any_shape_axes_and_layout",  # below, with fewer examples
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
