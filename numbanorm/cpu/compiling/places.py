"""Choose the directories in which compiled kernels are kept, and write files there.

A file appears there whole or not at all, even when several processes write the same one.
"""

import errno
import functools
import os
import sys
import tempfile
import time
import uuid
from contextlib import nullcontext, suppress
from pathlib import Path

from numbanorm.cpu.compiling.bytecode import CPU, code_digest
from numbanorm.cpu.compiling.filelock import locked
from numbanorm.cpu.compiling.numba_internals import config, user_cache_directory
from numbanorm.cpu.compiling.trust import check_directory

SUFFIX = ".numbanorm"
_DAY = 24 * 60 * 60  # seconds
_MODE = 0o755  # of new directories, whatever the umask: others may read them, and nobody else may write


@functools.cache
def directories(package=CPU):
    """Return the paths in which kernels of a package are looked for, in this order.

    The first writable one gets new kernels. Where NUMBA_CACHE_DIR is set, it is the only one. Otherwise there are
    three. Beside the sources, kernels serve all users of the installation. The user's own cache follows, then a
    directory of the user's for temporary files. Sources that were unpacked for one run come last, as in a program of a
    single file, because they are soon deleted.
    """
    name = f"numbanorm-{code_digest(package).hex()[:12]}"  # the same for the same code, wherever it is installed
    if config.CACHE_DIR:
        return (Path(config.CACHE_DIR) / name,)
    installation = Path(__file__).resolve().parents[2]
    sources = installation / package.rpartition(".")[2] / "__pycache__"
    user = Path(user_cache_directory("numbanorm")) / name
    temporary = _temporary(name)
    found = (user, temporary, sources) if _is_unpacked_for_one_run(installation) else (sources, user, temporary)
    return tuple(path for path in found if path.is_absolute())


def _temporary(name):
    try:
        return Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}"
    except (OSError, AttributeError):  # no directory for temporary files; no os.geteuid on Windows
        return Path()


def _is_unpacked_for_one_run(package):
    roots = [getattr(sys, "_MEIPASS", None)]  # PyInstaller's
    with suppress(OSError):
        roots.append(tempfile.gettempdir())
    return any(package.is_relative_to(Path(root).resolve()) for root in roots if root)


def write(directory, name, content):
    """Write a file into a directory, which is created if need be. Raise an OSError if that is not possible."""
    _prepare(directory)
    _remove_remains(directory)
    part = directory / f"{name}.{uuid.uuid4().hex[:16]}"
    try:
        with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o644)) as file:
            file.write(content)
        os.replace(part, directory / name)
    finally:
        part.unlink(missing_ok=True)


def locked_to_write(name, package=CPU):
    """Return a context in which no other process writes a file of this name.

    The context yields whether another process wrote it before.
    """
    for directory in directories(package):
        with suppress(OSError):
            _prepare(directory)
            return locked(directory / f"{name}.lock")
    return nullcontext(False)


def is_writable(directory):
    """Return whether files can be written there, after the directory is created if need be."""
    existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
    return existing.is_dir() and os.access(existing, os.W_OK)


def _prepare(directory):
    if not is_writable(directory):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    check_directory(directory)
    for path in reversed((directory, *directory.parents)):
        if not path.exists():
            path.mkdir(_MODE, exist_ok=True)
    check_directory(directory)


def _remove_remains(directory):
    """Delete the files of processes that were killed while they wrote or held a lock."""
    for path in directory.glob(f"*{SUFFIX}.*"):
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - _DAY:
                path.unlink()
