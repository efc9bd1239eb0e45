"""Tables of what a GPU showed, in README.md and bench/README.md: ``python -m bench.first_contact --readme FILE``."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import readme
from bench.first_contact.bandwidth import COPY, LAUNCH, PREDICTED_PACE
from bench.tables import Table

PEER = "PyTorch"
Steps = dict[str, dict[str, Any]]


def write(path: Path, root: Path = readme.README.parent) -> None:
    """From the lines of FILE into the READMEs of the source tree `root`."""
    probe, bandwidth, host, cpu = (steps(path, stage) for stage in ("probe", "bandwidth", "host", "cpu"))
    readme.write("first-contact", [device_table(bandwidth), host_table(host)], gpu_line(probe), root / "README.md")
    page = root / "bench" / "README.md"
    readme.write("predicted", [predicted_table(bandwidth)], gpu_line(probe), page)
    readme.write("threads", [cpu_table(cpu)], cpu_line(probe), page)


def steps(path: Path, stage: str) -> Steps:
    """The last line of each step, from all runs of the file."""
    lines = map(json.loads, path.read_text().splitlines())
    return {line["step"]: line for line in lines if line["stage"] == stage and "step" in line}


def _timed(found: Steps) -> Steps:
    """The steps with times, those of an operation together."""
    timed = {name: line for name, line in found.items() if "us" in line}
    operations = list(dict.fromkeys(map(_operation, timed)))
    return {name: timed[name] for name in sorted(timed, key=lambda name: operations.index(_operation(name)))}


def _operation(name: str) -> str:
    return name.partition(",")[0]


def device_table(found: Steps) -> Table:
    header = ["operation, x", "numbanorm µs", f"{PEER} µs", "copy µs", "of copy", f"{PEER} of copy"]
    rows = []
    for name, line in _timed(found).items():
        us, share = line["us"], line["of_copy"]
        peer = [f"{share[PEER]:.2f}", f"{us[PEER][0] / us['numbanorm'][0]:.2f}"] if PEER in us else ["-", "-"]
        times = [_spread(us, "numbanorm"), _spread(us, PEER), f"{us[COPY][0]:.1f}"]
        rows.append([name, *times, f"{share['numbanorm']:.2f}", *peer, str(line["gb_per_s"])])
    return Table("Time of the device, float32", [*header, f"times as fast as {PEER}", "GB/s"], rows)


def host_table(found: Steps) -> Table:
    systems = ("numbanorm", PEER, LAUNCH)
    rows = [[name, *(_spread(line["us"], system) for system in systems)] for name, line in _timed(found).items()]
    return Table("Time of the host", ["call", "numbanorm µs", f"{PEER} µs", "bare launch µs"], rows)


def _spread(us: dict[str, list[float]], system: str) -> str:
    if system not in us:
        return "-"
    median, spread = us[system]
    return f"{median:.1f} ± {spread:.1f}"


def predicted_table(found: Steps) -> Table:
    """What was predicted for an H100, as shares of a copy and as times, beside what was measured."""
    quantities = [f"{quantity}, {how}" for quantity in ("of copy", "µs") for how in ("predicted", "measured")]
    rows = []
    for name, line in _timed(found).items():
        (own, _), (copy, _), predicted = line["us"]["numbanorm"], line["us"][COPY], line["predicted_of_copy"]
        megabytes = line["gb_per_s"] * own / 1e3
        if predicted:
            shares, time = (f"{predicted:.2f}", f"{line['of_copy']['numbanorm']:.2f}"), megabytes / PREDICTED_PACE
            rows.append([name, *shares, f"{time / predicted:.1f}", f"{own:.1f}", f"{megabytes / copy:.2f}"])
    return Table("Predicted for an H100, and measured", ["operation, x", *quantities, "copy TB/s"], rows)


def cpu_table(found: Steps) -> Table:
    """Each case is a row; the numbers of threads are columns, twice."""
    cases: dict[str, Steps] = {}
    for name, line in found.items():
        cases.setdefault(name.rpartition(", ")[0], {})[line["threads"]] = line
    counts = sorted({threads for by_threads in cases.values() for threads in by_threads})
    rows = []
    for name, by_threads in cases.items():
        lines = [by_threads.get(threads) for threads in counts]
        times = [f"{line['ms']['numbanorm']:.2f}" if line else "-" for line in lines]
        rows.append([name, *times, *(f"{line['of_ceiling']['numbanorm']:.2f}" if line else "-" for line in lines)])
    header = [f"{unit}{threads}" for unit in ("ms by ", "of ceiling by ") for threads in counts]
    return Table("The CPU kernels by numbers of threads, float32", ["operation, x", *header], rows)


def gpu_line(probe: Steps) -> str:
    """Card, driver, clocks, versions and date."""
    packages = {"NumPy": "numpy", "Numba": "numba", "numba-cuda": "numba-cuda", PEER: "torch"}
    return f"{probe['GPU']['gpu']}; {_versions(probe['versions'], packages)}"


def cpu_line(probe: Steps) -> str:
    """The same of the CPU."""
    info = probe["info"]
    threads = info["threads"].partition(" ")[0]
    return f"{info['CPU']}; {threads} threads; {_versions(probe['versions'], {'NumPy': 'numpy', 'Numba': 'numba'})}"


def _versions(line: dict[str, Any], packages: dict[str, str]) -> str:
    versions = ", ".join(f"{name} {line['versions'][package] or '-'}" for name, package in packages.items())
    return f"Python {line['python']}, {versions}; {datetime.fromtimestamp(line['run'], UTC):%Y-%m-%d}"
