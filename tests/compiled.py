"""CUDA kernels compiled where there is no GPU: to PTX, which `tests.ptx` runs, and to what a GPU would run."""

import re
import struct
import subprocess
from contextlib import contextmanager
from functools import cached_property, lru_cache
from importlib.util import find_spec
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


@lru_cache(None)
def ptx(kernel, capability=(8, 0)):
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
    """What a GPU runs: how much of it a thread or a block takes, and which instructions."""

    def __init__(self, cubin):
        self.cubin = cubin
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", self._told_by("cuobjdump", "-res-usage"))
        self.registers, self.stack, self.shared, self.local = map(int, found.groups())

    @property
    def argument_sizes(self):
        """Bytes of each argument, as the code says itself in records of 12 bytes, which some architectures repeat."""
        records = re.findall(rb"\x04\x17\x0c\0(.{12})", self.cubin, re.DOTALL)
        sizes = {ordinal: packed >> 18 for _, ordinal, _, packed in (struct.unpack("<IHHI", one) for one in records)}
        return [sizes[ordinal] for ordinal in sorted(sizes)]

    @cached_property
    def instructions(self):
        """Their names, of which the listing takes longer than compiling does."""
        listing = self._told_by("nvdisasm", "-c", "-ndf")
        return set(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.:]*)", listing, re.MULTILINE))

    def _told_by(self, name, *options):
        with NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            command = tool(name), *options, file.name
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def machine_codes(kernel):
    """Of each compute capability, the way a launch compiles it."""
    for capability in CAPABILITIES:
        with pretended_device(capability):
            cubin, _ = compiling.compile(kernel, capability)
        yield capability, MachineCode(cubin)
