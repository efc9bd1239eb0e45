"""The tests of RMS normalization, through the compiled CUDA kernels."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm.cuda import rows_and_columns
from tests import test_cuda_range, test_rmsnorm
from tests.arranged import shapes_and_axes
from tests.cases import LAYOUTS, values
from tests.on_device import on_device
from tests.test_range import SIZES

_NOT_HERE = {
    "test_the_bits_depend_neither_on_threads_nor_on_streaming",  # of the CPU's own
    "test_the_layer",
    # Below, with fewer examples, or other shapes:
    "test_any_shape_axes_and_layout",
    "test_the_error_does_not_grow_with_the_count",
    "test_the_whole_range_of_the_dtype",
}
globals().update({n: t for n, t in vars(test_rmsnorm).items() if n.startswith("test_") and n not in _NOT_HERE})


@pytest.fixture(autouse=True, scope="module")
def _on_device():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rms_norm", "rms_norm_forward", "rms_norm_backward"):
            patch.setattr(test_rmsnorm, name, on_device(getattr(test_rmsnorm, name)))
        yield


@settings(max_examples=20)
@given(shapes_and_axes(), st.sampled_from(sorted(LAYOUTS)), st.booleans())
def test_any_shape_axes_and_layout(shape_and_axes, layout, with_weight):
    test_rmsnorm.test_any_shape_axes_and_layout.hypothesis.inner_test(shape_and_axes, layout, with_weight)


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 1_000_000), (300_000, 2)),
        *(pytest.param(shape, marks=pytest.mark.nightly) for shape in ((1, 10_000_000), (5_000_000, 2))),
    ],
)
def test_the_error_does_not_grow_with_the_count(shape):
    test_rmsnorm.test_the_error_does_not_grow_with_the_count(shape)


@pytest.mark.parametrize("shape", [(20, 2000), (40, 300)])
def test_several_rows_to_a_group_of_threads(shape, monkeypatch):
    """As in arrays of thousands of rows: their sums share a place in memory, one after the other."""
    monkeypatch.setattr(rows_and_columns, "_BUSY", 1)
    test_rmsnorm.check(values(shape), -1)


@pytest.mark.parametrize(("dtype", "size"), SIZES)
@pytest.mark.parametrize(("shape", "axis"), test_cuda_range.LAYER_NORM_CASES)
def test_the_whole_range_of_the_dtype(shape, axis, dtype, size):
    test_rmsnorm.test_the_whole_range_of_the_dtype(shape, axis, dtype, size)
