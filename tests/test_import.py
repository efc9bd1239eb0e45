"""What importing the package costs and needs."""

import inspect
import os
import subprocess
import sys

import pytest

import numbanorm


def python(command, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", command, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


def test_nothing_is_imported_beside_numpy_numba_and_llvmlite():
    command = (
        "import sys, numpy, llvmlite.binding, numba, numba.extending; known = set(sys.modules)\n"
        "import numbanorm; print(*set(sys.modules) - known)"
    )
    new = set(python(command).split())
    own = {name for name in new if name.partition(".")[0] in ("numbanorm", "numpy", "numba", "llvmlite")}
    assert "numbanorm.cpu.kernels.rows" in own
    assert not new - own - set(sys.stdlib_module_names)
    assert not {name for name in own if name.startswith("numba.cuda")}


def test_arrays_on_a_gpu_import_nothing_of_scikit_learn():
    """The first call of a function on one imports the first of these, that of `Moments.of` the other."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    command = (
        "import sys; import numbanorm._call.device, numbanorm._scaling.device_tables\n"
        "print([name for name in sys.modules if name.startswith('sklearn')])"
    )
    assert python(command).strip() == "[]"


def test_nothing_is_compiled_at_import():
    command = (
        "from numba.core import event\n"
        "with event.install_recorder('numba:compile') as recorder:\n"
        "    import numbanorm, numbanorm.cpu.kernels.rows, numbanorm.cpu.kernels.batches\n"
        "print(len(recorder.buffer))"
    )
    assert python(command).strip() == "0"


@pytest.mark.parametrize("name", [name for name in numbanorm.__all__ if callable(getattr(numbanorm, name))])
def test_every_public_name_is_documented(name):
    """With all sections that its kind needs; the examples run as tests of their own."""
    text = getattr(numbanorm, name).__doc__
    if name in ("Forward", "Gradients", "GradientSums", "RMSForward", "RMSGradients"):
        assert text
        return
    function = getattr(numbanorm, name)
    signature = inspect.signature(function)
    sections = ["Raises", "Examples"]
    sections += ["Parameters"] if signature.parameters else []
    sections += ["Returns"] if inspect.isfunction(function) and signature.return_annotation is not None else []
    assert not [section for section in sections if f"{section}\n    ---" not in text]
    assert not name.startswith(("layer", "batch", "Layer", "Batch")) or name == "layer_norm_forward" or "rstd" in text


@pytest.mark.parametrize("how", ["environment", "config"])
def test_kernels_are_compiled_where_jit_is_disabled(how, tmp_path):
    """NUMBA_DISABLE_JIT is for the user's own functions, which may call kernels from Python."""
    command = """
import os, sys
if sys.argv[1:] == ["environment"]:
    os.environ["NUMBA_DISABLE_JIT"] = "1"
import numba
if sys.argv[1:] == ["environment"]:
    os.environ["NUMBA_OPT"] = "3"  # Numba sees the change, and reads all variables again
else:
    numba.config.DISABLE_JIT = 1
import numpy as np
import numbanorm
from numbanorm.cpu.kernels.batches import update_running

@numba.njit
def own(running):
    nothing = np.empty(0)
    update_running(0.1, nothing, nothing, np.full(5, 2.0), 3.0, running, np.empty(0, np.int64), False)
    return type(own)

running = np.ones(5)
print(own(running).__name__, running[0], numba.config.DISABLE_JIT, numbanorm.get_num_threads() > 0)
"""
    assert python(command, how, NUMBA_CACHE_DIR=str(tmp_path)) == "function 1.5 1 True\n"
