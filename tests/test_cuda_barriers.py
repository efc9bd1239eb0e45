"""Each barrier is needed: without any one of them, the interpreter finds a fault."""

from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm import (
    MinMaxScaler,
    Moments,
    StandardScaler,
    batch_norm_backward,
    batch_norm_backward_reduce,
    batch_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from numbanorm.cuda import rows_and_columns
from tests import compiled, device
from tests.cases import values
from tests.on_device import on_device
from tests.ptx import Fault

FORWARD, BACKWARD = on_device(layer_norm_forward), on_device(layer_norm_backward)
RMS_FORWARD, RMS_BACKWARD = on_device(rms_norm_forward), on_device(rms_norm_backward)
BN_FORWARD, BN_BACKWARD = on_device(batch_norm_forward), on_device(batch_norm_backward)


def of_layer_norm(shape, axis=-1, scale=1.0):
    x = values(shape) * np.float32(scale)

    def run():
        _, mean, rstd = FORWARD(x, axis=axis, eps=0.0)
        launched = list(device.launches)
        BACKWARD(values(shape, seed=2), x, mean, rstd, axis=axis)
        return launched + device.launches

    return run


def of_rms_norm(shape, axis=-1, scale=1.0):
    x = values(shape) * np.float32(scale)

    def run():
        with patch.object(rows_and_columns, "_BUSY", 1):  # so that a block takes several rows
            rstd = RMS_FORWARD(x, axis=axis, eps=0.0).rstd
            launched = list(device.launches)
            RMS_BACKWARD(values(shape, seed=2), x, rstd, axis=axis)
            return launched + device.launches

    return run


def of_batch_norm(shape):
    x = values(shape)

    def run():
        _, mean, rstd = BN_FORWARD(x)
        launched = list(device.launches)
        BN_BACKWARD(values(shape, seed=2), x, mean, rstd)
        return launched + device.launches

    return run


def of_statistics(shape):
    x, weights = values(shape), np.ones(shape[0])

    def run():
        launched = []
        with device.emulated():
            there, one = device.to_device(x), device.to_device(np.ones(shape[1]))
            Moments.of(there)
            batch_norm_backward_reduce(there, there, one, one)
            MinMaxScaler().fit(there)
            StandardScaler().fit(there, sample_weight=weights)
            launched += device.launches
        return launched

    return run


SCENARIOS = {  # each kernel that has barriers; squares beyond float32 for those that are for them
    "rows held by a block": of_layer_norm((70, 2000), scale=1e25),
    "long rows": of_layer_norm((70, 20001)),
    "columns": of_layer_norm((2, 300, 40), axis=1),
    "rows of RMS normalization": of_rms_norm((70, 2000), scale=1e25),
    "long rows of RMS normalization": of_rms_norm((9, 20001)),
    "columns of RMS normalization": of_rms_norm((2, 300, 40), axis=1),
    "channels last": of_batch_norm((3000, 40)),
    "channels first": of_batch_norm((16, 3, 900)),
    "statistics": of_statistics((700, 6)),
}
WITH_BARRIERS = {
    *("rows_forward", "rows_backward", "long_rows_forward", "long_rows_backward", "parameter_gradients"),
    *("columns_forward", "columns_backward", "column_sums"),
    *("piece_moments", "piece_gradients", "channel_statistics", "channel_gradients"),
    *("piece_extremes", "weighted_piece_moments", "whole_states", "channel_sums"),
}


def name_of(kernel):
    return kernel.function.__qualname__.partition(".")[0]


def kernels_of(scenario):
    return {launch[0] for launch in SCENARIOS[scenario]() if compiled.program(launch[0]).barriers}


def test_the_scenarios_have_every_kernel_with_barriers():
    assert {name_of(kernel) for scenario in SCENARIOS for kernel in kernels_of(scenario)} == WITH_BARRIERS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_without_any_barrier_there_is_a_fault(scenario):
    for kernel in kernels_of(scenario):
        for barrier in compiled.program(kernel).barriers:
            assert has_a_fault_without(kernel, barrier, scenario), f"{name_of(kernel)}, barrier {barrier}"


def has_a_fault_without(kernel, barrier, scenario):
    whole = compiled.program
    changed = whole(kernel).without(barrier)
    with patch.object(compiled, "program", lambda k: changed if k == kernel else whole(k)):
        try:
            SCENARIOS[scenario]()
        except Fault:
            return True
    return False
