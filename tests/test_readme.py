"""The examples of the README and of docs/ run, and do what is said there."""

import re
import sys
from inspect import Signature, signature
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from numbanorm._operations import OPERATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS = re.compile(r"^(?:import|from) (torch|safetensors)\b", re.MULTILINE)  # which not every reader has


def examples():
    """Each with the place of its first line, also in its traceback: so many empty lines before it."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        for found in PYTHON.finditer(text):
            lines = text.count("\n", 0, found.start(1))
            yield pytest.param("\n" * lines + found[1], name, id=f"{name}:{lines + 1}")


EXAMPLES = list(examples())


def run(source, name):
    scope = {}
    exec(compile(source, name, "exec"), scope)
    return scope


def test_there_are_examples():
    assert {"README.md", "docs/layers.md"} <= {name for _, name in (example.values for example in EXAMPLES)}


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
@pytest.mark.parametrize(("source", "name"), EXAMPLES)
def test_example_runs(source, name):
    for package in NEEDS.findall(source):
        pytest.importorskip(package, reason=f"{package} is not installed")
    run(source, name)


@pytest.mark.parametrize("source", re.findall(r"```text\n(import cupy\n.*?)```", README, re.DOTALL))
def test_example_of_a_gpu_runs(source, monkeypatch):
    """With arrays of a device that there is not, in CuPy's place."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    from tests import emulator

    cupy = ModuleType("cupy")
    cupy.float32, cupy.random = np.float32, SimpleNamespace(standard_normal=_on_a_device)
    cupy.asarray = emulator.to_device
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(emulator.DeviceArray, "__getitem__", _some_rows, raising=False)
    with emulator.emulated():
        scope = run(source, "README.md")
    normalized = {"y": 0, "scaled": 0} if "scaled" in scope else {"y": 1}  # over which axis
    for name, axis in normalized.items():
        found = emulator.to_host(scope[name])
        np.testing.assert_allclose(found.mean(axis), 0, atol=1e-5)
        np.testing.assert_allclose(found.std(axis), 1, atol=1e-4)


def _on_a_device(shape, dtype):
    from tests import emulator

    few = (64, shape[1] // 16)  # it takes its time
    return emulator.to_device(np.random.default_rng(0).standard_normal(few).astype(dtype))


def _some_rows(array, rows):
    from tests import emulator

    return emulator.to_device(
        emulator.to_host(array)[slice(*(None if n is None else n // 64 for n in (rows.start, rows.stop)))]
    )


TRAINERS = [example for example in EXAMPLES if "\ntarget = " in example.values[0]]


@pytest.mark.parametrize(("source", "name"), TRAINERS)
def test_the_trainer_learns(source, name, capsys):
    """All of the target's variance but 5 %: the second leaves 2, which its norm hides: mean and size of each row."""
    target = run(source, name)["target"]
    assert float(capsys.readouterr().out) < 0.05 * target.var()


def test_there_are_trainers():
    assert ["zero_grad()" in source for source, _ in (trainer.values for trainer in TRAINERS)] == [True, True]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda operation: operation.name)
def test_the_table_of_functions(operation):
    """It has each operation with its signature and its results."""
    given = signature(operation.function)
    bare = [one.replace(annotation=Signature.empty) for one in given.parameters.values()]
    called = f"{operation.name}{given.replace(parameters=bare, return_annotation=Signature.empty)}".replace("e-0", "e-")
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{operation.name}(")]
    results = ", ".join(operation.results)
    assert row.startswith(f"| `{called}` | `{f'({results})' if len(operation.results) > 1 else results}`"), called
