"""How fast every operation is on a GPU, beside its peers and beside a copy on the device: ``python -m bench --gpu``.

The bytes are the fewest that an operation must move, those of `layernorm`, `rmsnorm` and `batchnorm`: forward one
read and one write of x's size, for backward two reads and one write. BN in training must read x, or dy and x, twice
where the cache does not hold them, and so moves half as much again, or two thirds: it cannot come near the copy.

The copy is of as many bytes in all, from device memory to device memory, by the library's own means (cudaMemcpyAsync).
Times are the device's (see `gpu_device`). Each call is of other arrays than the one before, until the cache cannot hold
those of the first any more. Systems and the copy take turns, round by round.
What tiny arrays take the host is another table: it waits for none of the calls. Beside them is a bare launch of
an empty kernel with as many arguments.
"""

from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

from bench import gpu_statistics, gpu_systems, peers
from bench.cases import FAMILIES, Case, Shape, operations
from bench.environment import append
from bench.gpu_device import device_times, gpu_line, host_times, missing
from bench.tables import Table
from bench.timing import Timing, ratio

SHAPES = {
    "axis": (
        Shape("BERT", (16384, 768), -1, quick=True),
        Shape("GPT-2", (16384, 1024), -1),
        Shape("GPT-3", (8192, 4096), -1, quick=True),
        Shape("wide", (4096, 8192), -1),
        Shape("wide", (4096, 16384), -1),
        Shape("wide", (1024, 65536), -1),
        Shape("tiny", (1, 768), -1, quick=True),
    ),
    "channel_axis": (
        Shape("ResNet-50", (256, 64, 56, 56), 1, quick=True),
        Shape("ResNet-50", (256, 512, 14, 14), 1),
        Shape("ResNet-50", (256, 56, 56, 64), -1),
        Shape("ResNet-50", (256, 14, 14, 512), -1, quick=True),
        Shape("MLP", (65536, 1024), 1),
        Shape("tiny", (60, 100), 1, quick=True),
    ),
}
OWN = ("numbanorm", "out=")
COPY, LAUNCH = "copy", "empty kernel"
ALL = (*OWN, *gpu_systems.PEERS, COPY, LAUNCH)
ROUNDS, QUICK_ROUNDS = 21, 7


class Result(NamedTuple):
    """A case, and the seconds of all systems and the copy: the device's, or the host's."""

    case: Case
    timings: dict[str, Timing]


def run(console: Console, quick: bool) -> int:
    """The exit status."""
    if sentence := missing():
        console.print(sentence, markup=False)
        return 1
    console.print(gpu_line(), markup=False)
    for name in gpu_systems.PEERS:
        if lack := gpu_systems.lacks(name):
            console.print(f"{name}: needs {lack}, and is left out", markup=False)
    cases = [
        Case(operation, shape)
        for operation in operations(*FAMILIES)
        for shape in SHAPES[operation.axis_name]
        if shape.quick or not quick
    ]
    rounds = QUICK_ROUNDS if quick else ROUNDS
    with peers.inference_mode():
        found = [_measure(console, case, rounds) for case in track(cases, "gpu", console=console)]
    device, host = [of_device for of_device, _ in found], [of_host for _, of_host in found if of_host]
    for _, results in groupby(device, lambda result: result.case.operation):
        device_table(list(results)).show(console)
    host_table(host).show(console)
    gpu_statistics.table(rounds).show(console)
    console.print(gpu_line(), markup=False)
    console.print(f"All figures: {save(device, host)}")
    return 0


def _measure(console: Console, case: Case, rounds: int) -> tuple[Result, Result | None]:
    """On the device, and for tiny arrays on the host."""
    systems = gpu_systems.systems(case, partial(console.print, markup=False))
    host = None
    if case.shape.network == "tiny":
        timings = host_times(
            {name: calls[0] for name, calls in systems.items()} | {LAUNCH: gpu_systems.bare_launch()}, rounds
        )
        host = Result(case, timings)
    return Result(case, device_times(systems | {COPY: gpu_systems.copies(case)}, rounds)), host


def device_table(results: list[Result]) -> Table:
    """A row per shape of an operation."""
    names = _names(results)
    header = ["x", "MB", *(f"{name} us" for name in names), "GB/s", "of copy", "out= of copy", "best peer", "speed-up"]
    rows = []
    for case, timings in results:
        own, copy = timings["numbanorm"], timings[COPY]
        rates = [f"{case.megabytes / own.median / 1e3:.0f}", *(f"{ratio(copy, timings[name]):.2f}" for name in OWN)]
        best = min(
            (name for name in gpu_systems.PEERS if name in timings), key=lambda n: timings[n].median, default="-"
        )
        speed_up = f"{ratio(timings[best], own):.2f}" if best in timings else "-"
        times = [_microseconds(timings.get(name)) for name in names]
        rows.append([str(case.shape), f"{case.megabytes:.3g}", *times, *rates, best, speed_up])
    return Table(f"{results[0].case.operation.name}, float32, time of the device", header, rows)


def host_table(results: list[Result]) -> Table:
    """A row per call."""
    names = _names(results)
    rows = [
        [f"{case.operation.name}, {case.shape}", *(_microseconds(timings.get(name)) for name in names)]
        for case, timings in results
    ]
    return Table("time of the host per call", ["call", *(f"{name} us" for name in names)], rows)


def _names(results: list[Result]) -> list[str]:
    """Of all that was timed."""
    return [name for name in ALL if any(name in result.timings for result in results)]


def _microseconds(timing: Timing | None) -> str:
    """Median ± spread, to three digits of the median."""
    if timing is None:
        return "-"
    median, spread = timing.median * 1e6, timing.spread * 1e6
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} ± {spread:.{digits}f}"


def save(device: list[Result], host: list[Result]) -> Path:
    """A row per case and kind of time, the same columns whichever peers ran; returns the path."""
    gpu, records = gpu_line(), []
    for of, (case, timings) in [*(("device", result) for result in device), *(("host", result) for result in host)]:
        record = {"gpu": gpu, "time of": of, "operation": case.operation.name, "megabytes": case.megabytes}
        record |= {"shape": "x".join(map(str, case.shape.sizes)), "axis": case.shape.axis}
        for name in ALL:
            timing = timings.get(name)
            low, high = timing.quartiles if timing else ("", "")
            record |= {f"{name} s": timing.median if timing else "", f"{name} low s": low, f"{name} high s": high}
        records.append(record)
    return append("gpu", records)
