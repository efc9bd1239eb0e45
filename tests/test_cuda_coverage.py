"""The shapes that the default run takes to the emulated GPU launch each kernel of the norms, and no other kernel."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numbanorm._operations import OPERATIONS
from tests import compiled, emulator, tiers
from tests.cases import BATCH_NORM_CASES, LAYER_NORM_CASES, values
from tests.examples import arrays_changed, each_way
from tests.kernels import every_kernel

# These have tests of their own: `tests/test_cuda_statistics.py` and, for the copies, those of every layout.
OTHERS = r"piece_extremes|scale_pieces|weighted_piece_moments|whole_states|.* in float64|gradients_of_sums|strided_copy"
OTHER_FAMILIES = ("batchnorm_halves",)


def default_shapes(operation):
    """Of float32: those that the tests of its family take there without the markers slow and nightly."""
    file = f"test_{operation.family}"
    assert Path(__file__).with_name(f"{file}.py").exists()
    tables = [table.get(f"{file} on emulated", {}) for table in (tiers.SLOW, tiers.NIGHTLY)]
    patterns = [table["test_every_shape"] for table in tables if "test_every_shape" in table]
    for shape, axis in {"axis": LAYER_NORM_CASES, "channel_axis": BATCH_NORM_CASES}[operation.axis_name]:
        if not any(re.search(pattern, f"{shape}-{axis}-float32") for pattern in patterns):
            yield shape, axis


@pytest.fixture(scope="module")
def launched():
    """The kernels. Nothing is compiled or run here."""
    nothing = SimpleNamespace(loaded_sectors=0, stored_sectors=0)
    with (
        patch.object(emulator, "run", lambda *args, **options: nothing),
        patch.object(compiled, "program", lambda kernel: None),
        emulator.emulated(),
    ):
        for operation in OPERATIONS.values():
            if operation.family not in OTHER_FAMILIES:
                for shape, axis in default_shapes(operation):
                    for arguments in each_way(operation, values(shape), axis):
                        operation.function(**arrays_changed(arguments, emulator.to_device))
        return {launch[0] for launch in emulator.launches}


def test_each_kernel_is_launched(launched):
    """In whichever number of threads and steps."""
    cases = [case for case in every_kernel() if not re.match(OTHERS, case.name)]
    wanted = {kind(case) for case in cases if "float32" in case.kernel.name}
    assert len(wanted) > 20
    assert wanted - {kind(case) for case in cases if case.kernel in launched} == set()


def test_each_launched_kernel_is_in_the_list(launched):
    """Of `tests.kernels`, whose machine code is looked at."""
    listed = {case.kernel for case in every_kernel()}
    assert {kernel.name for kernel in launched - listed if "strided_copy" not in kernel.name} == set()


def kind(case):
    return re.sub(r", \d+ threads|, \d+ steps", "", case.name)
