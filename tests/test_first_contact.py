"""`bench.first_contact`: what comes of steps that fail, the time limit, and each stage that runs without a GPU."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import gpu_device
from bench.first_contact import __main__ as command
from bench.first_contact import sanitizer
from bench.first_contact.record import FILE, Record, lines
from bench.first_contact.steps import Lacking, do
from bench.first_contact.supervise import Stage, run

STEPS = "tests.contact_steps"
ROOT = Path(__file__).parents[1]


def told(directory, *stages, budget=60):
    """The lines of a run."""
    started = time.time()
    run(list(stages), directory, started, budget)
    return lines(directory, started)


def test_a_step_that_ends_its_process_takes_no_other_along(tmp_path):
    found = {line["step"]: line for line in told(tmp_path, Stage("one", STEPS, 1, ("all",)))}
    assert list(found) == ["0 wrong", "1 lacking", "2 broken", "3 killed", "4 hanging", "5 right"]
    wrong, lacking, broken, killed, hanging, right = found.values()
    assert (wrong["ok"], wrong["error"]) == (False, "off by 3")
    assert lacking["lacks"] == "no such tool"
    assert broken["failed"] == "RuntimeError: the device is lost"
    assert killed["failed"] == "the process ended: killed by SIGKILL"
    assert hanging["failed"] == "the process ended: exit status 1"
    assert "in hanging" in hanging["printed"]
    assert right["ok"] is True


def test_what_keeps_a_stage_from_starting_is_told_and_the_next_one_runs(tmp_path):
    found = told(tmp_path, Stage("one", STEPS, 1, ("unable", "right")), Stage("two", STEPS, 1, ("right",)))
    (unable,) = [line for line in found if line.get("part") == "unable"]
    assert unable["failed"] == "the process ended: exit status 1"
    assert "ImportError: no such package" in unable["printed"]
    assert [line["stage"] for line in found if line.get("ok")] == ["one", "two"]


def test_a_process_that_ends_badly_after_its_steps_is_told(tmp_path):
    right, ended = told(tmp_path, Stage("one", STEPS, 1, ("ends badly",)))
    assert right["ok"] is True
    assert ended["failed"] == "the process ended: exit status 7"


def test_a_device_that_is_not_there_is_told_once(tmp_path):
    (line,) = told(tmp_path, Stage("one", STEPS, 1, ("no device",)))
    assert line["lacks"] == "no GPU"
    assert len(line["left"]) == 2


@pytest.mark.slow  # it waits
def test_the_time_limit_ends_whatever_was_started(tmp_path):
    start = time.monotonic()
    found = told(tmp_path, Stage("one", STEPS, 1, ("waits",)), Stage("two", STEPS, 1, ("right",)), budget=30)
    assert time.monotonic() - start < 30
    first, at_the_limit, later = found
    assert later["stage"] == "two"
    assert later["ok"] is True
    assert at_the_limit["left"] == ["1 hanging"]
    assert has_ended(first["pid"])


def test_what_a_process_leaves_is_ended(tmp_path):
    first, second = told(tmp_path, Stage("one", STEPS, 1, ("leaves",)))
    assert "SIGKILL" in second["failed"]
    assert has_ended(first["pid"])


def has_ended(pid):
    """Within some seconds: it is gone, or a zombie, for which nobody waits."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_a_stage_without_time_is_told(tmp_path):
    found = told(tmp_path, Stage("one", STEPS, 1, ("right",)), budget=2)
    assert [(line["stage"], line["stopped"]) for line in found] == [("one", "no time left")]


def test_steps_that_were_not_reached_are_named(tmp_path, capsys):
    record = Record(tmp_path, 1.0, "one")
    assert do(record, {"first": lambda: {"ok": True}}, time.time() + 60, 60) == 0
    assert do(record, {"first": None, "second": None}, time.time() - 1, 60) == 0
    first, second = (json.loads(line) for line in (tmp_path / FILE).read_text().splitlines())
    assert first["ok"] is True
    assert second["left"] == ["second"]
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ([{"stage": "correctness", "ok": True}], 0),
        ([{"stage": "correctness", "ok": True}, {"stage": "cpu", "stopped": "no time left", "left": ["x"]}], 0),
        ([{"stage": "correctness", "ok": True}, {"stage": "sanitizer", "lacks": "it is not installed"}], 0),
        ([{"stage": "correctness", "ok": True}, {"stage": "correctness", "ok": False, "error": "off by 3"}], 1),
        ([{"stage": "correctness", "ok": True}, {"stage": "bandwidth", "failed": "the process ended"}], 1),
        ([{"stage": "correctness", "lacks": "no GPU"}], 1),
        ([{"stage": "probe", "version": 3}], 1),
    ],
)
def test_what_is_wrong_or_not_proved_is_told_by_the_exit_status(tmp_path, capsys, said, status):
    for line in said:
        Record(tmp_path, 5.0, line["stage"]).say(**{name: value for name, value in line.items() if name != "stage"})
    Record(tmp_path, 4.0, "correctness").say(ok=not status)  # an earlier run's, which does not count
    assert command.summary(list(command.STAGES), tmp_path, 5.0) == status
    printed = capsys.readouterr().out
    for line in said:
        for name in ("error", "failed", "lacks"):
            assert line.get(name, "") in printed


def test_the_command_probes_and_needs_no_other_packages(tmp_path):
    """Than NumPy, Numba and numba-cuda: all modules of all stages can be imported without these."""
    blocked = ("rich", "matplotlib", "cpuinfo", "pytest", "hypothesis", "sklearn", "torch", "cupy", "scipy", "pandas")
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nclass Blocked:\n"
        f"    def find_spec(self, name, path=None, target=None):\n"
        f"        if name in {blocked}: raise ModuleNotFoundError(name)\n"
        f"sys.meta_path.insert(0, Blocked())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    modules = [stage.module for stage in command.STAGES] + [
        "bench.first_contact.tables",
        "tests.devices",
        "tests.gpu_arrays",
        "tests.cases",
        "tests.reference",
    ]
    code = f"import {', '.join(modules)}\nimport bench.first_contact.small"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    arguments = ["-m", "bench.first_contact", "--budget", "60", "--out", str(tmp_path / "out"), "probe"]
    printed = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    ).stdout
    found = {line["step"]: line for line in map(json.loads, (tmp_path / "out" / FILE).read_text().splitlines())}
    assert list(found) == ["GPU", "NVVM", "versions", "nvidia-smi", "info"]
    assert found["versions"]["versions"]["numba"]
    assert all(json.dumps(line)[:40] in printed for line in found.values())
    assert re.search(r"^probe +0 +0", printed, re.MULTILINE)


def test_an_unknown_stage_is_refused(tmp_path):
    arguments = [sys.executable, "-m", "bench.first_contact", "--out", str(tmp_path), "bandwith"]
    found = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2
    assert "bandwith, must be among probe, correctness" in found.stderr


@pytest.mark.parametrize(
    ("summary", "status", "error"),
    [
        ("ERROR SUMMARY: 0 errors", 0, None),
        ("RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", 0, None),
        ("RACECHECK SUMMARY: 2 hazards displayed (1 error, 1 warning)", 0, AssertionError),
        ("ERROR SUMMARY: 13 errors", 0, AssertionError),
        ("ERROR SUMMARY: 0 errors", 1, AssertionError),
        ("cannot attach", 0, RuntimeError),
    ],
)
def test_what_compute_sanitizer_counts(tmp_path, monkeypatch, summary, status, error):
    """By a program in its place, which runs what it is given."""
    tool = tmp_path / sanitizer.PROGRAM
    tool.write_text(f'#!/bin/sh\nshift 2\n"$@" || exit 9\necho "========= {summary}"\nexit {status}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if error is None:
        assert sanitizer.run("memcheck", "-c", "print('right')")["printed"] == ["right", f"========= {summary}"]
    else:
        with pytest.raises(error, match=summary.partition(" ")[0]):
            sanitizer.run("memcheck", "-c", "pass")


def test_the_cases_under_compute_sanitizer_end_in_time_for_its_summary(monkeypatch):
    monkeypatch.setattr(gpu_device, "no_gpu", str)
    monkeypatch.setattr(sanitizer, "run", lambda *arguments: arguments)
    (step,) = sanitizer.steps("memcheck", 100.0).values()
    assert step() == ("memcheck", "-m", "bench.first_contact.small", repr(100.0 - sanitizer.LAST))


def test_without_compute_sanitizer_it_is_lacking(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sanitizer.glob, "glob", lambda pattern: [])
    with pytest.raises(Lacking, match="compute-sanitizer is not installed"):
        sanitizer.program()
