"""The directories in which kernels are kept. Files appear there whole or not at all, even when several processes write
the same one.
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

from numba.core import config
from numba.misc.appdirs import AppDirs

from numbanorm.cpu.compiling.bytecode import CPU, code_digest
from numbanorm.cpu.compiling.filelock import locked
from numbanorm.cpu.compiling.trust import check_directory

SUFFIX = ".numbanorm"
_DAY = 24 * 60 * 60  # seconds
_MODE = 0o755  # of directories: whatever the umask, nobody else writes there, and whoever trusts this user may read


@functools.cache
def directories(kernels=CPU):
    """Where files of a package of kernels are looked for, and written if it can be: each a path; the first that can be
    written gets them.

    NUMBA_CACHE_DIR alone where it is set. Otherwise beside the sources, so that what an installation has compiled
    serves all its users; in the user's own cache; and in a directory for temporary files that is the user's own.
    Sources that are unpacked for one run, as by a program of a single file, come last: what lies there is soon gone.
    """
    name = f"numbanorm-{code_digest(kernels).hex()[:12]}"  # of the code, wherever it is installed
    if config.CACHE_DIR:
        return (Path(config.CACHE_DIR) / name,)
    package = Path(__file__).resolve().parents[2]
    sources = package / kernels.rpartition(".")[2] / "__pycache__"
    user = Path(AppDirs("numbanorm", appauthor=False).user_cache_dir) / name
    temporary = _temporary(name)
    found = (user, temporary, sources) if _is_unpacked_for_one_run(package) else (sources, user, temporary)
    return tuple(path for path in found if path.is_absolute())


def _temporary(name):
    try:
        return Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}"
    except (OSError, AttributeError):  # there is none; no os.geteuid on Windows
        return Path()


def _is_unpacked_for_one_run(package):
    roots = [getattr(sys, "_MEIPASS", None)]  # PyInstaller's
    with suppress(OSError):
        roots.append(tempfile.gettempdir())
    return any(package.is_relative_to(Path(root).resolve()) for root in roots if root)


def write(directory, name, content):
    """Put a file into a directory, which is made if need be. An OSError says why not."""
    _prepare(directory)
    _remove_remains(directory)
    part = directory / f"{name}.{uuid.uuid4().hex[:16]}"
    try:
        with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o644)) as file:
            file.write(content)
        os.replace(part, directory / name)
    finally:
        part.unlink(missing_ok=True)


def locked_to_write(name, kernels=CPU):
    """A context in which no other process makes a file of this name; whether one did until it began."""
    for directory in directories(kernels):
        with suppress(OSError):
            _prepare(directory)
            return locked(directory / f"{name}.lock")
    return nullcontext(False)


def is_writable(directory):
    """Whether files can be put there, which may make the directory first."""
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
    """Of processes that were killed as they wrote, or had a lock."""
    for path in directory.glob(f"*{SUFFIX}.*"):
        with suppress(OSError):
            if path.lstat().st_mtime < time.time() - _DAY:
                path.unlink()
