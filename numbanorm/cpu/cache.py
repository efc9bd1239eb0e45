"""Machine code kept from process to process: compiled once, and never served to other code than it was compiled from.

A file holds one function for one signature, processor and version of what compiles it, all of which its name tells. It
begins with a digest of its payload and of the byte code of all kernels, since the code of one holds that of helpers
from other files. A file that is damaged, cut short or of other code is as good as none, and is written anew.
"""

import errno
import functools
import hashlib
import os
import pickle
import platform
import stat
import tempfile
import uuid
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import llvmlite
import numba
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

from numbanorm.cpu.bytecode import code_digest

_SUFFIX = ".numbanorm"
_DIGEST_BYTES = 32
_warned = False


class KernelCache(NullCache):
    """The files of one function, as its dispatcher asks for them."""

    def __init__(self, function):
        self._name = f"{function.__module__}.{function.__qualname__}"

    def load_overload(self, sig, target_context):
        """The function compiled for a signature, or None."""
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for directory in directories():
            payload = _payload(directory / name) if _is_safe(directory) else None
            if payload is not None:
                try:
                    return CompileResult._rebuild(target_context, *pickle.loads(payload))
                except Exception:  # what the digest does not cover: it is compiled, and written anew
                    continue
        return None

    def save_overload(self, sig, data):
        """Keep a function compiled for a signature, where that can be."""
        payload = dumps(data._reduce())
        name, refusals = self._file_name(sig, data.codegen), []
        for directory in directories():
            try:
                return _write(directory, name, _digest(payload) + payload)
            except OSError as error:
                refusals.append(f"{directory} ({error.strerror})")
        _warn_once(refusals)

    def _file_name(self, sig, codegen):
        signature = hashlib.sha256(repr(sig).encode()).hexdigest()[:16]
        return f"{self._name}-{signature}-{_maker(codegen)}{_SUFFIX}"


def _maker(codegen):
    """What compiles, for which processor, and how, in short."""
    versions = numba.__version__, llvmlite.__version__, platform.python_version(), EXTENSION_SUFFIXES[0]
    options = config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT
    return hashlib.sha256(repr((codegen.magic_tuple(), versions, options)).encode()).hexdigest()[:16]


def _payload(path):
    """What a file holds, if it is whole and of this code."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    payload = content[_DIGEST_BYTES:]
    return payload if content[:_DIGEST_BYTES] == _digest(payload) else None


def _digest(payload):
    return hashlib.sha256(code_digest() + payload).digest()


def _write(directory, name, content):
    """Whole or not at all, whoever else writes it."""
    directory.mkdir(mode=0o700 if directory == _temporary() else 0o777, parents=True, exist_ok=True)
    if not _is_safe(directory):
        raise PermissionError(errno.EPERM, "others can write there")
    part = directory / f"{name}.{uuid.uuid4().hex[:16]}"
    try:
        part.write_bytes(content)
        os.replace(part, directory / name)
    finally:
        part.unlink(missing_ok=True)


def _warn_once(refusals):
    global _warned
    if not _warned:
        _warned = True
        message = (
            f"numbanorm compiles its kernels anew in every process: no directory to keep them in: {', '.join(refusals)}"
        )
        warnings.warn(f"{message}; set NUMBA_CACHE_DIR to one", RuntimeWarning, stacklevel=2)


@functools.cache
def directories():
    """Where files are looked for, and written if it can be: each a path; the first that can be written gets them.

    NUMBA_CACHE_DIR alone where it is set. Otherwise beside the sources, so that what an installation has compiled
    serves all its users; in the user's own cache; and in a directory for temporary files that is the user's own.
    """
    package = Path(__file__).resolve().parents[1]
    name = _directory_name()
    if config.CACHE_DIR:
        return (Path(config.CACHE_DIR) / name,)
    own = Path(AppDirs("numbanorm", appauthor=False).user_cache_dir) / name
    return tuple(path for path in (package / "cpu" / "__pycache__", own, _temporary()) if path.is_absolute())


def _directory_name():
    """Of this installation: no other overwrites its files."""
    return f"numbanorm-{hashlib.sha256(bytes(Path(__file__).resolve().parents[1])).hexdigest()[:12]}"


@functools.cache
def _temporary():
    try:
        return Path(tempfile.gettempdir()) / f"{_directory_name()}-{os.getuid()}"
    except (OSError, AttributeError):  # there is none; no os.getuid on Windows
        return Path()


def _is_safe(directory):
    """Whether nobody else can write to a directory among the temporary files, since what is read from it is run."""
    if directory != _temporary():
        return True
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022


def contents(directory):
    """How many kernels are there that would be used now, how many others of this package's, and their bytes."""
    maker = f"-{_maker(cpu_target.target_context.codegen())}{_SUFFIX}"
    good = other = nbytes = 0
    for path in directory.glob(f"*{_SUFFIX}") if os.access(directory, os.R_OK) else ():
        payload = _payload(path)
        good += payload is not None and path.name.endswith(maker)
        other += payload is None or not path.name.endswith(maker)
        nbytes += path.stat().st_size if os.path.exists(path) else 0
    return good, other, nbytes


def is_writable(directory):
    """Whether files can be put there, which may make the directory first."""
    existing = next(path for path in (directory, *directory.parents) if os.path.exists(path))
    return existing.is_dir() and os.access(existing, os.W_OK) and (existing != directory or _is_safe(directory))
