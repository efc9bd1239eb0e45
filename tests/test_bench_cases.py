"""The benchmarks time every operation of the table that has a result of x's size, on arrays that it takes."""

import pytest

from bench.cases import all_cases, calls, check_agreement
from numbanorm._operations import OPERATIONS

TINY = [case for case in all_cases() if case.shape.network == "tiny"]


def test_each_operation_is_timed():
    """But for the halves of a backward pass, which are timed as a whole."""
    timed = {case.operation.name for case in TINY}
    assert timed == {name for name, operation in OPERATIONS.items() if operation.family != "batchnorm_halves"}


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case.operation.name} {case.shape}")
def test_numpy_agrees(case):
    check_agreement(calls(case, ("NumPy",)))
