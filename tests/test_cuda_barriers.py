"""Each barrier is needed: without any one of them, the interpreter finds a fault."""

from functools import cache, partial
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm import MinMaxScaler, Moments, StandardScaler
from numbanorm._operations import OPERATIONS
from numbanorm.cuda import rows_and_columns
from tests import compiled, emulator
from tests.cases import series, values
from tests.examples import arrays_changed, unmasked
from tests.ptx import Fault


class Scenario(NamedTuple):
    """x, which all operations of a family are called on."""

    shape: tuple[int, ...]
    axis: int
    scale: float = 1.0

    def calls(self, family):
        for operation in OPERATIONS.values():
            if operation.family == family:
                x = values(self.shape) * np.float32(self.scale)
                arguments = unmasked(operation, x, self.axis, series(2))
                for switched in ({}, *({switch: True} for switch in operation.switches)):
                    yield partial(call_on_device, operation.function, arguments | switched)


SCENARIOS = {  # each kernel that has barriers; squares beyond float32 for those that are for them
    "axis": {
        "rows held by a block": Scenario((70, 2000), -1, scale=1e25),
        "long rows": Scenario((9, 20001), -1),
        "columns": Scenario((2, 300, 40), 1),
    },
    "channel_axis": {"channels last": Scenario((3000, 40), 1), "channels first": Scenario((16, 3, 900), 1)},
}
KINDS = {operation.family: operation.axis_name for operation in OPERATIONS.values()}
CASES = [(name, family) for family, kind in KINDS.items() for name in SCENARIOS[kind]] + [("statistics", "")]
WITH_BARRIERS = {
    *("rows_forward", "rows_backward", "long_rows_forward", "long_rows_backward", "parameter_gradients"),
    *("columns_forward", "columns_backward", "column_sums"),
    *("piece_moments", "piece_gradients", "channel_statistics", "channel_gradients"),
    *("piece_extremes", "weighted_piece_moments", "whole_states", "channel_sums"),
}


def call_on_device(function, arguments):
    function(**arrays_changed(arguments, emulator.to_device))


def of_statistics():
    X = {"X": values((700, 6))}
    yield partial(call_on_device, lambda X: Moments.of(X), X)
    yield partial(call_on_device, MinMaxScaler().fit, X)
    yield partial(call_on_device, lambda X: StandardScaler().fit(X, sample_weight=np.ones(700)), X)


def launched_by(call):
    """A block takes several rows, as in arrays of thousands of rows."""
    with patch.object(rows_and_columns, "_BUSY", 1), emulator.emulated():
        call()
        return {launch[0] for launch in emulator.launches}


@cache
def with_barriers(scenario, family):
    """The kernels, each with the first call that launches it."""
    found = {}
    for call in SCENARIOS[KINDS[family]][scenario].calls(family) if family else of_statistics():
        for kernel in launched_by(call) - found.keys():
            if compiled.program(kernel).barriers:
                found[kernel] = call
    return found


def name_of(kernel):
    return kernel.function.__qualname__.partition(".")[0]


def test_the_scenarios_have_every_kernel_with_barriers():
    assert {name_of(kernel) for case in CASES for kernel in with_barriers(*case)} == WITH_BARRIERS


@pytest.mark.parametrize(("scenario", "family"), CASES)
def test_without_any_barrier_there_is_a_fault(scenario, family):
    found = with_barriers(scenario, family)
    assert found
    for kernel, call in found.items():
        for barrier in compiled.program(kernel).barriers:
            assert has_a_fault_without(kernel, barrier, call), f"{kernel.name}, barrier {barrier}"


def has_a_fault_without(kernel, barrier, call):
    whole = compiled.program
    changed = whole(kernel).without(barrier)
    with patch.object(compiled, "program", lambda k: changed if k == kernel else whole(k)):
        try:
            launched_by(call)
        except Fault:
            return True
    return False
