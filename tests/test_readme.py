"""The README's examples run and do what it says."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


def test_the_tests_behind_the_table_of_faults_exist():
    table = README.partition("<!-- faults -->")[2].partition("<!-- faults end -->")[0]
    rows = [line.split("|")[-2] for line in table.splitlines() if line.startswith("| ")][1:]
    sources = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")}
    every = "".join(sources.values())
    assert len(rows) >= 10
    for row in rows:
        tests = re.findall(r"`(test_\w+)`", row)
        linked = re.findall(r"\(tests/(test_\w+\.py)\)", row)
        assert tests or linked, row
        assert [name for name in tests if f"def {name}(" not in every] == []
        assert [name for name in linked if name not in sources] == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.splitlines()[1][:40])
def test_example_runs(source):
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.parametrize("source", re.findall(r"```text\n(import cupy\n.*?)```", README, re.DOTALL))
def test_example_of_a_gpu_runs(source, monkeypatch):
    """With arrays of a device that there is not, in CuPy's place."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    from tests import device

    cupy = ModuleType("cupy")
    cupy.float32, cupy.random = np.float32, SimpleNamespace(standard_normal=_on_a_device)
    cupy.asarray = device.to_device
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(device.DeviceArray, "__getitem__", _some_rows, raising=False)
    scope = {}
    with device.emulated():
        exec(compile(source, "README.md", "exec"), scope)
    normalized = {"y": 0, "scaled": 0} if "scaled" in scope else {"y": 1}  # over which axis
    for name, axis in normalized.items():
        found = device.to_host(scope[name])
        np.testing.assert_allclose(found.mean(axis), 0, atol=1e-5)
        np.testing.assert_allclose(found.std(axis), 1, atol=1e-4)


def _on_a_device(shape, dtype):
    from tests import device

    few = (64, shape[1] // 16)  # it takes its time
    return device.to_device(np.random.default_rng(0).standard_normal(few).astype(dtype))


def _some_rows(array, rows):
    from tests import device

    return device.to_device(
        device.to_host(array)[slice(*(None if n is None else n // 64 for n in (rows.start, rows.stop)))]
    )


def test_the_trainer_learns(capsys):
    trainer = next(source for source in EXAMPLES if "norm.backward" in source)
    scope = {}
    exec(compile(trainer, "README.md", "exec"), scope)
    assert float(capsys.readouterr().out) < 0.05 * scope["target"].var()
