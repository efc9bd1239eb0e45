"""No kernel touches what is not its own: arrays beside closed pages, in processes that would die of it."""

import os
import platform
import signal
import subprocess
import sys
from itertools import product

import numba
import numpy as np
import pytest

from numbanorm._call import host, recycling
from numbanorm._operations import OPERATIONS
from numbanorm.cpu import batchnorm
from numbanorm.cpu.engine import machine
from numbanorm.cpu.engine.parallel import SERIAL
from numbanorm.cpu.kernels import batches, rows
from numbanorm.cpu.vectors.elements import copy_row
from numbanorm.cpu.vectors.simd import pointer
from tests.cases import series, values
from tests.examples import arrays_changed, unmasked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="closes pages as Linux does")

WIDTHS = [*range(1, 41), 63, 64, 65, 100, 127, 128, 129, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2500, 8193]
SHAPES = {  # by way: the axis of what is normalised together or of the channels, and shapes
    "axis": {
        "rows": (
            -1,
            [(rows, cols) for cols in WIDTHS for rows in (1, 2, 8, 9, 17) if rows * cols < 50_000]
            + [(1, 70_001), (3, 70_001), (2, 131_073), (2, 262_145), (1, 300_001), (700, 33), (5003, 7), (300, 600)],
        ),
        "middle axis": (
            1,
            [(N, count, L) for L in WIDTHS[1:] for N, count in ((1, 1), (2, 3), (3, 8), (1, 17)) if count * L < 30_000]
            + [(5, 96, 1000), (1, 20_000, 3)],
        ),
    },
    "channel_axis": {
        "rows": (
            1,
            [(rows, C) for C in WIDTHS for rows in (2, 3, 16, 33) if rows * C < 50_000]
            + [(20_011, 3), (70_001, 1), (5003, 64), (300, 1100)],
        ),
        "channels first": (
            1,
            [(N, C, L) for L in WIDTHS[1:] for N, C in ((1, 1), (2, 3), (5, 2), (3, 17)) if C * L < 30_000]
            + [(300, 64, 49), (2, 3, 70_001), (3, 40, 1000), (1, 1, 300_001)],
        ),
    },
}
KINDS = {operation.family: operation.axis_name for operation in OPERATIONS.values()}
CASES = [(family, way) for family, kind in KINDS.items() for way in SHAPES[kind]]


def calls(family, axis, shape, dtype):
    """Each function of a family with its arguments, by what distinguishes it."""
    x = values(shape, dtype, offset=3)
    x.flat[0] = 1e20 if family == "rmsnorm" else 1e5  # its row or channel is summed once more
    for operation in OPERATIONS.values():
        if operation.family == family:
            arguments = unmasked(operation, x, axis, series(2, offset=30))
            far_values = series(20, dtype=dtype, offset=9)
            far = {name: far_values(arguments[name].shape) for name in operation.statistics}
            yield operation.name, operation, arguments | far
            if operation.axis_name == "channel_axis" and (dtype.itemsize == 4 or operation.switches):
                yield f"{operation.name} in float64", operation, in_float64(operation, arguments | far)


def in_float64(operation, arguments):
    """With statistics that a kernel may read where they are, and what is only for those switched on."""
    exact = {name: arguments[name].astype(float) for name in operation.statistics + operation.updated}
    return arguments | exact | dict.fromkeys(operation.switches, True)


def all_calls(family, way, at_end):
    """Each beside closed pages, with the same results as anywhere else."""
    from tests import guards

    class GuardedNumPy:
        """What the public functions make results and statistics with."""

        empty = staticmethod(lambda shape, dtype=np.float64: guards.copy(np.full(shape, np.nan, dtype), at_end))
        __getattr__ = staticmethod(lambda name: getattr(np, name))

    recycling.LARGE = 0  # lets results of any size stream
    scratch = guards.Scratch(at_end)
    _fill(0, 5, np.arange(6.0))
    assert scratch.count > 0, "Numba has asked for memory in another way"
    axis, shapes = SHAPES[KINDS[family]][way]
    for shape, dtype, streams in product(shapes, (np.dtype("f4"), np.dtype("f8")), (False, True)):
        machine.streams = lambda nbytes, streams=streams: streams
        for name, operation, arguments in calls(family, axis, shape, dtype):
            found = []
            for numpy, place in ((np, np.copy), (GuardedNumPy(), lambda a: guards.copy(a, at_end))):
                print(name, shape, dtype, "streamed" if streams else "stored", place.__name__, flush=True)
                host.np = batchnorm.np = numpy
                found.append(results(operation, arrays_changed(arguments, place), place))
            host.np = batchnorm.np = np
            for a, b in zip(*found, strict=True):
                np.testing.assert_array_equal(a, b, f"{name} {shape} {dtype} {streams}")


def results(operation, arguments, place):
    """What it returns and updates."""
    if operation.takes_out:
        arguments["out"] = place(np.full_like(arguments["x"], np.nan))
    found = operation.function(**arguments)
    return *(found if isinstance(found, tuple) else (found,)), *(arguments[name] for name in operation.updated)


def python(command, cpu=None):
    """Run a function of this file, on the vectors that a processor has."""
    features = {"haswell": "+avx2,+fma", "generic": ""}
    environment = os.environ | ({"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features[cpu]} if cpu else {})
    command = [sys.executable, "-W", "error", "-c", f"import tests.test_memory_bounds as bounds; bounds.{command}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    "cpu", [None, *(pytest.param(cpu, marks=pytest.mark.nightly) for cpu in ("haswell", "generic"))]
)
@pytest.mark.parametrize(
    "at_end",
    [
        pytest.param(True, id="before a closed page"),
        pytest.param(False, id="after a closed page", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(("family", "way"), CASES)
def test_kernels_stay_within_their_arrays(family, way, at_end, cpu):
    if cpu and platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("their names are those of x86 processors")
    run = python(f"all_calls({family!r}, {way!r}, {at_end})", cpu)
    last = run.stdout.splitlines()[-1:]
    assert run.returncode == 0, f"{signal.strsignal(-run.returncode) if run.returncode < 0 else run.stderr} in {last}"


@numba.njit
def _fill(first, size, row):
    """A run of memory of five values, to be filled from its index `first` on."""
    scratch = np.empty(5)
    copy_row(size, pointer(scratch, first), row)
    return scratch[2]


def print_deaths(at_end):
    """What becomes of kernels when one of their arrays is a value shorter than it should be: a signal for each."""
    import resource

    from tests import guards

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    x, dy, planes = values((9, 33)), values((9, 33), seed=2), values((9, 33, 1))
    C, C64, per_row = np.ones(33, np.float32), np.ones(33), np.ones(9, np.float32)
    kernels = {
        rows.layer_norm_rows_forward: (x, C, C, 1e-5, x.copy(), per_row, per_row),
        rows.layer_norm_rows_backward: (dy, x, per_row, per_row, C, x.copy(), C, C),
        batches.batch_norm_forward_parts: (planes, C, C, 1e-5, planes.copy(), C64, C, C64),
        batches.batch_norm_backward_parts: (planes, planes, C, C, C, planes.copy(), C, C),
    }
    for kernel, arguments in kernels.items():
        kernel(SERIAL, False, *arguments)  # is well
        for i, a in enumerate(arguments):
            if isinstance(a, np.ndarray):
                changed = *arguments[:i], guards.one_too_many(a, at_end), *arguments[i + 1 :]
                print(kernel.__name__, i, _signal(kernel, SERIAL, False, *changed), flush=True)
    scratch = guards.Scratch(at_end)
    assert _fill(0, 5, np.arange(6.0)) == 2
    assert scratch.count == 1
    print("scratch", _signal(_fill, 0 if at_end else -1, 6, np.arange(6.0)))


def _signal(function, *arguments):
    """Of which a child dies that calls it, or 0."""
    child = os.fork()
    if child == 0:
        function(*arguments)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("at_end", [True, False], ids=["before a closed page", "after a closed page"])
def test_a_value_too_many_is_found(at_end):
    """In whichever array, also in one that a kernel makes for itself."""
    run = python(f"print_deaths({at_end})")
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 30
    assert [line for line in run.stdout.splitlines() if line.split()[-1] != str(int(signal.SIGSEGV))] == []
