"""The tests over the whole range of both dtypes, through the compiled CUDA kernels."""

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests import test_range
from tests.on_device import on_device

globals().update({n: t for n, t in vars(test_range).items() if n.startswith("test_")})


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
