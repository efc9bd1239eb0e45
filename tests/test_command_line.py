"""`python -m numbanorm`."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from numbanorm import __main__, _warmup, get_num_threads
from numbanorm.cpu.compiling import cache, places
from numbanorm.cpu.compiling.bytecode import code_digest
from numbanorm.cpu.compiling.numba_internals import this_machine
from numbanorm.cpu.engine import engines

# Before a script: the files of the cache that it asks for are listed in one that its first argument names.
ASKED = """
import atexit, json, pathlib, sys
from numbanorm.cpu.compiling.cache import KernelCache
asked, file_name = set(), KernelCache._file_name
def noted(*arguments):
    asked.add(file_name(*arguments))
    return file_name(*arguments)
KernelCache._file_name = noted
listed = pathlib.Path(sys.argv.pop(1))
atexit.register(lambda: listed.write_text(json.dumps(sorted(asked))))
"""
WARMUP = "import runpy; runpy.run_module('numbanorm', run_name='__main__')"
CALLS = """
import numpy as np, numbanorm
from itertools import product
from numba.core import event
from numbanorm._operations import OPERATIONS
from tests.examples import unmasked
x = np.random.default_rng(0).standard_normal((20, 30, 40)).astype("f4")
with event.install_recorder("numba:compile") as recorder:
    for operation, axis in product(OPERATIONS.values(), (-1, 1)):
        operation.function(**operation.arguments(x, axis, np.ones, optional=False))
        for switched in ({}, *({switch: True} for switch in operation.switches)):
            operation.function(**unmasked(operation, x, axis, np.ones), **switched)
    for layer in (numbanorm.LayerNorm(40), numbanorm.RMSNorm(40), numbanorm.BatchNorm(30)):
        layer.backward(layer(x))
        layer.eval().backward(layer(x))
    moments = numbanorm.Moments.of(x)
    sums = numbanorm.batch_norm_backward_reduce(x, x, moments.mean, moments.std())
    numbanorm.batch_norm_backward_apply(x, x, moments.mean, moments.std(), None, *sums, moments.count)
    x[0, 0, 0] = np.nan
    for scaler in (numbanorm.StandardScaler(), numbanorm.MinMaxScaler(copy=False)):
        scaler.fit_transform(x[0])
print(len(recorder.buffer))
"""


def python(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """The files of the cache that the command asked for, and what it said. It finds what other tests have compiled."""
    listed = tmp_path_factory.mktemp("warm") / "asked"
    output = python("-c", ASKED + WARMUP, str(listed), "warmup", "--dtype", "float32")
    return set(json.loads(listed.read_text())), output


def test_nothing_is_compiled_after_a_warmup(warm, tmp_path):
    """Whatever else is in the cache."""
    of_the_warmup, _ = warm
    assert python("-c", ASKED + CALLS, str(tmp_path / "asked")).strip() == "0"
    of_the_calls = set(json.loads((tmp_path / "asked").read_text()))
    assert len(of_the_calls) > 10
    assert of_the_calls - of_the_warmup == set()


def test_a_warmup_shows_what_it_does(warm):
    _, output = warm
    assert "float32 statistics and scalers" in output
    directory = next(path for path in places.directories() if cache.contents(path)[0])
    assert f"kernels in {directory}" in output.replace("\n", "")


def test_a_warmup_that_keeps_nothing_fails(monkeypatch):
    monkeypatch.setattr(_warmup, "calls", lambda dtype: {})
    monkeypatch.setattr(places, "directories", lambda: (Path(os.devnull),))
    monkeypatch.setattr(sys, "argv", ["numbanorm", "warmup"])
    with pytest.raises(SystemExit, match="NUMBA_CACHE_DIR"):
        __main__.main()


def test_info(tmp_path):
    output = python("-m", "numbanorm", "info", NUMBA_CACHE_DIR=str(tmp_path))
    found = {name: value.strip() for name, _, value in (line.partition(":") for line in output.splitlines())}
    assert list(found) == [
        *("numbanorm", "system", "CPU", "vectors", "last-level cache", "engine", "threads", "cache", "GPU", "CUDA"),
        *(["CUDA cache"] if find_spec("numba_cuda") else []),
    ]
    assert found["engine"] == engines.engine_name()
    assert int(found["threads"].partition(" ")[0]) == get_num_threads()
    assert found["cache"].startswith(str(tmp_path))
    assert "old or damaged" not in found["cache"]


def test_info_tells_what_is_set_wrongly():
    output = python("-m", "numbanorm", "info", NUMBANORM_NUM_THREADS="two")
    assert "error: NUMBANORM_NUM_THREADS: 'two', must be a whole number of at least 1" in output
    assert "error: NUMBANORM_ENGINE: 'steam'" in python("-m", "numbanorm", "info", NUMBANORM_ENGINE="steam")


def test_info_tells_why_the_cuda_package_cannot_be_used(tmp_path):
    """Though it is installed."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Spoiled:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numba.cuda': raise AttributeError('no types')\n"
        "sys.meta_path.insert(0, Spoiled())\n"
    )
    output = python("-m", "numbanorm", "info", PYTHONPATH=str(tmp_path))
    assert "AttributeError: no types" in output
    assert "CUDA cache" not in output
    assert "pip install -U 'numbanorm[cuda]'" in output


def test_info_counts_the_machine_code_for_gpus(tmp_path):
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    from numbanorm.cuda import cubins

    directory = tmp_path / f"numbanorm-{code_digest(cubins.SOURCES).hex()[:12]}"
    directory.mkdir()
    kept = cache._digest(b"entry\0cubin", cubins.SOURCES) + b"entry\0cubin"
    (directory / f"a-sm_80-{cubins.compiler()}.numbanorm").write_bytes(kept)
    (directory / f"a-sm_90-{cubins.compiler()}.numbanorm").write_bytes(kept)
    (directory / f"b-sm_90-{cubins.compiler()}.numbanorm").write_bytes(kept[:-1])
    (directory / "a-sm_90-of another compiler.numbanorm").write_bytes(kept)
    output = python("-m", "numbanorm", "info", NUMBA_CACHE_DIR=str(tmp_path))
    assert f"{directory}: 2 kernels, 2 old or damaged, 0.0 MB, writable" in output
    assert cache.contents(directory)[:2] == (0, 4)  # none is for this CPU


def test_info_tells_old_kernels_from_good_ones(tmp_path, monkeypatch):
    maker = cache._maker(this_machine())
    good, damaged = tmp_path / f"a-{maker}.numbanorm", tmp_path / f"b-{maker}.numbanorm"
    payload = b"what a kernel would be"
    good.write_bytes(cache._digest(payload) + payload)
    damaged.write_bytes(cache._digest(payload) + payload[:-1])
    assert cache.contents(tmp_path) == (1, 1, 2 * (32 + len(payload)) - 1)
    good.rename(tmp_path / "a-of another processor.numbanorm")
    assert cache.contents(tmp_path)[:2] == (0, 2)
    monkeypatch.setattr(cache, "code_digest", lambda package: b"of other code")
    assert cache.contents(tmp_path) == (0, 2, 2 * (32 + len(payload)) - 1)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners of files")
def test_info_tells_what_is_not_used(tmp_path):
    """Since others can write it: kernels there count as none."""
    name = f"a-{cache._maker(this_machine())}.numbanorm"
    (tmp_path / name).write_bytes(cache._digest(b"kernel") + b"kernel")
    assert (cache.contents(tmp_path)[:2], cache.state(tmp_path)) == ((1, 0), "writable")
    tmp_path.chmod(0o777)
    assert (cache.contents(tmp_path)[:2], cache.state(tmp_path)) == ((0, 1), "not used: others can write it")


@pytest.mark.parametrize("arguments", [[], ["cool"], ["warmup", "--dtype", "int8"]])
def test_what_it_does_not_know(arguments):
    with pytest.raises(subprocess.CalledProcessError) as error:
        python("-m", "numbanorm", *arguments)
    assert "usage: python -m numbanorm" in error.value.stderr
