"""How many bytes the CUDA kernels move, as `tests.traffic` counts them."""

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from tests.traffic import CASES, Case, moved

MOST = {
    **{"layer_norm": 1.05, "layer_norm_forward": 1.05, "layer_norm_backward": 1.15},
    **{"rms_norm_forward": 1.05, "rms_norm_backward": 1.1},
}
NARROW = 256  # columns: where rows have fewer, the sector that holds a row's statistic counts


def limit(case):
    if case.channel_axis is None:
        held = case.shape[1] <= (16384 if "forward" in case.operation else 8192)
        whole = case.shape[1] % 4 == 0 and (case.shape[1] >= NARROW or case.operation == "layer_norm")
        return MOST[case.operation] if held and whole else None
    last = case.channel_axis in (-1, len(case.shape) - 1)
    kept = case.operation in ("Moments.of", "batch_norm_backward_reduce")  # whose states are twice as long
    return (1.15 if kept else 1.1) if last else None


LIMITED = [case for case in CASES if limit(case)]


def test_enough_is_limited():
    assert len(LIMITED) > 15


@pytest.mark.parametrize("case", LIMITED, ids=str)
def test_few_more_bytes_are_moved_than_must_be(case):
    assert 0.999 < moved(case) <= limit(case)


def test_a_sample_of_the_blocks_tells_of_all():
    case = Case("layer_norm_backward", (16384, 64))
    assert moved(case) == pytest.approx(moved(case, most_blocks=None), rel=0.01)
