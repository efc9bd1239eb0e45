"""What the first call costs: imports, a process from its start to a result, and compiling where nothing is cached."""

import tempfile
from statistics import median
from typing import NamedTuple

from bench import peers, processes
from bench.environment import append
from bench.tables import Table

PROCESSES, QUICK_PROCESSES = 7, 2
IMPORT_AT_MOST, COMPILE_AT_MOST, START_AT_MOST = 0.030, 5.0, 0.5  # seconds, seconds, of PyTorch's

_IMPORT = """
import json, time
begin = time.perf_counter()
import numba
middle = time.perf_counter()
import numbanorm
print(json.dumps([middle - begin, time.perf_counter() - middle]))
"""
_FIRST_RESULT = """
import numpy
from numbanorm import layer_norm
layer_norm(numpy.ones((64, 768), numpy.float32))
"""
_FIRST_RESULT_TORCH = """
import torch
torch.layer_norm(torch.ones((64, 768)), (768,))
"""
_COMPILE = """
import json, sys, time
import numpy, numbanorm
forward, backward = (getattr(numbanorm, f"{sys.argv[1]}_norm_{pass_}") for pass_ in ("forward", "backward"))
x = numpy.ones((64, 768), numpy.float32)
begin = time.perf_counter()
y, mean, rstd = forward(x)
backward(y, x, mean, rstd)
print(json.dumps(time.perf_counter() - begin))
"""


class Figure(NamedTuple):
    """Seconds, and how many are meant at the most."""

    name: str
    seconds: float
    at_most: float | None


def measure(quick: bool) -> list[Figure]:
    """Medians over fresh processes; each process compiles once."""
    count = QUICK_PROCESSES if quick else PROCESSES
    processes.run("-c", _FIRST_RESULT)  # fills Numba's cache and the file system's
    imports = [processes.run("-c", _IMPORT) for _ in range(count)]
    own, torch = [], []
    for _ in range(count):
        own.append(processes.seconds("-c", _FIRST_RESULT))
        if not peers.lacks("PyTorch"):
            torch.append(processes.seconds("-c", _FIRST_RESULT_TORCH))
    figures = [
        Figure("import numba", median(taken for taken, _ in imports), None),
        Figure("import numbanorm, after that", median(taken for _, taken in imports), IMPORT_AT_MOST),
    ]
    first = "process start to the first layer_norm"
    if torch:
        figures.append(Figure(f"{first}, PyTorch", median(torch), None))
    figures.append(Figure(f"{first}, cached", median(own), START_AT_MOST * median(torch) if torch else None))
    for norm in ("layer", "batch"):
        name = f"first {norm}_norm_forward and _backward, nothing cached"
        figures.append(Figure(name, _compile_seconds(norm), COMPILE_AT_MOST))
    return figures


def _compile_seconds(norm: str) -> float:
    with tempfile.TemporaryDirectory() as empty:
        return processes.run("-c", _COMPILE, norm, NUMBA_CACHE_DIR=empty)


def table(figures: list[Figure]) -> Table:
    """A row per figure."""
    header = ["figure", "s", "at most", "met"]
    rows = []
    for name, taken, at_most in figures:
        verdict = ["-", "-"] if at_most is None else [f"{at_most:.3f}", "yes" if taken <= at_most else "NO"]
        rows.append([name, f"{taken:.3f}", *verdict])
    return Table("Start: float32, fresh processes", header, rows)


def save(figures: list[Figure]):
    """A row per figure; returns the path."""
    return append("start", [figure._asdict() for figure in figures])
