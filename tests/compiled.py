"""CUDA kernels compiled where there is no GPU: to PTX, which `tests.ptx` runs, and to what a GPU would run."""

import os
import re
import struct
import subprocess
from bisect import bisect_right
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from tempfile import NamedTemporaryFile
from unittest.mock import patch

from numbanorm.cuda import compiling, cuda

CAPABILITIES = ((8, 0), (9, 0), (10, 0))


@contextmanager
def pretended_device(capability):
    """Numba asks for the current device when it compiles what kernels call."""

    class Device:
        compute_capability = capability

    with patch("numba.cuda.dispatcher.get_current_device", lambda: Device):
        yield


SHARED = "TESTS_SHARED_DIRECTORY"  # in the environment: where the processes of a test run keep what they compile


@lru_cache(None)
def ptx(kernel, capability=(8, 0)):
    """Compiled by one process of a test run, if it is one of the kernels that have a name."""
    directory, name = os.environ.get(SHARED), kernel.name
    if directory is None or not name:
        return _compiled_to_ptx(kernel, capability)
    path = Path(directory) / "{}-{}{}.ptx".format(sha256(name.encode()).hexdigest(), *capability)
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(_compiled_to_ptx(kernel, capability))
        os.replace(part, path)
    return path.read_text()


def _compiled_to_ptx(kernel, capability):
    with pretended_device(capability):
        return cuda.compile_ptx(kernel.function, kernel.argument_types, cc=capability)[0]


@lru_cache(None)
def program(kernel):
    from tests.ptx import Program

    return Program(ptx(kernel))


def tool(name):
    """A program of the CUDA toolkit, from its wheel."""
    for place in find_spec("nvidia").submodule_search_locations if find_spec("nvidia") else ():
        for found in Path(place).glob(f"*/bin/{name}"):
            return str(found)
    return None


class MachineCode:
    """What a GPU runs: how much of it a thread or a block takes, and the instructions as bytes."""

    def __init__(self, cubin):
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", _told("cuobjdump", cubin, "-res-usage"))
        self.registers, self.stack, self.shared, self.local = map(int, found.groups())
        (self.text,) = _texts(cubin)
        self.cubin = cubin

    @property
    def argument_sizes(self):
        """Bytes of each argument, as the code says itself in records of 12 bytes, which some architectures repeat."""
        records = re.findall(rb"\x04\x17\x0c\0(.{12})", self.cubin, re.DOTALL)
        sizes = {ordinal: packed >> 18 for _, ordinal, _, packed in (struct.unpack("<IHHI", one) for one in records)}
        return [sizes[ordinal] for ordinal in sorted(sizes)]


def _texts(cubin):
    """The sections of an ELF file that hold instructions: one for each kernel."""
    headers, size, count, names = struct.unpack_from("<Q10xHHH", cubin, 40)
    sections = [struct.unpack_from("<IIQQQQ", cubin, headers + size * i) for i in range(count)]
    first = sections[names][4]
    return [
        cubin[start : start + length]
        for name, _, _, _, start, length in sections
        if cubin.startswith(b".text.", first + name)
    ]


def instructions(codes, capability):
    """Of each of these machine codes, the names of its instructions.

    The disassembler takes half a second to start, much longer than for a kernel: it is given all of them as one.
    """
    listing = _told("nvdisasm", b"".join(code.text for code in codes), "-b", "SM{}{}".format(*capability))
    ends, found = list(accumulate(len(code.text) for code in codes)), [set() for _ in codes]
    for address, name in re.findall(r"^\s+/\*([0-9a-f]+)\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.:]*)", listing, re.MULTILINE):
        found[bisect_right(ends, int(address, 16))].add(name)
    return found


def _told(name, content, *options):
    """What a program of the CUDA toolkit says of a file's content."""
    with NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return subprocess.run((tool(name), *options, file.name), capture_output=True, text=True, check=True).stdout


@lru_cache(None)
def machine_code(kernel, capability):
    """The way a launch compiles it."""
    with pretended_device(capability):
        return MachineCode(compiling.compile(kernel, capability)[0])
