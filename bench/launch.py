"""What it costs to have several threads: a launch of little, and a call at once, after a pause, beside a busy core.

Each system is measured in processes of its own, since the threads of one spin for a while after a call and would hold
the cores of the next; the processes take turns, round by round.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import NamedTuple

import numpy as np

from bench import peers, processes
from bench.environment import append
from bench.tables import Table

SYSTEMS = {
    "parked": {"NUMBANORM_ENGINE": "parked"},
    "prange": {"NUMBANORM_ENGINE": "prange"},
    "one thread": {"NUMBANORM_NUM_THREADS": "1"},
    "PyTorch": {},
}
ROUNDS, QUICK_ROUNDS = 5, 1
CALLS, SLOW_CALLS = 2000, 200  # without and with a pause, to a process
PAUSE, LONG_PAUSE = 0.003, 0.020  # seconds
SHAPE = (512, 512)
PIECE = 1500  # additions
BUSY = "while True: pass"


class Result(NamedTuple):
    """The seconds of calls of one kind, of one system."""

    system: str
    kind: str
    seconds: list[float]

    @property
    def percentile_99(self) -> float:
        return quantiles(self.seconds, n=100, method="inclusive")[-1]


def measure(quick: bool) -> list[Result]:
    """All systems, in turn."""
    names = [name for name in SYSTEMS if name != "PyTorch" or not peers.lacks("PyTorch")]
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(QUICK_ROUNDS if quick else ROUNDS):
        for name in names:
            for busy in (False, True):
                for kind, seconds in _in_a_process(name, busy).items():
                    found.setdefault((name, f"{kind}, a core busy" if busy else kind), []).extend(seconds)
    return [Result(*key, seconds) for key, seconds in found.items()]


def _in_a_process(name: str, busy: bool) -> dict[str, list[float]]:
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        return processes.run("-m", "bench.launch", name, **SYSTEMS[name])
    finally:
        if other is not None:
            other.kill()
            other.wait()


def _report(name: str) -> None:
    call = _torch_call() if name == "PyTorch" else _own_call()
    call()
    kinds = {"call": _times(call, CALLS, 0), "call after 3 ms": _times(call, SLOW_CALLS, PAUSE)}
    if name != "PyTorch":
        launch = _small_launch()
        kinds |= {"launch": _times(launch, CALLS, 0), "launch after 3 ms": _times(launch, SLOW_CALLS, PAUSE)}
    kinds["processor time after a call"] = [_spent_after(call) for _ in range(20)]
    print(json.dumps(kinds))


def _times(call: Callable, count: int, pause: float) -> list[float]:
    taken = []
    for _ in range(count):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def _spent_after(call: Callable) -> float:
    """Processor time of all threads in a pause after the call, which they may spin away."""
    call()
    start = _processor_time()
    time.sleep(LONG_PAUSE)
    return _processor_time() - start


def _processor_time() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _own_call() -> Callable:
    from numbanorm import layer_norm

    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    return lambda: layer_norm(x)


def _torch_call() -> Callable:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE, np.float32))
    return torch.inference_mode()(lambda: torch.nn.functional.layer_norm(x, SHAPE[1:]))


def _small_launch() -> Callable:
    """Two pieces of one or two microseconds each, so that another thread has something to take."""
    import numba

    from numbanorm.cpu.engine.parallel import engine, parallel_for

    @numba.njit(nogil=True)
    def add_up(lo, hi, a):
        for i in range(lo, hi):
            total = 0.0
            for j in range(PIECE):
                total += a[i, j]  # in order: a chain of additions, four cycles each
            a[i, 0] = total * 0.0

    launch_both = parallel_for(add_up)

    @numba.njit(nogil=True)
    def launch(engine, a):
        launch_both(engine, 2, 1, (a,))

    address, a = engine(), np.zeros((2, PIECE))
    launch(address, a)
    return lambda: launch(address, a)


def table(results: list[Result]) -> Table:
    """A row per kind of call; medians and, beside them, the 99th percentiles."""
    systems = list(dict.fromkeys(result.system for result in results))
    by = {(result.system, result.kind): result for result in results}
    kinds = list(dict.fromkeys(result.kind for result in results))
    rows = [[kind, *(_cell(by.get((system, kind))) for system in systems)] for kind in kinds]
    title = f"Launches: layer_norm of {' x '.join(map(str, SHAPE))} float32, us: median / 99th percentile"
    return Table(title, ["", *systems], rows)


def _cell(result: Result | None) -> str:
    return f"{median(result.seconds) * 1e6:.1f} / {result.percentile_99 * 1e6:.0f}" if result else "-"


def save(results: list[Result]):
    """A row per kind and system; returns the path."""
    return append(
        "launch",
        [
            {"system": r.system, "kind": r.kind, "median s": median(r.seconds), "99th percentile s": r.percentile_99}
            for r in results
        ],
    )


if __name__ == "__main__":
    _report(sys.argv[1])
