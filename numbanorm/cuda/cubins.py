"""Keep the machine code of kernels from process to process, in files like those of the CPU kernels.

The name of a file tells the kernel, the compute capability and the versions of all that compiles it. It is read under
the conditions that hold for the CPU kernels (`numbanorm.cpu.compiling.cache`), and only if it was compiled from the
same code of this package.
"""

import hashlib
import platform
import sys
import threading
from functools import cache

from numbanorm.cpu.compiling.bytecode import code_digest
from numbanorm.cpu.compiling.cache import load, save
from numbanorm.cpu.compiling.places import SUFFIX, locked_to_write
from numbanorm.cuda import compiling
from numbanorm.cuda.compiling import Capability, Kernel

SOURCES = "numbanorm.cuda"
_one_thread = threading.RLock()  # a lock between processes is for one thread at a time

code_digest(SOURCES)  # of the code that is imported now: the files may change later


def cubin_of(kernel: Kernel, cc: Capability) -> tuple[bytes, str]:
    """Return what `compiling.compile` returns. Read it from its file, or compile the kernel and write the file."""
    if not kernel.name:
        return compiling.compile(kernel, cc)
    name = file_name(kernel, cc)
    with _one_thread:
        found = load(name, _unpacked, SOURCES)
        if found is None:
            with locked_to_write(name, SOURCES) as another_process_had_it:
                found = load(name, _unpacked, SOURCES) if another_process_had_it else None
                if found is None:
                    found = compiling.compile(kernel, cc)
                    save(name, _packed(*found), SOURCES)
    return found


def _packed(cubin: bytes, entry: str) -> bytes:
    return entry.encode() + b"\0" + cubin


def _unpacked(content: bytes) -> tuple[bytes, str]:
    entry, _, cubin = content.partition(b"\0")
    return cubin, entry.decode()


def file_name(kernel: Kernel, cc: Capability) -> str:
    """Return the name of the file for a kernel's machine code."""
    described = kernel.name, [str(argument) for argument in kernel.argument_types], kernel.register_limit
    return f"{kernel.name.partition('(')[0]}-{_digest(described)}-sm_{cc[0]}{cc[1]}-{compiler()}{SUFFIX}"


@cache
def compiler() -> str:
    """Return a short digest of all that compiles, with which the names of files end.

    It covers the level of Python's optimization, which changes the byte code that is compiled.
    """
    return _digest((compiling.versions(), platform.python_version(), sys.flags.optimize))


def _digest(described: object) -> str:
    return hashlib.sha256(repr(described).encode()).hexdigest()[:16]
