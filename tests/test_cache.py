"""Compiled kernels kept on disk: never stale, never wrong, and no trouble where nothing can be kept."""

import compileall
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from numba.extending import is_jitted

import numbanorm
from numbanorm.cpu.compiling import bytecode, filelock, places

SOURCES = Path(numbanorm.__file__).parent
# A kernel that compiles quickly, and whose arithmetic is another file's: 0.9 * 1 + 0.1 * 2 * 3 = 1.5.
RUN = """
import numpy as np
from numba.core import event
from numbanorm.cpu.kernels.batches import update_running
running, nothing, none = np.ones(5), np.empty(0), np.empty(0, np.int64)
with event.install_recorder("numba:compile") as recorder:
    update_running(0.1, nothing, nothing, np.full(5, 2.0), 3.0, running, none, False)
print(running[0], "compiled" if recorder.buffer else "loaded")
"""


def run(command=RUN, path=None, errors=True, options=(), **environment):
    """What a process prints that runs the package in `path`; None unsets a variable."""
    given = {"PYTHONPATH": str(path or SOURCES.parent), "NUMBA_CACHE_DIR": None} | environment
    if path is not None:
        (path / "temporary").mkdir(exist_ok=True)
        given = {"TMPDIR": str(path / "temporary")} | given  # for the copy not to lie among temporary files
    variables = {name: value for name, value in (os.environ | given).items() if value is not None}
    arguments = [sys.executable, *options, *(["-W", "error"] if errors else []), "-c", command]
    process = subprocess.run(
        arguments, env=variables, cwd=path, capture_output=True, text=True, timeout=300, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip() + ("" if errors else process.stderr)


NAME = f"numbanorm-{bytecode.code_digest().hex()[:12]}"  # of directories for files of this code


def files(directory):
    return sorted(Path(directory).rglob("*.numbanorm"))


@pytest.fixture
def copy(tmp_path):
    """A directory with the package in it, as an installation has it."""
    shutil.copytree(SOURCES, tmp_path / "site" / "numbanorm", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def test_the_second_process_loads_what_the_first_compiled(copy):
    assert run(path=copy) == "1.5 compiled"
    assert [path.parent.name for path in files(copy)] == ["__pycache__"]
    assert run(path=copy) == "1.5 loaded"


def change(copy, name, old, new):
    """What kernels take from another file, whose size and time stay."""
    path = copy / "numbanorm" / name
    text = path.read_text()
    changed = text.replace(old, new)
    assert changed != text
    times = path.stat()
    path.write_text(changed)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


FORMULA = "_math.py", "(1.0 - momentum) * running", "(2.0 - momentum) * running"
LOOP = "cpu/kernels/channel_tiles.py", "at(batch, j) * correction))", "at(batch, j) + correction))"


@pytest.mark.parametrize(("cache", "changed", "expected"), [(None, FORMULA, 2.5), ("elsewhere", LOOP, 1.4)])
def test_a_change_in_any_file_is_compiled(copy, tmp_path, cache, changed, expected):
    """Where Numba's own cache goes by the file of the kernel alone."""
    environment = {"NUMBA_CACHE_DIR": cache and str(tmp_path / cache)}
    assert run(path=copy, **environment) == "1.5 compiled"
    change(copy, *changed)
    for path in (copy / "numbanorm").rglob("*.pyc"):  # Python goes by size and time
        path.unlink()
    assert run(path=copy, **environment) == f"{expected} compiled"
    assert run(path=copy, **environment) == f"{expected} loaded"
    assert len(files(tmp_path)) == (1 if cache is None else 2)  # directories there are named after the code


def test_byte_code_that_is_older_than_its_source(copy):
    """Python runs it, and kernels are compiled from it, until it is gone."""
    formulas = copy / "numbanorm" / "_math.py"
    old = Path(py_compile.compile(formulas, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH))
    change(copy, *FORMULA)
    assert run(path=copy) == "1.5 compiled"
    assert run(path=copy) == "1.5 loaded"
    old.unlink()
    assert run(path=copy) == "2.5 compiled"
    assert run(path=copy) == "2.5 loaded"


def without_sources(copy):
    """As byte code alone."""
    compileall.compile_dir(copy, quiet=1, legacy=True)
    for path in copy.rglob("*.py"):
        path.unlink()
    os.utime(copy / "numbanorm", (0, 0))  # as an installer may that makes the same of the same
    return copy


def archived(copy):
    return Path(shutil.make_archive(str(copy.with_name("archive")), "zip", copy))


@pytest.mark.parametrize("installed", [without_sources, archived])
def test_a_change_where_there_are_no_source_files(installed, copy, tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    place = shutil.copytree(copy, tmp_path / "place")
    path = installed(place)
    assert run(path=tmp_path, PYTHONPATH=str(path), **environment) == "1.5 compiled"
    assert run(path=tmp_path, PYTHONPATH=str(path), **environment) == "1.5 loaded"
    shutil.rmtree(place)
    change(copy, *FORMULA)
    shutil.copytree(copy, place)
    assert installed(place) == path
    assert run(path=tmp_path, PYTHONPATH=str(path), **environment) == "2.5 compiled"
    assert run(path=tmp_path, PYTHONPATH=str(path), **environment) == "2.5 loaded"


DAMAGE = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "of something else": lambda content: b"something else",
    "head alone": lambda content: content[:32],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_written_anew(damage, copy):
    assert run(path=copy) == "1.5 compiled"
    (path,) = files(copy)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert run(path=copy) == "1.5 compiled"
    assert run(path=copy) == "1.5 loaded"


def test_a_directory_in_the_place_of_a_file(copy, tmp_path):
    assert run(path=copy) == "1.5 compiled"
    (path,) = files(copy)
    path.unlink()
    path.mkdir()
    environment = {"XDG_CACHE_HOME": str(tmp_path / "own")}
    assert run(path=copy, **environment) == "1.5 compiled"
    assert run(path=copy, **environment) == "1.5 loaded"


def not_to_be_written(copy):
    """A file where the directory for caches would be: that stops the superuser too."""
    (copy / "numbanorm" / "cpu" / "__pycache__").write_text("")


def test_an_installation_that_cannot_be_written(copy, tmp_path):
    """The user's own cache takes its place."""
    not_to_be_written(copy)
    environment = {"XDG_CACHE_HOME": None, "HOME": str(tmp_path)}
    assert run(path=copy, **environment) == "1.5 compiled"
    assert [path.parent for path in files(tmp_path)] == [tmp_path / ".cache" / "numbanorm" / NAME]
    assert run(path=copy, **environment) == "1.5 loaded"


# As for a user id that the system knows nothing else of, in a container.
UNKNOWN_USER = """
import pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
"""


@pytest.mark.parametrize("home", [None, "/dev/null", "relative"])
def test_no_home_either(copy, tmp_path, home):
    """A directory for temporary files that is the user's own takes its place."""
    not_to_be_written(copy)
    environment = {"XDG_CACHE_HOME": None, "HOME": home, "TMPDIR": str(tmp_path)}
    assert run(UNKNOWN_USER + RUN, copy, **environment) == "1.5 compiled"
    (path,) = files(tmp_path)
    assert path.parent == tmp_path / f"{NAME}-{os.getuid()}"
    assert path.parent.stat().st_mode & 0o022 == 0
    assert run(UNKNOWN_USER + RUN, copy, **environment) == "1.5 loaded"


def test_nowhere_to_write_is_one_warning(copy):
    not_to_be_written(copy)
    twice = RUN + "update_running(0.1, nothing, nothing, np.full(5, 2.0), 3.0, np.ones(5, np.float32), none, False)"
    for environment in (
        {"XDG_CACHE_HOME": "/dev/null", "TMPDIR": str(copy / "numbanorm-0")},
        {"NUMBA_CACHE_DIR": "/dev/null"},
    ):
        hidden = "import tempfile; tempfile.tempdir = '/dev/null'\n"
        output = run(hidden + twice, copy, errors=False, **environment)
        assert output.startswith("1.5 compiled")
        assert output.count("RuntimeWarning: numbanorm compiles its kernels anew in every process") == 1
        assert output.count("Warning") == 1


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""


def test_a_full_disk_is_one_warning(copy, tmp_path):
    output = run(FULL_DISK + RUN, copy, errors=False, XDG_CACHE_HOME=str(tmp_path), TMPDIR=str(tmp_path))
    assert output.startswith("1.5 compiled")
    assert output.count("RuntimeWarning") == 1
    assert "File too large" in output
    assert [path for path in tmp_path.rglob("*numbanorm*") if ".numbanorm" in path.name] == []


@pytest.mark.parametrize("cache", [None, "elsewhere"])
def test_what_one_user_compiles_others_can_read(copy, tmp_path, cache):
    assert run(path=copy, NUMBA_CACHE_DIR=cache and str(tmp_path / cache)) == "1.5 compiled"
    (path,) = files(tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644 & ~umask
    assert path.parent.stat().st_mode & 0o777 == 0o755 & ~umask


def test_what_an_installation_has_compiled_is_read_only(copy, tmp_path):
    """And serves a user who has nowhere to write."""
    assert run(path=copy) == "1.5 compiled"
    nowhere = {"XDG_CACHE_HOME": "/dev/null", "HOME": "/dev/null"}
    assert run("import os; os.replace = None\n" + RUN, copy, **nowhere) == "1.5 loaded"


def test_many_cold_starts_at_once(copy):
    command = (
        "import numpy as np, numbanorm\n"
        "x = np.arange(20000.0).reshape(1000, 20)\n"
        "assert abs(numbanorm.layer_norm(x) - numbanorm.layer_norm(x[0])).max() < 1e-9\n"
        "print('right')"
    )
    environment = os.environ | {"PYTHONPATH": str(copy), "TMPDIR": str(copy.with_name("temporary"))}
    environment.pop("NUMBA_CACHE_DIR", None)
    copy.with_name("temporary").mkdir()
    starts = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", command],
            env=environment,
            cwd=copy,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(5)
    ]
    outputs = [start.communicate(timeout=300)[0] for start in starts]
    assert outputs == ["right\n"] * 5
    assert files(copy)
    assert all(
        path.name.endswith(".numbanorm")
        for path in (copy / "numbanorm" / "cpu" / "__pycache__").iterdir()
        if path.suffix != ".pyc"
    )


HELPER = "from numbanorm._math import scalar\n\n\n@scalar\ndef factor(x):\n    return 2.0 * x\n"
KERNEL = (
    "from numbanorm.cpu.deep.deeper.helper import factor\nfrom numbanorm.cpu.compiling.jit import launcher\n\n\n"
    "@launcher\ndef kernel(x):\n    return factor(x)\n"
)
RUN_IN_A_FOLDER = """
from numba.core import event
from numbanorm.cpu.deep.kernel import kernel
with event.install_recorder("numba:compile") as recorder:
    print(kernel(1.5), "compiled" if recorder.buffer else "loaded")
"""


def test_a_change_in_a_folder_below_is_compiled(copy):
    """Of a helper that another module's kernel holds."""
    folder = copy / "numbanorm" / "cpu" / "deep"
    (folder / "deeper").mkdir(parents=True)
    for path, text in {"__init__": "", "deeper/__init__": "", "deeper/helper": HELPER, "kernel": KERNEL}.items():
        (folder / f"{path}.py").write_text(text)
    assert run(RUN_IN_A_FOLDER, copy) == "3.0 compiled"
    assert run(RUN_IN_A_FOLDER, copy) == "3.0 loaded"
    (folder / "deeper" / "helper.py").write_text(HELPER.replace("2.0 *", "-3.0 *"))
    assert run(RUN_IN_A_FOLDER, copy) == "-4.5 compiled"
    assert run(RUN_IN_A_FOLDER, copy) == "-4.5 loaded"


def test_every_compiled_function_is_of_a_module_in_the_digest():
    found = {
        module.__name__
        for module in list(sys.modules.values())
        if module.__name__.partition(".")[0] == "numbanorm" and not module.__name__.startswith("numbanorm.cuda")
        for value in vars(module).values()
        if is_jitted(value) and value.__module__ == module.__name__
    }
    assert {"numbanorm._math", "numbanorm.cpu.kernels.rows", "numbanorm.cpu.vectors.simd"} <= found
    assert found <= bytecode.covered_modules()


def test_each_level_of_optimization_keeps_its_own(copy):
    assert run(path=copy) == "1.5 compiled"
    assert run(path=copy, options=["-OO"]) == "1.5 compiled"
    assert run(path=copy) == "1.5 loaded"
    assert run(path=copy, options=["-OO"]) == "1.5 loaded"


def test_what_one_installation_compiled_serves_another_of_the_same_code(copy, tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    assert run(path=copy, **environment) == "1.5 compiled"
    moved = copy.rename(tmp_path / "elsewhere")
    assert run(path=moved, **environment) == "1.5 loaded"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [NAME]


@pytest.mark.parametrize("program", ["", "import sys; sys.frozen, sys._MEIPASS = True, {place!r}\n"])
def test_a_program_that_unpacks_itself_at_each_start(program, copy, tmp_path):
    """Among the temporary files or where PyInstaller is told to: what it compiled outlasts that directory."""
    unpacked = tmp_path / "unpacked"
    environment = {"XDG_CACHE_HOME": str(tmp_path / "own")}
    environment |= {} if program else {"TMPDIR": str(tmp_path)}
    for number, expected in enumerate(("1.5 compiled", "1.5 loaded")):
        place = unpacked / f"_MEI{number}"
        shutil.copytree(copy, place)
        assert run(program.format(place=str(place)) + RUN, place, **environment) == expected
        shutil.rmtree(place)
    assert [path.parent for path in files(tmp_path)] == [tmp_path / "own" / "numbanorm" / NAME]


def test_a_file_that_keeps_its_readers_waiting(copy):
    """A FIFO in a kernel's place is not opened as one; the kernel takes its place."""
    assert run(path=copy) == "1.5 compiled"
    (path,) = files(copy)
    path.unlink()
    os.mkfifo(path)
    assert run(path=copy) == "1.5 compiled"
    assert run(path=copy) == "1.5 loaded"


def test_remains_of_killed_processes_go(tmp_path):
    """Parts and locks, once no process can be at them any more."""
    others = ("a.numbanorm", "a.txt", "b.numbanorm.txt.d")
    (tmp_path / others[2]).mkdir()
    for name in (*others[:2], "a.numbanorm.0123", "a.numbanorm.lock", "b.numbanorm.0123", "b.numbanorm.lock"):
        (tmp_path / name).write_bytes(b"")
    for path in tmp_path.iterdir():
        if path.name.startswith("a."):
            os.utime(path, (time.time() - 25 * 60 * 60,) * 2)
    places.write(tmp_path, "c.numbanorm", b"kernel")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "b.numbanorm.0123", "b.numbanorm.lock", "c.numbanorm"}
    assert (tmp_path / "c.numbanorm").read_bytes() == b"kernel"


@contextmanager
def at_the_start(cache):
    """A process that is about to call a first kernel, and does it when it is given a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.replace("with event", "print(flush=True); input()\nwith event")],
        env=os.environ | {"PYTHONPATH": str(SOURCES.parent), "NUMBA_CACHE_DIR": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(filelock.fcntl is None, reason="no locks of files")
@pytest.mark.parametrize("is_killed", [False, True])
def test_one_process_compiles_and_another_waits_for_it(is_killed, tmp_path):
    """Unless it is killed: then its lock is free."""
    with at_the_start(tmp_path) as first, at_the_start(tmp_path) as second:
        first.stdin.write("\n")
        first.stdin.flush()
        wait_for_a_lock(tmp_path)
        if is_killed:
            first.send_signal(signal.SIGSTOP)  # before it can end
        second.stdin.write("\n")
        second.stdin.flush()
        if is_killed:
            first.kill()
        assert second.stdout.readline() == f"1.5 {'compiled' if is_killed else 'loaded'}\n"
        assert first.stdout.readline() == ("" if is_killed else "1.5 compiled\n")
    assert [path.name for path in tmp_path.rglob("*.numbanorm*")] == [path.name for path in files(tmp_path)]


def wait_for_a_lock(directory):
    end = time.monotonic() + 60
    while not list(directory.rglob("*.lock")):
        assert time.monotonic() < end
        time.sleep(0.005)
