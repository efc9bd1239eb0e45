"""Stages in processes of their own: none waits longer than its share of the time, and none takes another along."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from bench.first_contact.record import Record
from bench.first_contact.steps import ANEW

ROOT = Path(__file__).parents[2]
SPARE = 3  # seconds between the time at which a process should have stopped and that at which it is ended
PAUSE = 0.05  # seconds
TAIL = 600  # characters of what a process printed


class Stage(NamedTuple):
    """A module with `steps`, and the parts of it that may run beside each other."""

    name: str
    module: str
    weight: float  # of its share of the time
    parts: tuple[str, ...] = ("",)


class _Process(NamedTuple):
    record: Record
    popen: subprocess.Popen


def run(stages: list[Stage], directory: Path, started: float, budget: float, *options: str) -> None:
    """All of them in turn; a stage that needs less than its share leaves the rest to the others."""
    for i, stage in enumerate(stages):
        left = started + budget - time.time()
        share = left * stage.weight / sum(later.weight for later in stages[i:])
        if share <= SPARE:
            Record(directory, started, stage.name).say(stopped="no time left", left=[stage.name])
        else:
            _run(stage, directory, started, time.time() + share, *options)


def _run(stage: Stage, directory: Path, started: float, end: float, *options: str) -> None:
    waiting = deque(Record(directory, started, stage.name, part) for part in stage.parts)
    at_once = max(1, (os.cpu_count() or 2) // 2)
    running: list[_Process] = []
    try:
        while (waiting or running) and time.time() < end:
            while waiting and len(running) < at_once:
                record = waiting.popleft()
                running.append(_Process(record, _start(record, stage.module, end - SPARE, options)))
            for process in [process for process in running if process.popen.poll() is not None]:
                running.remove(process)
                _kill(process.popen)  # what it has started and left
                if _goes_on(process):
                    waiting.append(process.record)
            time.sleep(PAUSE)
    finally:
        for process in running:
            _kill(process.popen)
    for record in (process.record for process in running):
        if (step := _step(record)) != "":
            record.say(stopped="ended at the time limit", left=[step or record.part or record.stage])
    for record in waiting:
        record.say(stopped="no time left", left=[record.part or record.stage])


def _start(record: Record, module: str, until: float, options: tuple[str, ...]) -> subprocess.Popen:
    """In a session of its own, so that what it starts can be ended with it. Its errors go into its log."""
    about = record.stage, record.part, repr(record.run), repr(until), str(record.directory.resolve())
    command = [sys.executable, "-m", "bench.first_contact.process", module, *about, *options]
    record.running.unlink(missing_ok=True)
    with record.log.open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, stderr=log, start_new_session=True)


def _goes_on(process: _Process) -> bool:
    """Whether steps are left for another process, after one that ended; that of its end gets its line here."""
    record, status = process
    code, step = status.returncode, _step(record)
    if code == 0:
        return False
    if code != ANEW or not step:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        tail = record.log.read_text(errors="replace")[-TAIL:]
        record.say(failed=f"the process ended: {how}", step=step, printed=tail)
    return bool(step)


def _step(record: Record) -> str | None:
    """The one that a process was at; None before the first, empty after the last."""
    return record.running.read_text() if record.running.exists() else None


def _kill(popen: subprocess.Popen) -> None:
    try:
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait(timeout=SPARE)
    except (ProcessLookupError, subprocess.TimeoutExpired):  # the second: it waits for the device
        pass
