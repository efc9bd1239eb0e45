"""Keep machine code from process to process. It is compiled once, and runs only for the code that it is of.

A file holds one function, compiled for one signature and one processor by one set of versions; its name tells all of
these. It begins with a digest of its payload and of the byte code of all kernels, since the machine code of a kernel
contains helpers from other files. A file that is damaged, cut short or of other code is ignored and written anew. A
digest does not keep others from forging a file, so files that others could have written are not read
(`numbanorm.cpu.compiling.trust`).
"""

import hashlib
import os
import pickle
import platform
import sys
import warnings
from contextlib import ExitStack, contextmanager
from importlib.machinery import EXTENSION_SUFFIXES

import llvmlite
import numba

from numbanorm.cpu.compiling.bytecode import CPU, code_digest
from numbanorm.cpu.compiling.numba_internals import (
    NullCache,
    config,
    deserialize,
    machine_of,
    serialize,
    this_machine,
)
from numbanorm.cpu.compiling.places import SUFFIX, directories, is_writable, locked_to_write, write
from numbanorm.cpu.compiling.trust import Distrusted, check_directory, read

_DIGEST_BYTES = 32
_warned = False


class KernelCache(NullCache):
    """Read and write the files of one function. Its dispatcher calls `load_overload` and `save_overload`."""

    def __init__(self, function):
        self._name = f"{function.__module__}.{function.__qualname__}"

    @contextmanager
    def one_process(self):
        """Let one process compile what is not found, while other processes wait for it.

        This is a context manager.
        """
        with ExitStack() as self._locks:
            yield

    def load_overload(self, sig, target_context):
        """Return the function compiled for a signature, or None."""
        target_context.refresh()
        name = self._file_name(sig, machine_of(target_context.codegen()))

        def rebuild(payload):
            return deserialize(target_context, pickle.loads(payload))

        found = load(name, rebuild)
        if found is None and self._locks.enter_context(locked_to_write(name)):
            found = load(name, rebuild)
        return found

    def save_overload(self, sig, data):
        """Write a function compiled for a signature into the first directory that takes it."""
        save(self._file_name(sig, machine_of(data.codegen)), serialize(data))

    def _file_name(self, sig, machine):
        signature = hashlib.sha256(repr(sig).encode()).hexdigest()[:16]
        return f"{self._name}-{signature}-{_maker(machine)}{SUFFIX}"


def load(name, rebuild, package=CPU):
    """Return what `rebuild` makes of the payload of a file, or None if there is no such file that can be used."""
    for directory in directories(package):
        try:
            return rebuild(_payload(directory, name, package))
        except Distrusted as error:
            if os.path.lexists(directory / name):
                _warn_once(f"numbanorm reads no kernels that others may have put there: {_list([(directory, error)])}")
        except Exception:  # no such file, or not what the digest says: the function is compiled and written anew
            continue
    return None


def save(name, payload, package=CPU):
    """Write a file where `load` finds it, into the first directory that takes it. A warning says if none does."""
    refusals = []
    for directory in directories(package):
        try:
            write(directory, name, _digest(payload, package) + payload)
            break
        except OSError as error:
            refusals.append((directory, error))
    else:
        _warn_once(
            f"numbanorm compiles its kernels anew in every process: no directory to keep them in: {_list(refusals)}"
        )
    distrusted = [refusal for refusal in refusals if isinstance(refusal[1], Distrusted)]
    if distrusted:
        _warn_once(f"numbanorm keeps no kernels where it would not dare to read them: {_list(distrusted)}")


def _maker(machine):
    """Return a short digest of what compiles, for which machine, and with which options."""
    versions = numba.__version__, llvmlite.__version__, platform.python_version(), EXTENSION_SUFFIXES[0]
    options = config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT
    python = sys.flags.optimize  # it changes the byte code
    return hashlib.sha256(repr((machine, versions, options, python)).encode()).hexdigest()[:16]


def _payload(directory, name, package=CPU):
    """Return the payload of a file.

    Raise OSError or ValueError unless it can be trusted, is whole and is of this code.
    """
    check_directory(directory)
    content = read(directory / name)
    payload = content[_DIGEST_BYTES:]
    if content[:_DIGEST_BYTES] != _digest(payload, package):
        raise ValueError(f"{name}: damaged, or of other code")
    return payload


def _digest(payload, package=CPU):
    return hashlib.sha256(code_digest(package) + payload).digest()


def _list(refusals):
    return ", ".join(f"{directory} ({error.strerror})" for directory, error in refusals)


def _warn_once(message):
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"{message}; set NUMBA_CACHE_DIR to a directory of your own", RuntimeWarning, stacklevel=3)


def contents(directory, package=CPU, maker=None):
    """Return how many kernels in a directory would be used now, how many would not, and the bytes of all.

    maker: the end of the names of kernels that would be used; by default, that of kernels on this CPU.
    """
    ending = f"-{maker or _maker(this_machine())}{SUFFIX}"
    good = other = nbytes = 0
    for path in directory.glob(f"*{SUFFIX}") if os.access(directory, os.R_OK) else ():
        is_good = path.name.endswith(ending) and _is_good(path, package)
        good += is_good
        other += not is_good
        nbytes += path.stat().st_size if os.path.exists(path) else 0
    return good, other, nbytes


def _is_good(path, package):
    try:
        _payload(path.parent, path.name, package)
    except (OSError, ValueError):
        return False
    return True


def state(directory):
    """Say in words whether kernels can be written there."""
    try:
        check_directory(directory)
    except OSError as error:
        return f"not used: {error.strerror}"
    return "writable" if is_writable(directory) else "not writable"
