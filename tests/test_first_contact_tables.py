"""The tables that `bench.first_contact` makes of its lines."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.first_contact import tables

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "bench" / "results" / "first_contact_h200.jsonl"


@pytest.fixture
def lines(tmp_path):
    """A file of these lines."""

    def write(*found):
        path = tmp_path / "lines.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in found))
        return path

    return write


def timed(step, own, peer=None, predicted=None, **more):
    """A step of the stage `bandwidth`, of 302 MB and a copy of 50 us."""
    us = {"numbanorm": [own, 0.25], "copy": [50.0, 0.0]} | ({"PyTorch": [peer, 0.5]} if peer else {})
    of_copy = {system: 50.0 / median for system, (median, _) in us.items()}
    gb_per_s = round(302e3 / own)
    line = {"run": 1.0, "stage": "bandwidth", "step": step, "us": us, "of_copy": of_copy, "gb_per_s": gb_per_s}
    return line | {"predicted_of_copy": predicted} | more


def test_the_later_line_of_a_step_counts_whichever_run_it_is_of(lines):
    path = lines(
        timed("a, x", 100.0),
        timed("b, x", 80.0),
        {"run": 1.0, "stage": "bandwidth", "stopped": "no time left", "left": ["c, x"]},
        timed("a, x", 60.0, run=2.0),
        timed("a, x", 10.0, stage="host"),
    )
    found = tables.steps(path, "bandwidth")
    assert {name: line["us"]["numbanorm"][0] for name, line in found.items()} == {"a, x": 60.0, "b, x": 80.0}


def test_the_times_of_the_device_are_beside_those_of_pytorch_and_the_copy(lines):
    path = lines(
        {"run": 1.0, "stage": "bandwidth", "step": "clocks", "gpu": "one"},
        timed("forward, 2 x 3", 100.0, 150.0),
        timed("backward, 2 x 3", 200.0),
        timed("forward, 4 x 5", 62.5, 50.0),
    )
    table = tables.device_table(tables.steps(path, "bandwidth"))
    assert table.rows == [
        ["forward, 2 x 3", "100.0 ± 0.2", "150.0 ± 0.5", "50.0", "0.50", "0.33", "1.50", "3020"],
        ["forward, 4 x 5", "62.5 ± 0.2", "50.0 ± 0.5", "50.0", "0.80", "1.00", "0.80", "4832"],
        ["backward, 2 x 3", "200.0 ± 0.2", "-", "50.0", "0.25", "-", "-", "1510"],
    ]
    assert {len(row) for row in table.rows} == {len(table.header)}


def test_a_predicted_share_is_a_time_on_the_h100(lines):
    """302 MB at 3.02 TB/s are 100 us, of which half is twice; the copy moves 302 MB in 50 us."""
    path = lines(timed("forward, 2 x 3", 125.0, predicted=0.5), timed("forward, 4 x 5", 125.0))
    table = tables.predicted_table(tables.steps(path, "bandwidth"))
    assert table.rows == [["forward, 2 x 3", "0.50", "0.40", "200.0", "125.0", "6.04"]]
    assert len(table.header) == 6


def test_the_times_of_the_host_are_beside_a_bare_launch(lines):
    us = {"numbanorm": [96.13, 0.87], "empty kernel": [30.58, 0.36]}
    path = lines({"run": 1.0, "stage": "host", "step": "layer_norm, tiny", "us": us})
    assert tables.host_table(tables.steps(path, "host")).rows == [["layer_norm, tiny", "96.1 ± 0.9", "-", "30.6 ± 0.4"]]


def test_numbers_of_threads_are_columns(lines):
    def cpu(case, threads, ms, share):
        step = f"{case}, {threads} of 4 threads"
        times, shares = {"numbanorm": ms, "out=": 1.0}, {"numbanorm": share, "out=": 1.0}
        return {"run": 1.0, "stage": "cpu", "step": step, "threads": threads, "ms": times, "of_ceiling": shares}

    path = lines(
        cpu("f, 2 x 3, axis 1", 4, 2.5, 0.75), cpu("f, 2 x 3, axis 1", 1, 10.0, 0.5), cpu("g, 2", 4, 3.0, 0.25)
    )
    table = tables.cpu_table(tables.steps(path, "cpu"))
    assert table.header == ["operation, x", "ms by 1", "ms by 4", "of ceiling by 1", "of ceiling by 4"]
    assert table.rows == [["f, 2 x 3, axis 1", "10.00", "2.50", "0.50", "0.75"], ["g, 2", "-", "3.00", "-", "0.25"]]


def test_both_readmes_have_the_tables_of_the_lines_that_are_kept(tmp_path):
    """So no figure there was changed by hand."""
    pages = Path("README.md"), Path("bench", "README.md")
    (tmp_path / "bench").mkdir()
    for page in pages:
        shutil.copy(ROOT / page, tmp_path / page)
    tables.write(KEPT, tmp_path)
    for page in pages:
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()
    assert "NVIDIA H200, driver 580.159.04" in (tmp_path / "README.md").read_text()


def test_a_readme_without_the_markers_is_told(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(ValueError, match=r"README\.md: no markers <!-- first-contact:begin -->"):
        tables.write(KEPT, tmp_path)


def test_results_are_either_written_or_read():
    command = [sys.executable, "-m", "bench.first_contact"]
    for options in (["--readme", str(KEPT), "--out", "there"], []):
        found = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert found.returncode == 2
        assert "--readme" in found.stderr
