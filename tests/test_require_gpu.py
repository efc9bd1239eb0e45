"""`pytest -m gpu --require-gpu` fails where nothing ran on a GPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.gpu
def test_one():
    {on_a_gpu}

@pytest.mark.gpu
@pytest.mark.skip("no GPU: the driver is missing")
def test_other(): pass

def test_of_the_cpu(): pass
"""
SETTINGS = "[pytest]\naddopts = -ra -p no:cacheprovider\nmarkers = gpu\n"
ROOT = Path(__file__).parents[1]
WITHOUT_PLUGINS = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # which take longer than all else
WITHOUT_PLUGINS |= {"PYTHONPATH": str(ROOT)}  # where `conftest` finds what it imports


def run(directory, on_a_gpu, *options):
    """The exit status, and what is said, of a run with the tests' own `conftest`."""
    shutil.copy(Path(__file__).parent / "conftest.py", directory)
    (directory / "test_some.py").write_text(TESTS.format(on_a_gpu=on_a_gpu))
    (directory / "pytest.ini").write_text(SETTINGS)
    command = [sys.executable, "-m", "pytest", *options]
    found = subprocess.run(command, cwd=directory, env=WITHOUT_PLUGINS, capture_output=True, text=True)
    return found.returncode, found.stdout


SKIPPED, PASSED = "pytest.skip('no GPU: NVVM is missing')", "pass"


def test_skipped_tests_are_a_failure(tmp_path):
    status, output = run(tmp_path, SKIPPED, "-m", "gpu", "--require-gpu")
    assert status == 1
    assert "no GPU: NVVM is missing" in output
    assert "--require-gpu: no test has passed on a GPU" in output
    assert run(tmp_path, SKIPPED, "-m", "gpu")[0] == 0


def test_skipped_tests_of_several_processes_are_a_failure(tmp_path):
    assert run(tmp_path, SKIPPED, "-m", "gpu", "--require-gpu", "-p", "xdist", "-n", "2")[0] == 1


def test_one_that_passes_is_enough(tmp_path):
    assert run(tmp_path, PASSED, "-m", "gpu", "--require-gpu", "-p", "xdist", "-n", "1")[0] == 0


def test_tests_of_the_cpu_do_not_count(tmp_path):
    assert run(tmp_path, PASSED, "-m", "not gpu", "--require-gpu")[0] == 1


def test_no_tests_are_a_failure(tmp_path):
    assert run(tmp_path, PASSED, "-k", "nothing", "--require-gpu")[0] == 1
