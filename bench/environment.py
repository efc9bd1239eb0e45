"""Where a number was measured: machine, versions and commit."""

import csv
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import cpuinfo

import numbanorm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


@cache
def environment() -> dict[str, object]:
    """One text per column of the results."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": cpuinfo.get_cpu_info().get("brand_raw", platform.processor()),
        "cores": str(cores()),
        "threads": str(numbanorm.get_num_threads()),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numbanorm": numbanorm.__version__,
        "numpy": version("numpy"),
        "numba": version("numba"),
        "torch": _version_or_dash("torch"),
        "jax": _version_or_dash("jax"),
        "onnxruntime": _version_or_dash("onnxruntime"),
    }


def machine_line(all_peers: bool = False) -> str:
    """The environment as a sentence."""
    e = environment()
    more = f", JAX {e['jax']}, ONNX Runtime {e['onnxruntime']}" if all_peers else ""
    return (
        f"{e['machine']}, {e['cores']} cores, {e['threads']} threads; Python {e['python']}, NumPy {e['numpy']}, "
        f"Numba {e['numba']}, PyTorch {e['torch']}{more}; numbanorm {e['numbanorm']} at commit {e['commit']}"
    )


def append(name: str, records: list[dict[str, object]]) -> Path:
    """Append to bench/results/name.csv, each row with the environment; returns the path.

    A file with other columns is kept under another name.
    """
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    rows = [environment() | record for record in records]
    header = list(rows[0])
    if path.exists() and path.read_text().partition("\n")[0] != ",".join(header):  # other columns: start anew
        path.rename(path.with_name(f"{name} until {rows[0]['time'].replace(':', '')}.csv"))
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, header)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
    return path


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version_or_dash(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _commit() -> str:
    """The short hash, with -dirty if tracked files differ from it."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=9", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
