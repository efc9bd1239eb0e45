"""How fast every operation is, beside its peers and beside the ceiling that `bandwidth` measures in the same rounds."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from bench import peers
from bench.bandwidth import ORDINARY, STREAMING, copies
from bench.cases import Case, all_cases, calls, check_agreement
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, ratio, time_calls

OWN = ("numbanorm", "out=")
ROUNDS, LARGE_ROUNDS, QUICK_ROUNDS = 21, 11, 7
LARGE = 50  # MB: such calls last for milliseconds, and fewer of them say as much


class Result(NamedTuple):
    """A case and the times of all systems and of the copies."""

    case: Case
    timings: dict[str, Timing]

    @property
    def best_peer(self) -> str:
        return min((name for name in self.timings if name in peers.ALL), key=self.against)

    @property
    def speed_up(self) -> float:
        """How many times as long the best peer takes."""
        return self.against(self.best_peer)

    def against(self, peer: str) -> float:
        """The peer's time by numbanorm's. ONNX Runtime writes into bound arrays, so numbanorm may with it."""
        return ratio(self.timings[peer], self.timings["out=" if peer == "ONNX" else "numbanorm"])

    def of_ceiling(self, name: str) -> float:
        """The copy's time by that of numbanorm's call of this name, though no copy allocates its result."""
        ceiling = min((self.timings[copy] for copy in (STREAMING, ORDINARY) if copy in self.timings), key=_median)
        return ratio(ceiling, self.timings[name])


def measure(console: Console, quick: bool, dtype: type = np.float32, names: tuple[str, ...] = peers.BASIC):
    """Check and time the cases, or the short selection of them, beside the peers of these names; the results."""
    # The C library returns large blocks to the system until it has seen one freed. From then on, as in every process
    # that has run for a while, it keeps those of up to 32 MB: for the first case as for the last.
    np.empty(31 << 20, np.uint8)
    cases = [case for case in all_cases(dtype) if case.shape.quick or not quick]
    return [_measure_case(case, quick, names) for case in track(cases, "speed", console=console)]


def _measure_case(case: Case, quick: bool, names: tuple[str, ...]) -> Result:
    systems = calls(case, names)
    rounds = QUICK_ROUNDS if quick else LARGE_ROUNDS if case.megabytes > LARGE else ROUNDS
    with peers.inference_mode():
        check_agreement(systems)
        return Result(case, time_calls(_in_turn(systems, copies(case.operation.reads, case.nbytes)), rounds))


def _in_turn(systems: dict[str, Callable], copies: dict[str, Callable]) -> dict[str, Callable]:
    """NumPy between the last peer's threads, which may be slow to rest, and numbanorm's; the copies right after it."""
    first = {name: systems[name] for name in ("NumPy", *OWN)}
    return first | copies | systems


def tables(results: list[Result], names: tuple[str, ...] = peers.BASIC) -> list[Table]:
    """A table per operation."""
    systems = (*OWN, *names)
    header = ["x", "MB", *(f"{name} ms" for name in systems), "speed-up", "of ceiling", "out= of ceiling"]
    return [
        Table(_title(operation.name, group[0].case), header, [_row(result, systems) for result in group])
        for operation, group in _by_operation(results)
    ]


def _by_operation(results: list[Result]):
    for operation, group in groupby(results, lambda result: result.case.operation):
        yield operation, list(group)


def _title(operation: str, case: Case) -> str:
    return operation if case.dtype is np.float32 else f"{operation}, {np.dtype(case.dtype)}"


def _row(result: Result, systems: tuple[str, ...]) -> list[str]:
    times = [_milliseconds(result.timings.get(name)) for name in systems]
    ratios = [result.speed_up, result.of_ceiling("numbanorm"), result.of_ceiling("out=")]
    return [str(result.case.shape), f"{result.case.megabytes:.3g}", *times, *(f"{value:.2f}" for value in ratios)]


def _milliseconds(timing: Timing | None) -> str:
    """Median ± spread, to three digits of the median."""
    if timing is None:
        return "-"
    median, spread = timing.median * 1e3, timing.spread * 1e3
    digits = next(d for d in range(6) if median * 10**d >= 100 or d == 5)
    return f"{median:.{digits}f} ± {spread:.{digits}f}"


def _median(timing: Timing) -> float:
    return timing.median


def save(results: list[Result]) -> Path:
    """A row per case, the same columns whichever peers ran; returns the path."""
    return append("speed", [_record(result) for result in results])


def _record(result: Result) -> dict[str, object]:
    operation, shape, dtype = result.case
    record: dict[str, object] = {"operation": operation.name, "network": shape.network, "dtype": np.dtype(dtype).name}
    record |= {"shape": "x".join(map(str, shape.sizes)), "axis": shape.axis, "megabytes": result.case.megabytes}
    for name in (*OWN, *peers.ALL, ORDINARY, STREAMING):
        timing = result.timings.get(name)
        low, high = timing.quartiles if timing else ("", "")
        record |= {f"{name} s": timing.median if timing else "", f"{name} low s": low, f"{name} high s": high}
    record |= {"best peer": result.best_peer, "speed-up": result.speed_up}
    return record | {"of ceiling": result.of_ceiling("numbanorm"), "out= of ceiling": result.of_ceiling("out=")}
