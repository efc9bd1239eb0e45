"""The benchmarks time every operation of the table that has a result of x's size, on arrays that it takes."""

import numpy as np
import pytest

from bench import batchnorm, layernorm, rmsnorm
from bench.cases import calls, check_agreement
from numbanorm._operations import OPERATIONS

CASES = [case for module in (layernorm, rmsnorm, batchnorm) for case in module.cases(np.float32)]
TINY = [case for case in CASES if case.shape.network == "tiny"]


def test_each_operation_is_timed():
    """But for the halves of a backward pass, which are timed as a whole."""
    timed = {case.operation.name for case in TINY}
    assert timed == {name for name, operation in OPERATIONS.items() if operation.family != "batchnorm_halves"}


@pytest.mark.parametrize("case", TINY, ids=lambda case: f"{case.operation.name} {case.shape}")
def test_numpy_agrees(case):
    check_agreement(calls(case, ("NumPy",)))
