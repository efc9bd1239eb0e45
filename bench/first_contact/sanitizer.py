"""A few small cases under each tool of compute-sanitizer, beside each other: the stage `sanitizer`."""

import glob
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from bench.first_contact.steps import Lacking, Steps, need

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
PROGRAM = "compute-sanitizer"
STEP_SECONDS = 400  # since a tool makes everything many times slower; the stage's own share ends it sooner
SMALL = ("-m", "bench.first_contact.small")
LAST = 20  # seconds in which the last case and the tool come to an end
TAIL = 400  # characters


def steps(part: str, until: float) -> Steps:
    """Of a tool."""
    return {part: partial(check, part, until)}


def check(tool: str, until: float) -> dict[str, Any]:
    """What the tool counts must be 0, and the results right, of as many cases as there is time for."""
    from bench.gpu_device import no_gpu

    need(no_gpu())
    return run(tool, *SMALL, repr(until - LAST))


def run(tool: str, *arguments: str) -> dict[str, Any]:
    """A Python program under it; what it prints comes into the stage's log at once."""
    command = [program(), "--tool", tool, sys.executable, *arguments]
    printed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", file=sys.stderr, flush=True)
            printed.append(line)
    whole = "".join(printed)
    found, said = re.findall(r"SUMMARY: (\d+) (?:error|hazard)", whole), whole[-TAIL:]
    if not found:
        raise RuntimeError(f"{tool} has no summary: {said}")
    assert set(found) == {"0"}, f"{tool}: {said}"
    assert process.returncode == 0, f"wrong results under {tool}: {said}"
    return {"ok": True, "printed": said.splitlines()[-3:]}


def program() -> str:
    """On the path, or where the toolkit is installed."""
    for path in (shutil.which(PROGRAM), *sorted(glob.glob(f"/usr/local/cuda*/bin/{PROGRAM}"))):
        if path and Path(path).exists():
            return path
    raise Lacking(f"{PROGRAM} is not installed; it is part of the CUDA toolkit")
