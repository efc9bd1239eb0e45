"""What the speed of numbanorm is meant to be, on two cores, and whether it was measured: ``speed --peers``."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.cases import Case
from bench.speed import Result
from bench.tables import Table

LARGE = 16  # MB that the operation must move: above, the caches do not hold it
CACHED = (0.064, 8)  # MB


class Target(NamedTuple):
    """What the cases of a group must reach at the least; None: no such target."""

    group: str
    covers: Callable[[Case], bool]
    out_of_ceiling: float | None
    of_ceiling: float | None
    speed_up: float


def table(results: list[Result]) -> Table:
    """For every group and figure, the measured case that comes off worst."""
    header = ["group", "figure", "target", "worst", "reached by", "met", "worst case"]
    rows = []
    for target in TARGETS:
        group = [result for result in results if target.covers(result.case)]
        for figure, at_least, measured in _figures(target):
            if at_least is not None:
                rows.append([target.group, figure, f"{at_least:g}", *_verdict(group, at_least, measured)])
    return Table("targets", header, rows)


def _figures(target: Target):
    yield "out= of ceiling", target.out_of_ceiling, lambda result: result.of_ceiling("out=")
    yield "of ceiling", target.of_ceiling, lambda result: result.of_ceiling("numbanorm")
    yield "speed-up", target.speed_up, lambda result: result.speed_up


def _verdict(group: list[Result], at_least: float, measured) -> list[str]:
    if not group:
        return ["-", "0 of 0", "-", "nothing measured"]
    worst = min(group, key=measured)
    reached = sum(measured(result) >= at_least for result in group)
    verdict = "yes" if reached == len(group) else "NO"
    case = f"{worst.case.operation.name}, {worst.case.shape}; best peer {worst.best_peer}"
    return [f"{measured(worst):.2f}", f"{reached} of {len(group)}", verdict, case]


def _rows(forward: bool, low: int, high: int):
    """Large LN over rows of `low` to `high` values."""

    def covers(case: Case) -> bool:
        ours = _is("layer_norm_backward") if not forward else _is("layer_norm", "layer_norm_forward")
        cols = case.shape.sizes[-1]
        return ours(case) and case.shape.axis == -1 and _is_large(case) and low <= cols <= high

    return covers


def _channels_first(operation: str):
    """Large BN of which a thread can keep a channel in its L2 cache."""

    def covers(case: Case) -> bool:
        channel = case.operation.reads * case.nbytes / case.shape.sizes[1]
        return _is(operation)(case) and _is_first(case) and _is_large(case) and channel <= l2_cache()

    return covers


def _channels_last(operation: str):
    return lambda case: _is(operation)(case) and not _is_first(case) and _is_large(case)


def _is(*operations: str):
    return lambda case: case.operation.name in operations


def _is_first(case: Case) -> bool:
    return case.shape.axis % len(case.shape.sizes) < len(case.shape.sizes) - 1


def _is_large(case: Case) -> bool:
    return case.megabytes >= LARGE


def _is_tiny(case: Case) -> bool:
    return case.shape.network == "tiny"


def _is_cached(case: Case) -> bool:
    return CACHED[0] <= case.megabytes <= CACHED[1] and not _is_tiny(case)


def l2_cache() -> int:
    """Bytes of a core's second cache; a usual size where the system does not say."""
    try:
        return int(Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text().strip().removesuffix("K")) << 10
    except (OSError, ValueError):
        return 1 << 20


TARGETS = (
    Target("LN forward, 64 to 1024 columns", _rows(True, 64, 1024), 0.9, 0.7, 2),
    Target("LN forward, 2048 to 32768 columns", _rows(True, 2048, 32768), 0.8, 0.65, 2),
    Target("LN backward, 64 to 32768 columns", _rows(False, 64, 32768), 0.8, 0.65, 3),
    Target("BN forward, channels first, one in L2", _channels_first("batch_norm_forward"), 0.85, 0.7, 6),
    Target("BN backward, channels first, one in L2", _channels_first("batch_norm_backward"), 0.75, 0.6, 4),
    Target("BN forward, channels last", _channels_last("batch_norm_forward"), 0.65, 0.55, 5),
    Target("BN backward, channels last", _channels_last("batch_norm_backward"), 0.6, 0.5, 3),
    Target("BN inference", lambda case: _is("batch_norm")(case) and _is_large(case), 0.9, 0.75, 4),
    Target("64 KB to 8 MB", _is_cached, None, None, 1.5),
    Target("tiny", _is_tiny, None, None, 1),
    Target("all shapes", lambda case: True, None, None, 1),
)
