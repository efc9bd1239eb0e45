"""What a call takes of memory beside its results: at most 1 MB and a row for each thread. Linux only.

Each case has a process of its own, since only the peak of a process tells: ``python -m bench.memory operation sizes``.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

import numbanorm
from bench import processes
from bench.cases import FAMILIES, Case, Shape, operations
from bench.environment import append
from bench.tables import Table

OPERATIONS = {operation.name: operation for operation in operations(*FAMILIES, training=True)}
SIZES = ("64x100000", "4x3x300000", "65536x64")
SPARE = 1 << 20
BALLAST = 256 << 20


class Memory(NamedTuple):
    """Bytes beside the results that a call takes with out= and without, and that stay when its results are gone."""

    case: Case
    with_out: int
    fresh: int
    kept: int

    @property
    def at_most(self) -> int:
        return SPARE + numbanorm.get_num_threads() * self.case.shape.sizes[-1] * np.dtype(self.case.dtype).itemsize


def measure(console: Console, quick: bool) -> list[Memory]:
    """Every operation on every shape, or on the first."""
    pairs = [(name, sizes) for sizes in (SIZES[:1] if quick else SIZES) for name in OPERATIONS]
    # A fixed threshold has glibc return at once what is freed: what it kept, later calls would take without a trace.
    return [
        Memory(_case(*pair), *processes.run("-m", "bench.memory", *pair, MALLOC_MMAP_THRESHOLD_="65536"))
        for pair in track(pairs, "memory", console=console)
    ]


def _case(name: str, sizes: str) -> Case:
    axis = -1 if OPERATIONS[name].axis_name == "axis" else 1
    return Case(OPERATIONS[name], Shape("memory", tuple(map(int, sizes.split("x"))), axis))


def _taken(case: Case) -> tuple[int, int, int]:
    """What `Memory` holds, in a process that does nothing else."""
    operation, shape, dtype = case
    call = partial(getattr(numbanorm, operation.name), **{operation.axis_name: shape.axis})
    fewer = shape._replace(sizes=(shape.sizes[0] // 4, *shape.sizes[1:]))
    call(*operation.arrays(fewer))  # compiles what goes the same way
    arrays, out = operation.arrays(shape), np.ones(shape.sizes, dtype)
    ballast = np.ones(BALLAST, np.uint8)  # lifts the process above its peak so far, so that the call's is seen
    before = _held("VmHWM")
    results = call(*arrays, out=out)
    with_out = _held("VmHWM") - before - sum(result.nbytes for result in results[1:])
    del results
    results = call(*arrays)
    fresh = _held("VmHWM") - before - sum(result.nbytes for result in results)
    del results
    kept = _held("VmRSS") - before
    del ballast
    return with_out, fresh, kept


def _held(what: str) -> int:
    """Bytes in memory, now or at the most; not by getrusage, which counts in what the parent held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) << 10


def table(results: list[Memory]) -> Table:
    """A row per operation and shape."""
    header = ["call", "x", "with out= MB", "fresh MB", "at most", "met", "kept MB"]
    rows = []
    for result in results:
        met = max(result.with_out, result.fresh) <= result.at_most
        sizes = " x ".join(map(str, result.case.shape.sizes))
        figures = [_megabytes(nbytes) for nbytes in (result.with_out, result.fresh, result.at_most)]
        rows.append([result.case.operation.name, sizes, *figures, "yes" if met else "NO", _megabytes(result.kept)])
    return Table("Memory taken beside the results, float32", header, rows)


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.2f}"


def save(results: list[Memory]):
    """A row per operation and shape; returns the path."""
    return append(
        "memory",
        [
            {"operation": case.operation.name, "shape": "x".join(map(str, case.shape.sizes))}
            | {"with out= bytes": with_out, "fresh bytes": fresh, "kept bytes": kept}
            for case, with_out, fresh, kept in results
        ],
    )


if __name__ == "__main__":
    print(json.dumps(_taken(_case(*sys.argv[1:3]))))
