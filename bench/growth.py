"""How time grows with the rows of x: linearly, whatever the caches do."""

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

import numbanorm
from bench.cases import FAMILIES, Case, Shape, operations
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, ratio, time_calls
from numbanorm.cpu.engine.machine import last_level_cache

COLS = 256
ROWS = tuple(2048 << k for k in range(7))  # to 131072: x of 134 MB
ROUNDS, QUICK_ROUNDS = 11, 3
AT_MOST = 2.2  # times as long for twice the rows, where half of them take twice what the caches hold


class Growth(NamedTuple):
    """A case, its time with out=, and how many times as long it takes as half the rows; None for the fewest."""

    case: Case
    timing: Timing
    ratio: float | None

    @property
    def is_judged(self) -> bool:
        return self.case.megabytes * 1e6 >= 4 * last_level_cache()


def measure(console: Console, quick: bool) -> list[Growth]:
    """Forward and backward, the numbers of rows in turn."""
    counts, rounds = (ROWS[-2:], QUICK_ROUNDS) if quick else (ROWS, ROUNDS)
    results = []
    for operation in track(operations(*FAMILIES, training=True), "growth", console=console):
        cases = [Case(operation, Shape("rows", (count, COLS), 1)) for count in counts]
        timings = time_calls(_calls(cases), rounds)
        results.append(Growth(cases[0], timings[str(cases[0].shape)], None))
        for half, case in pairwise(cases):
            timing = timings[str(case.shape)]
            results.append(Growth(case, timing, ratio(timing, timings[str(half.shape)])))
    return results


def _calls(cases: list[Case]):
    """On the first rows of the same arrays, since where arrays lie in memory makes a difference of its own."""
    operation, shape, dtype = cases[-1]
    arrays, out = operation.arrays(shape), np.ones(shape.sizes, dtype)
    function = partial(getattr(numbanorm, operation.name), **{operation.axis_name: shape.axis})
    calls = {}
    for case in cases:
        count = case.shape.sizes[0]
        given = [a[:count] if len(a) == len(out) else a for a in arrays]
        calls[str(case.shape)] = partial(function, *given, out=out[:count])
    return calls


def table(results: list[Growth]) -> Table:
    """A row per operation and number of rows."""
    header = ["call with out=", "rows", "MB", "ns per row", "/ half the rows", "at most", "met"]
    rows = []
    for result in results:
        count = result.case.shape.sizes[0]
        cells = [result.case.operation.name, str(count), f"{result.case.megabytes:.3g}"]
        cells += [f"{result.timing.median / count * 1e9:.1f}", "-" if result.ratio is None else f"{result.ratio:.2f}"]
        verdict = ["-", "-"]
        if result.is_judged and result.ratio is not None:
            verdict = [f"{AT_MOST:g}", "yes" if result.ratio <= AT_MOST else "NO"]
        rows.append([*cells, *verdict])
    return Table(f"Growth of time: rows of {COLS} float32 values", header, rows)


def save(results: list[Growth]):
    """A row per operation and number of rows; returns the path."""
    return append(
        "growth",
        [
            {"operation": case.operation.name, "rows": case.shape.sizes[0], "cols": COLS, "s": timing.median}
            | {"of half the rows": ratio}
            for case, timing, ratio in results
        ],
    )
