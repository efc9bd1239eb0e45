"""Machine code of CUDA kernels kept on disk: compiled once, and never that of another kernel, GPU or source."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

import numbanorm
from numbanorm.cpu.compiling import bytecode, cache, places
from numbanorm.cuda import compiling, cubins
from numbanorm.cuda.kernels import channels, ways
from numbanorm.cuda.kernels.copies import strided_copy
from tests.kernels import every_kernel

KERNEL, CAPABILITY = strided_copy(types.float32, types.float32, 1), (9, 0)


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What is compiled from now on; kept in an empty directory."""
    asked = []

    def compile(kernel, cc):
        asked.append((kernel, cc))
        return f"cubin {len(asked)}".encode() + b"\0", f"entry {len(asked)}"

    monkeypatch.setattr(compiling, "compile", compile)
    for module in (cache, places):
        monkeypatch.setattr(module, "directories", lambda package: (tmp_path,))
    return asked


def files(directory):
    return sorted(Path(directory).rglob("*.numbanorm"))


def test_what_is_kept_is_loaded(compiled, tmp_path):
    assert [cubins.cubin_of(KERNEL, CAPABILITY) for _ in range(3)] == [(b"cubin 1\0", "entry 1")] * 3
    assert compiled == [(KERNEL, CAPABILITY)]
    (path,) = files(tmp_path)
    assert path.name == cubins.file_name(KERNEL, CAPABILITY)
    assert path.name.startswith("numbanorm.cuda.kernels.copies.strided_copy-")


def test_each_kernel_and_capability_has_its_own(compiled, tmp_path):
    asked = [
        (kernel, cc) for kernel in (KERNEL, strided_copy(types.float32, types.float32, 2)) for cc in ((8, 0), (9, 0))
    ]
    found = [cubins.cubin_of(*one) for one in asked]
    assert len(set(found)) == len(files(tmp_path)) == 4
    assert compiled == asked
    assert [cubins.cubin_of(*one) for one in asked] == found


def test_no_two_kernels_have_one_name():
    kernels = {case.kernel for case in every_kernel()}
    assert len({cubins.file_name(kernel, CAPABILITY) for kernel in kernels}) == len(kernels) > 200


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[:-1],
    "one bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of something else": lambda content: b"something else",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_compiled_anew(damage, compiled, tmp_path):
    cubins.cubin_of(KERNEL, CAPABILITY)
    (path,) = files(tmp_path)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert [cubins.cubin_of(KERNEL, CAPABILITY) for _ in range(2)] == [(b"cubin 2\0", "entry 2")] * 2


def test_other_versions_have_their_own_files(compiled, tmp_path, monkeypatch):
    for version in ("1.0", "1.1", "1.0"):
        monkeypatch.setattr(compiling, "version", lambda package, version=version: version)
        cubins.compiler.cache_clear()
        cubins.cubin_of(KERNEL, CAPABILITY)
    cubins.compiler.cache_clear()
    assert len(files(tmp_path)) == len(compiled) == 2


def test_a_kernel_without_a_name_is_not_kept(compiled, tmp_path):
    nameless = compiling.Kernel(KERNEL.function, KERNEL.argument_types)
    assert [cubins.cubin_of(nameless, CAPABILITY) for _ in range(2)] == [
        (b"cubin 1\0", "entry 1"),
        (b"cubin 2\0", "entry 2"),
    ]
    assert files(tmp_path) == []


def test_another_process_that_was_at_it_has_compiled_for_this_one(compiled, monkeypatch):
    def locked_to_write(name, package):
        cache.save(name, b"its entry\0its cubin", package)
        return nullcontext(True)

    monkeypatch.setattr(cubins, "locked_to_write", locked_to_write)
    assert cubins.cubin_of(KERNEL, CAPABILITY) == (b"its cubin", "its entry")
    assert compiled == []


def test_a_kernel_is_named_after_all_that_it_is_made_of():
    name = channels.piece_moments(types.float32, 1, ways.columns(1, False), types.float64).name
    assert name == f"{channels.__name__}.piece_moments(float32, 1, columns(1, False), float64)"
    with pytest.raises(AttributeError, match="name"):
        compiling.factory(lambda function: KERNEL)(lambda: None)


RUN = """
import sys
from numba import types
from numbanorm.cuda import compiling, cubins
from numbanorm.cuda.kernels.copies import strided_copy
from tests.compiled import pretended_device
plain, asked = compiling.compile, []
compiling.compile = lambda *given: asked.append(given) or plain(*given)
with pretended_device((9, 0)):
    cubin, name = cubins.cubin_of(strided_copy(types.float32, types.float32, 1), (9, 0))
assert cubin.startswith(b"\\x7fELF") and name.encode() in cubin, name
print("compiled" if asked else "loaded")
"""


def run(copy):
    variables = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{Path(__file__).parents[1]}"}
    variables.pop("NUMBA_CACHE_DIR", None)
    variables["TMPDIR"] = str(copy.parent / "temporary")  # the copy must not seem to be unpacked for one run
    command = [sys.executable, "-W", "error", "-c", RUN]
    process = subprocess.run(command, env=variables, cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_another_process_loads_what_one_compiled_until_the_source_changes(tmp_path):
    """With the real compiler: what is kept is machine code, and holds the kernel by its name."""
    copy = tmp_path / "site"
    (tmp_path / "temporary").mkdir()
    source = Path(numbanorm.__file__).parent
    shutil.copytree(source, copy / "numbanorm", ignore=shutil.ignore_patterns("__pycache__"))
    assert [run(copy), run(copy)] == ["compiled", "loaded"]
    (path,) = files(copy)
    assert path.parent == copy / "numbanorm" / "cuda" / "__pycache__"
    formulas = copy / "numbanorm" / "_math.py"
    formulas.write_text(formulas.read_text().replace("(1.0 - momentum) * running", "(2.0 - momentum) * running"))
    assert [run(copy), run(copy)] == ["compiled", "loaded"]


def test_the_digest_covers_all_that_kernels_are_compiled_from():
    covered = bytecode.covered_modules(cubins.SOURCES)
    assert {"numbanorm._math", "numbanorm.cuda.kernels.rows", "numbanorm.cuda.vectors.simd"} <= covered
    for case in every_kernel():
        assert case.kernel.function.__module__ in covered
