"""The shapes that the default run takes to the emulated GPU launch each kernel of the three norms."""

import re
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

from numbanorm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from tests import compiled, device, test_cuda_range, tiers
from tests.cases import BATCH_NORM_CASES, LAYER_NORM_CASES, values
from tests.kernels import every_kernel

# These have tests of their own: `tests/test_cuda_statistics.py` and, for the copies, those of every layout.
OTHERS = r"piece_extremes|scale_pieces|weighted_piece_moments|whole_states|.* kept|gradients_of_sums|strided_copy"


def default_shapes(cases, file):
    """Of float32, those that `test_every_shape` has without the markers slow and nightly."""
    patterns = [table.get(file, {}).get("test_every_shape") for table in (tiers.SLOW, tiers.NIGHTLY)]
    for shape, axis in cases:
        if not any(pattern and re.search(pattern, f"{shape}-{axis}-float32") for pattern in patterns):
            yield shape, axis


def launch_layer_norm(shape, axis):
    x = device.to_device(values(shape))
    _, mean, rstd = layer_norm_forward(x, axis=axis)
    layer_norm_backward(x, x, mean, rstd, axis=axis)


def launch_rms_norm(shape, axis):
    x = device.to_device(values(shape))
    rms_norm_backward(x, x, rms_norm_forward(x, axis=axis).rstd, axis=axis)


def launch_batch_norm(shape, axis, masked):
    x, ones = device.to_device(values(shape)), device.to_device(np.ones(shape[axis]))
    mask = device.to_device(np.ones(np.delete(shape, axis), bool)) if masked else None
    _, mean, rstd = batch_norm_forward(x, channel_axis=axis, mask=mask)
    for given in ((mean, rstd), (ones, rstd), (mean, ones), (ones, ones)):
        batch_norm(x, *given, channel_axis=axis)
        for frozen in (False, True):
            batch_norm_backward(x, x, *given, channel_axis=axis, mask=mask, frozen=frozen)


def test_each_kernel_is_launched():
    """In whichever number of threads and steps. Nothing is compiled or run here."""
    nothing = SimpleNamespace(loaded_sectors=0, stored_sectors=0)
    with (
        patch.object(device, "run", lambda *args, **options: nothing),
        patch.object(compiled, "program", lambda kernel: None),
        device.emulated(),
    ):
        for case in (*default_shapes(LAYER_NORM_CASES, "test_cuda_layernorm"), *test_cuda_range.LAYER_NORM_CASES):
            launch_layer_norm(*case)
        for case in (*default_shapes(LAYER_NORM_CASES, "test_cuda_rmsnorm"), *test_cuda_range.LAYER_NORM_CASES):
            launch_rms_norm(*case)
        for case in default_shapes(BATCH_NORM_CASES, "test_cuda_batchnorm"):
            for masked in (False, True):
                launch_batch_norm(*case, masked)
        launched = {launch[0] for launch in device.launches}
    cases = [case for case in every_kernel() if not re.match(OTHERS, case.name)]
    wanted = {kind(case) for case in cases if case.dtype is types.float32}
    assert len(wanted) > 20
    assert wanted - {kind(case) for case in cases if case.kernel in launched} == set()


def kind(case):
    return re.sub(r", \d+ threads|, \d+ steps", "", case.name)
