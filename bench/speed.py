"""How fast every operation is, beside its peers and beside the ceiling that `bandwidth` measures in the same rounds."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from bench import batchnorm, layernorm, peers
from bench.bandwidth import copies
from bench.cases import Case, calls, check_agreement
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, time_calls

CASES = layernorm.CASES + batchnorm.CASES
ROUNDS, QUICK_ROUNDS = 21, 3
SYSTEMS = ("numbanorm", "out=", *peers.NAMES)
HEADER = ["x", "MB", *(f"{name} ms" for name in SYSTEMS), "speed-up", "of ceiling"]


class Result(NamedTuple):
    """A case and the times of all systems and of both copies."""

    case: Case
    timings: dict[str, Timing]

    @property
    def speed_up(self) -> float:
        """How many times the default call of the best peer takes as long as numbanorm's."""
        best = min(self.timings[name].median for name in peers.NAMES if name in self.timings)
        return best / self.timings["numbanorm"].median

    @property
    def of_ceiling(self) -> float:
        """The better copy's time by that of numbanorm's default call, though only the latter allocates its results."""
        ceiling = min(self.timings["ordinary copy"].median, self.timings["streaming copy"].median)
        return ceiling / self.timings["numbanorm"].median


def measure(console: Console, quick: bool) -> list[Result]:
    """Check and time the cases, or the short selection of them."""
    cases = [case for case in CASES if case.shape.quick] if quick else CASES
    return [_measure_case(case, QUICK_ROUNDS if quick else ROUNDS) for case in track(cases, "speed", console=console)]


def _measure_case(case: Case, rounds: int) -> Result:
    systems = calls(case)
    with peers.inference_mode():
        check_agreement(systems)
        return Result(case, time_calls(systems | copies(case.operation.reads, case.size), rounds))


def tables(results: list[Result]) -> list[Table]:
    """A table per operation."""
    return [
        Table(operation.name, HEADER, [_row(result) for result in group])
        for operation, group in groupby(results, lambda result: result.case.operation)
    ]


def _row(result: Result) -> list[str]:
    times = [_milliseconds(result.timings.get(name)) for name in SYSTEMS]
    ratios = [f"{result.speed_up:.2f}", f"{result.of_ceiling:.2f}"]
    return [str(result.case.shape), f"{result.case.megabytes:.3g}", *times, *ratios]


def _milliseconds(timing: Timing | None) -> str:
    """Median ± spread, to three digits of the median."""
    if timing is None:
        return "-"
    median, spread = timing.median * 1e3, timing.spread * 1e3
    digits = next(d for d in range(6) if median * 10**d >= 100 or d == 5)
    return f"{median:.{digits}f} ± {spread:.{digits}f}"


def save(results: list[Result]) -> Path:
    """A row per case; returns the path."""
    return append("speed", [_record(result) for result in results])


def _record(result: Result) -> dict[str, object]:
    operation, shape = result.case
    record: dict[str, object] = {"operation": operation.name, "network": shape.network}
    record |= {"shape": "x".join(map(str, shape.sizes)), "axis": shape.axis, "megabytes": result.case.megabytes}
    for name in (*SYSTEMS, "ordinary copy", "streaming copy"):
        low, median, high = result.timings.get(name, ("", "", ""))
        record |= {f"{name} s": median, f"{name} low s": low, f"{name} high s": high}
    return record | {"speed-up": result.speed_up, "of ceiling": result.of_ceiling}
