"""The stages of `bench.first_contact`, on the emulated device and, where they are of the CPU, on this one."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import numbanorm
from bench import gpu_device, layernorm
from bench.cases import Case, Shape
from bench.first_contact import bandwidth, correctness, cpu, small
from bench.first_contact.record import FILE
from bench.first_contact.rehearsal import FAMILIES, emulated
from bench.first_contact.steps import Lacking, NoDevice
from numbanorm.cuda import cuda
from tests import gpu_arrays

NEVER = float("inf")


def _no_library():
    raise RuntimeError("libnvvm.so is nowhere")


@pytest.mark.parametrize(
    ("is_available", "error", "told"),
    [
        (_no_library, None, "no GPU: RuntimeError: libnvvm.so is nowhere"),
        (lambda: False, None, "no GPU: NVVM is not installed: pip install 'numbanorm[cuda]'"),
        (lambda: False, "\nno driver\nat all", "no GPU: no driver"),
        (lambda: True, None, ""),
    ],
)
def test_why_there_is_no_gpu(is_available, error, told, monkeypatch):
    monkeypatch.setattr(cuda, "is_available", is_available)
    monkeypatch.setattr(cuda, "cuda_error", lambda: error)
    assert gpu_device.no_gpu() == told


def test_a_numpy_that_numba_cuda_does_not_know_is_told_before_anything_is_compiled():
    """By the first step of every stage that needs a GPU."""
    program = """
import numba.np.arrayobj  # Numba's own asks for the version
import numpy
del numpy.row_stack
from bench.first_contact import bandwidth, correctness, host, probe, sanitizer
from bench.first_contact.steps import Lacking
for module, part in (probe, ""), (correctness, "rows"), (sanitizer, "memcheck"), (bandwidth, ""), (host, ""):
    try:
        next(iter(module.steps(part, 0.0).values()))()
    except Lacking as lacking:
        print(lacking)
"""
    root = Path(__file__).parents[1]
    printed = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    lines = printed.stdout.splitlines()
    assert len(lines) == 5
    for line in lines:
        assert line.startswith("no GPU: ImportError: arrays there need the package numba-cuda")
        assert "NumPy below 2.5" in line


@pytest.fixture
def rehearsed():
    with emulated():
        yield


SHORT = ["rows", "scalers"]
LONG = ["RMS normalization", "rows of channels", "masked", "frozen", "moments", "libraries"]  # to compile


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.parametrize("family", [*SHORT, *(pytest.param(name, marks=pytest.mark.nightly) for name in LONG)])
def test_right_results_are_right(family):
    for step in correctness.steps(family, NEVER).values():
        assert step() == {"ok": True}
    assert correctness.steps(family, NEVER)


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.parametrize("family", [*SHORT, pytest.param("moments", marks=pytest.mark.nightly)])
def test_wrong_results_are_wrong(family, monkeypatch):
    """The inputs of the device are those of the reference but for one value."""
    right = correctness.device_of("numba")

    def spoiled(a):
        a = a.copy()
        a.flat[0] += np.float32(0.5)
        return a

    device = SimpleNamespace(
        wrap=lambda function: lambda x, *more, **options: right.wrap(function)(spoiled(x), *more, **options),
        to_device=lambda a: right.to_device(spoiled(a)),
    )
    monkeypatch.setattr(correctness, "device_of", lambda name: device)
    (step,) = correctness.steps(family, NEVER).values()
    with pytest.raises(AssertionError):
        step()


def test_each_library_of_the_cases_is_known_and_told_if_it_is_lacking(monkeypatch):
    monkeypatch.setattr(gpu_device, "no_gpu", str)
    cases = [case for family in correctness.FAMILIES.values() for case in family]
    assert {case.library for case in cases} == {*gpu_arrays.LIBRARIES}
    monkeypatch.setattr(gpu_arrays.CuPy, "lacking", lambda self: "CuPy is not installed")
    with pytest.raises(Lacking, match="CuPy is not installed"):
        correctness.device_of("cupy")
    monkeypatch.setattr(gpu_device, "no_gpu", lambda: "no GPU: no driver")
    with pytest.raises(NoDevice, match="no driver"):
        correctness.device_of("numba")


@pytest.mark.usefixtures("rehearsed")
def test_the_small_cases_end_in_a_status(monkeypatch, capsys):
    monkeypatch.setattr(correctness, "FAMILIES", {"rows": FAMILIES["rows"]})
    assert small.main(NEVER) == 0
    assert "1 cases are right, 0 wrong, 0 not reached" in capsys.readouterr().out
    assert small.main(0.0) == 0
    assert "0 cases are right, 0 wrong, 1 not reached" in capsys.readouterr().out
    monkeypatch.setitem(correctness.CHECKS, "layer_norm", _wrong)
    assert small.main(NEVER) == 1
    assert "off by 3" in capsys.readouterr().out


def _wrong(*arguments):
    raise AssertionError("off by 3")


@pytest.mark.usefixtures("rehearsed")
def test_bandwidth_and_host_time_every_system(monkeypatch):
    monkeypatch.setattr(bandwidth, "FAMILIES", ("layernorm",))
    steps = bandwidth.steps("", NEVER)
    assert list(steps) == [
        *("clocks", "layer_norm_forward, small 6 x 64", "layer_norm_backward, small 6 x 64", "clocks at the end")
    ]
    found = steps["layer_norm_forward, small 6 x 64"]()
    assert set(found["us"]) == {"numbanorm", "out=", "copy"}
    copy, own = found["us"]["copy"][0], found["us"]["numbanorm"][0]
    assert 0 < copy < own
    assert 0 < found["of_copy"]["numbanorm"] < 1
    assert found["predicted_of_copy"] == 1.0
    host = bandwidth.host_steps("", NEVER)["layer_norm, tiny 6 x 64"]()
    assert set(host["us"]) == {"numbanorm", "out=", "empty kernel"}


def test_bandwidth_has_each_operation_on_each_shape():
    """Those of a family together, and the families in turn."""
    steps = list(bandwidth.steps("", NEVER))
    firsts = {
        "layer_norm_forward, BERT 8192 x 768": ["layer_norm_backward, BERT 8192 x 768"],
        "rms_norm_forward, Llama 8192 x 4096": ["rms_norm_backward, Llama 8192 x 4096"],
        "batch_norm_forward, ResNet-50 32 x 256 x 56 x 56, axis 1": [
            f"{name}, ResNet-50 32 x 256 x 56 x 56, axis 1" for name in ("batch_norm_backward", "batch_norm")
        ],
    }
    places = [steps.index(first) for first in firsts]
    for place, others in zip(places, firsts.values(), strict=True):
        assert steps[place + 1 : place + 1 + len(others)] == others
    assert places[0] == 1
    assert max(places) < steps.index("layer_norm_forward, large 16384 x 4096")
    timed = sum(len(cases) for family in bandwidth.FAMILIES for cases in bandwidth._of_family(family))
    assert len(steps) == 2 + timed
    for stem, shapes, count in ("layer", bandwidth.LAYER_NORM, 2), ("batch", bandwidth.BATCH_NORM, 3):
        assert sum(step.startswith(f"{stem}_norm") for step in steps) == count * len(shapes)


def test_the_cpu_is_timed_with_as_many_threads_as_it_says(monkeypatch):
    used = []
    monkeypatch.setattr(cpu, "time_calls", _spy(cpu.time_calls, lambda: used.append(numbanorm.get_num_threads())))
    before = numbanorm.get_num_threads()
    found = cpu.time_of(Case(layernorm.OPERATIONS[1], Shape("small", (64, 768), -1)), 1)
    assert used == [1]
    assert numbanorm.get_num_threads() == before
    assert found["threads"] == 1
    assert found["gb_per_s"] == pytest.approx(2 * 64 * 768 * 4 / found["ms"]["out="] / 1e6, rel=0.1)
    assert found["of_ceiling"]["out="] > 0


def _spy(function, tell):
    def call(*arguments):
        tell()
        return function(*arguments)

    return call


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [2, 1]), (3, [3, 1, 2]), (16, [16, 1, 8, 4, 2]), (20, [20, 1, 16, 8, 4, 2])]
)
def test_all_threads_and_one_come_first(most, counts):
    assert cpu.thread_counts(most) == counts


@pytest.mark.nightly
def test_a_rehearsal_of_the_command(tmp_path):
    """In processes of its own, on the emulated device."""
    command = [sys.executable, "-m", "bench.first_contact", "--emulated", "--budget", "2000", "--out", str(tmp_path)]
    stages = ["probe", "correctness", "sanitizer", "bandwidth", "host"]
    subprocess.run([*command, *stages], cwd=Path(__file__).parents[1], check=True)
    found = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert {line["stage"] for line in found if line.get("ok")} == {"correctness", "bandwidth", "host"}
    assert not [line for line in found if line.get("ok") is False]
