"""How many threads calls may use."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from numba.core import config

_OWN = "NUMBANORM_NUM_THREADS"


def thread_count(asked: int | None) -> int:
    """The smallest limit that is set; 1 in a child of multiprocessing unless it was `asked` for more, or by _OWN."""
    if asked is None and not os.environ.get(_OWN) and is_multiprocessing_child():
        return 1
    return min(limits(asked).values())


def limits(asked: int | None) -> dict[str, int]:
    """What limits the number of threads, by its name."""
    found = {
        "set_num_threads": asked,
        _OWN: _own_limit(),
        "NUMBA_NUM_THREADS": _numba_limit(),
        "OMP_NUM_THREADS": _openmp_limit(),
        "processors": len(processors()),
        "cgroup quota": cgroup_quota(),
    }
    return {name: limit for name, limit in found.items() if limit is not None}


def _own_limit() -> int | None:
    text = os.environ.get(_OWN)
    if not text:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{_OWN}: {text!r}, must be a whole number of at least 1")
    return int(text)


def _numba_limit() -> int | None:
    """Unless it is what Numba found of itself: the processors of the thread that imported it, at that time."""
    limit = int(config.NUMBA_NUM_THREADS)
    return limit if "NUMBA_NUM_THREADS" in os.environ or limit != config.NUMBA_DEFAULT_NUM_THREADS else None


def _openmp_limit() -> int | None:
    """Of the outermost level. What is no number OpenMP passes over, and so does this."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def processors() -> set[int]:
    """Those that this process may run on: its first thread, since others may be bound to some of them.

    All, where the system does not say, as where a filter of system calls forbids the question.
    """
    try:
        return os.sched_getaffinity(os.getpid())
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def is_multiprocessing_child() -> bool:
    """Without importing what a parent of such children has imported."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def cgroup_quota(mounts: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The whole processors' worth of time that the process's control groups grant it, if they set a limit.

    Rounded down, but to no less than 1: who uses more than the quota is stopped for the rest of its period.
    """
    try:
        lines = own.read_text().splitlines()
    except (OSError, ValueError):
        return None
    quotas = [quota for line in lines for quota in _quotas(mounts, *line.split(":", 2)[1:])]
    return max(1, int(min(quotas))) if quotas else None


def _quotas(mounts: Path, controllers: str, group: str) -> Iterator[float]:
    """Of a group and all above it; a container may see its own group as the topmost one."""
    if controllers == "":
        mounted, files = (mounts, mounts / "unified"), ("cpu.max",)
    elif "cpu" in controllers.split(","):
        mounted, files = (mounts / "cpu", mounts / controllers), ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    else:
        return
    path = Path(group.lstrip("/"))
    for directory in (mount / part for mount in mounted for part in (path, *path.parents)):
        try:
            quota, period = " ".join((directory / name).read_text() for name in files).split()
            if int(quota) > 0:  # -1 and "max": none
                yield int(quota) / int(period)
        except (OSError, ValueError):
            continue
