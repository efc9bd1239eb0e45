"""How many bytes the CUDA kernels move, as `tests.traffic` counts them."""

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm._operations import OPERATIONS
from tests.traffic import CASES, Case, moved

HELD = {"forward": 16384, "backward": 8192}  # columns that a block holds
NARROW = 256  # columns: where rows have fewer, the sector that holds a row's statistic counts


def limit(case):
    """Over the fewest; None where vectors share sectors, or an array is read twice that might be read once."""
    operation = OPERATIONS.get(case.operation)
    if operation and operation.axis_name == "axis":
        return rows_limit(operation, case.shape[1])
    if case.axis not in (-1, len(case.shape) - 1):
        return None
    gives_sums = case.operation == "Moments.of" or (operation and not operation.takes_out)
    return 1.15 if gives_sums else 1.1  # the states of sums that are given away are twice as long


def rows_limit(operation, cols):
    """Each gradient of a parameter adds a row of sums for each block, which is written and read."""
    held = cols <= HELD["backward" if "dy" in operation.given else "forward"]
    whole = cols % 4 == 0 and (cols >= NARROW or operation.results == ("y",))
    return 1.05 + 0.05 * sum(name in ("dweight", "dbias") for name in operation.results) if held and whole else None


LIMITED = [case for case in CASES if limit(case)]


def test_enough_is_limited():
    assert len(LIMITED) > 15


@pytest.mark.parametrize("case", LIMITED, ids=str)
def test_few_more_bytes_are_moved_than_must_be(case):
    assert 0.999 < moved(case) <= limit(case)


def test_a_sample_of_the_blocks_tells_of_all():
    case = Case("layer_norm_backward", (16384, 64), -1)
    assert moved(case) == pytest.approx(moved(case, most_blocks=None), rel=0.01)
