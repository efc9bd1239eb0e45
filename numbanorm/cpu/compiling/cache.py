"""Machine code kept from process to process: compiled once, and never served to other code than it was compiled from.

A file holds one function for one signature, processor and version of what compiles it, all of which its name tells. It
begins with a digest of its payload and of the byte code of all kernels, since the code of one holds that of helpers
from other files. A file that is damaged, cut short or of other code is as good as none, and is written anew. The digest
keeps nobody from making a file up, so none is read that others could have written (`numbanorm.cpu.compiling.trust`).
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
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.serialize import dumps

from numbanorm.cpu.compiling.bytecode import CPU, code_digest
from numbanorm.cpu.compiling.places import SUFFIX, directories, is_writable, locked_to_write, write
from numbanorm.cpu.compiling.trust import Distrusted, check_directory, read

_DIGEST_BYTES = 32
_warned = False


class KernelCache(NullCache):
    """The files of one function, as its dispatcher asks for them."""

    def __init__(self, function):
        self._name = f"{function.__module__}.{function.__qualname__}"

    @contextmanager
    def one_process(self):
        """Within this, what is not found is compiled by one process, and others wait for it."""
        with ExitStack() as self._locks:
            yield

    def load_overload(self, sig, target_context):
        """The function compiled for a signature, or None."""
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())

        def rebuild(payload):
            return CompileResult._rebuild(target_context, *pickle.loads(payload))

        found = load(name, rebuild)
        if found is None and self._locks.enter_context(locked_to_write(name)):
            found = load(name, rebuild)
        return found

    def save_overload(self, sig, data):
        """Keep a function compiled for a signature, where that can be."""
        save(self._file_name(sig, data.codegen), dumps(data._reduce()))

    def _file_name(self, sig, codegen):
        signature = hashlib.sha256(repr(sig).encode()).hexdigest()[:16]
        return f"{self._name}-{signature}-{_maker(codegen)}{SUFFIX}"


def load(name, rebuild, kernels=CPU):
    """What `rebuild` makes of the payload of a file, or None if there is no such file that can be used."""
    for directory in directories(kernels):
        try:
            return rebuild(_payload(directory, name, kernels))
        except Distrusted as error:
            if os.path.lexists(directory / name):
                _warn_once(f"numbanorm reads no kernels that others may have put there: {_list([(directory, error)])}")
        except Exception:  # there is none, or it is not what the digest says: it is compiled, and written anew
            continue
    return None


def save(name, payload, kernels=CPU):
    """Put a file where `load` finds it, if there is a directory for it. A warning says if there is none."""
    refusals = []
    for directory in directories(kernels):
        try:
            write(directory, name, _digest(payload, kernels) + payload)
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


def _maker(codegen):
    """What compiles, for which processor, and how, in short."""
    versions = numba.__version__, llvmlite.__version__, platform.python_version(), EXTENSION_SUFFIXES[0]
    options = config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK, config.DEBUGINFO_DEFAULT
    python = sys.flags.optimize  # which changes the byte code
    return hashlib.sha256(repr((codegen.magic_tuple(), versions, options, python)).encode()).hexdigest()[:16]


def _payload(directory, name, kernels=CPU):
    """What a file holds that can be trusted, is whole, and is of this code. An OSError or a ValueError says why not."""
    check_directory(directory)
    content = read(directory / name)
    payload = content[_DIGEST_BYTES:]
    if content[:_DIGEST_BYTES] != _digest(payload, kernels):
        raise ValueError(f"{name}: damaged, or of other code")
    return payload


def _digest(payload, kernels=CPU):
    return hashlib.sha256(code_digest(kernels) + payload).digest()


def _list(refusals):
    return ", ".join(f"{directory} ({error.strerror})" for directory, error in refusals)


def _warn_once(message):
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"{message}; set NUMBA_CACHE_DIR to a directory of your own", RuntimeWarning, stacklevel=3)


def contents(directory):
    """How many kernels are there that would be used now, how many others of this package's, and their bytes."""
    maker = f"-{_maker(cpu_target.target_context.codegen())}{SUFFIX}"
    good = other = nbytes = 0
    for path in directory.glob(f"*{SUFFIX}") if os.access(directory, os.R_OK) else ():
        is_good = path.name.endswith(maker) and _is_good(path)
        good += is_good
        other += not is_good
        nbytes += path.stat().st_size if os.path.exists(path) else 0
    return good, other, nbytes


def _is_good(path):
    try:
        _payload(path.parent, path.name)
    except (OSError, ValueError):
        return False
    return True


def state(directory):
    """Whether kernels can be put there, in words."""
    try:
        check_directory(directory)
    except OSError as error:
        return f"not used: {error.strerror}"
    return "writable" if is_writable(directory) else "not writable"
