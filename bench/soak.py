"""A long run of mixed calls, from threads and from forked children, under a storm of signals: every result is checked.

Each result must have the bits that one thread computed at the start, which must agree with NumPy.
"""

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

import numbanorm
from bench.cases import FAMILIES, Case, Shape, calls, check_agreement, operations
from bench.environment import append
from bench.tables import Table

SECONDS, QUICK_SECONDS = 600, 60
THREADS = 4
CALLS_TO_A_CHILD = 5
FORK_PAUSE = 0.2  # seconds, between one child and the next
CHILD_SECONDS = 10  # a child that takes longer hangs
SIGNAL_PAUSE = 0.005
GROWTH = 32 << 20  # bytes of memory, over the second half, that garbage in flight explains
SHAPES = {
    "axis": (((300, 768), -1), ((64, 96, 50), 1), ((2, 300_000), -1), ((9, 4096), -1), ((1, 768), -1)),
    "channel_axis": (((700, 64), 1), ((16, 24, 30, 30), 1), ((50_000, 8), 1), ((60, 100), 1)),
}


@dataclass
class Record:
    """What happened until now."""

    calls: int = 0
    forks: int = 0
    signals: int = 0
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # bytes, once a second

    @property
    def growth(self) -> int:
        """Bytes, from the first to the second half at their most."""
        half = len(self.memory) // 2
        return max(self.memory[half:]) - max(self.memory[:half])

    @property
    def passed(self) -> bool:
        return not self.faults and self.growth <= GROWTH


class Checked:
    """Calls on arrays of a thread's own, and what each must give."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Callable, list[np.ndarray]]] = []

    def run_one(self, choose: random.Random) -> str | None:
        """What was wrong, if anything."""
        name, call, expected = choose.choice(self.pairs)
        results = _arrays(call())
        if all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True)):
            return None
        return f"{name}: other bits than at the start"


def _arrays(result) -> list[np.ndarray]:
    return list(result) if isinstance(result, tuple) else [result]


def _checked() -> Checked:
    """Computed by one thread, alone."""
    found = Checked()
    for operation in operations(*FAMILIES):
        for sizes, axis in SHAPES[operation.axis_name]:
            for dtype in (np.float32, np.float64):
                systems = calls(Case(operation, Shape("soak", sizes, axis), dtype), ("NumPy",))
                check_agreement(systems)
                for name in ("numbanorm", "out="):
                    expected = [a.copy() for a in _arrays(systems[name]())]
                    found.pairs.append((f"{operation.name} {sizes} {name}", systems[name], expected))
    return found


def run(console: Console, quick: bool) -> Record:
    """Until the time is over."""
    record, seconds = Record(), QUICK_SECONDS if quick else SECONDS
    numbanorm.set_num_threads(1)
    sets = [_checked() for _ in range(THREADS)]
    numbanorm.set_num_threads(None)
    signal.signal(signal.SIGALRM, lambda *_: setattr(record, "signals", record.signals + 1))
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_PAUSE, SIGNAL_PAUSE)
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=_call, args=(record, own, i, end), daemon=True) for i, own in enumerate(sets)]
    threads += [threading.Thread(target=_fork, args=(record, sets[0], end), daemon=True)]
    for thread in threads:
        thread.start()
    try:
        _watch(console, record, end)
    finally:
        for thread in threads:
            thread.join(2 * CHILD_SECONDS)
        record.faults += [f"{thread.name}: no end" for thread in threads if thread.is_alive()]
        signal.setitimer(signal.ITIMER_REAL, 0)
        numbanorm.set_num_threads(None)
    return record


def _call(record: Record, own: Checked, seed: int, end: float) -> None:
    choose = random.Random(seed)
    while time.monotonic() < end:
        try:
            fault = own.run_one(choose)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        if fault:
            record.faults.append(fault)
        record.calls += 1


def _fork(record: Record, own: Checked, end: float) -> None:
    """Children that call as well, with arrays that nobody else's calls write there."""
    while time.monotonic() < end:
        child = os.fork()
        if child == 0:
            os._exit(_child(own, record.forks))
        if fault := _end_of(child):
            record.faults.append(fault)
        record.forks += 1
        time.sleep(FORK_PAUSE)


def _child(own: Checked, seed: int) -> int:
    choose = random.Random(seed)
    try:
        return int(any(own.run_one(choose) for _ in range(CALLS_TO_A_CHILD)))
    except BaseException:
        return 2


def _end_of(child: int) -> str | None:
    """What was wrong with it."""
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return f"a forked child: status {status}" if status else None
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"a forked child: no end after {CHILD_SECONDS} s"


def _watch(console: Console, record: Record, end: float) -> None:
    """Note the memory, and change the number of threads, once a second."""
    begin = time.monotonic()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("soak", total=end - begin)
        while time.monotonic() < end:
            time.sleep(1)
            gc.collect()
            record.memory.append(_resident_bytes())
            numbanorm.set_num_threads(random.choice((None, 1, 2, 3)))
            progress.update(task, completed=time.monotonic() - begin, description=f"{record.calls} calls")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def table(record: Record) -> Table:
    """One row."""
    header = ["", "calls", "forks", "signals", "memory at most, MB", "growth, MB", "faults", "passed"]
    sizes = max(record.memory) / 1e6, record.growth / 1e6
    cells = [record.calls, record.forks, record.signals, *(f"{size:.0f}" for size in sizes), len(record.faults)]
    verdict = "yes" if record.passed else "NO"
    return Table("Soak: calls from threads and children", header, [["soak", *map(str, cells), verdict]])


def save(record: Record):
    """One row; returns the path."""
    counts = {"calls": record.calls, "forks": record.forks, "signals": record.signals, "faults": len(record.faults)}
    return append("soak", [counts | {"growth bytes": record.growth, "memory bytes": max(record.memory)}])
