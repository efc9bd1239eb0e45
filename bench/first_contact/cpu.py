"""How the CPU kernels grow with the threads, beside the ceiling with as many: the stage `cpu`."""

from functools import partial
from typing import Any

import numbanorm
from bench.bandwidth import copies
from bench.cases import FAMILIES, Case, Shape, calls, operations
from bench.first_contact.steps import Steps
from bench.timing import ratio, time_calls

SHAPES = {
    "axis": (Shape("large", (16384, 1024), -1),),
    "channel_axis": (Shape("ResNet-50", (32, 256, 56, 56), 1), Shape("narrow", (262144, 64), 1)),
}
ROUNDS = 7


def steps(part: str, until: float) -> Steps:
    """All threads and one of each case, then the numbers between."""
    most = numbanorm.get_num_threads()
    found = operations(*FAMILIES, training=True)
    cases = [Case(operation, shape) for operation in found for shape in SHAPES[operation.axis_name]]
    return {
        f"{case.operation.name}, {case.shape}, {threads} of {most} threads": partial(time_of, case, threads)
        for threads in thread_counts(most)
        for case in cases
    }


def thread_counts(most: int) -> list[int]:
    """All, one, and the powers of two between, the largest first."""
    between = [1 << i for i in range(most.bit_length() - 1, 0, -1) if 1 << i < most]
    return list(dict.fromkeys([most, 1, *between]))


def time_of(case: Case, threads: int) -> dict[str, Any]:
    """Milliseconds, and shares of the copy by as many threads."""
    numbanorm.set_num_threads(threads)
    try:
        systems, ceiling = calls(case, names=()), copies(case.operation.reads, case.nbytes)
        timings = time_calls(systems | ceiling, ROUNDS)
    finally:
        numbanorm.set_num_threads(None)
    fastest = min(ceiling, key=lambda name: timings[name].median)
    return {
        "threads": threads,
        "ms": {name: round(timing.median * 1e3, 3) for name, timing in timings.items()},
        "gb_per_s": round(case.megabytes / timings["out="].median / 1e3, 1),
        "of_ceiling": {name: round(ratio(timings[fastest], timings[name]), 3) for name in systems},
    }
