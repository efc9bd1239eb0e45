"""Find how many threads calls may use."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from numbanorm.cpu.compiling.numba_internals import config

_VARIABLE = "NUMBANORM_NUM_THREADS"


def thread_count(asked: int | None) -> int:
    """Return the smallest limit that is set.

    A child of multiprocessing has one thread, unless it has `asked` for more or the environment variable is set.
    """
    if asked is None and not os.environ.get(_VARIABLE) and is_multiprocessing_child():
        return 1
    return min(limits(asked).values())


def limits(asked: int | None) -> dict[str, int]:
    """Return the limits on the number of threads, by name."""
    found = {
        "set_num_threads": asked,
        _VARIABLE: _variable_limit(),
        "NUMBA_NUM_THREADS": _numba_limit(),
        "OMP_NUM_THREADS": _openmp_limit(),
        "processors": len(processors()),
        "cgroup quota": cgroup_quota(),
    }
    return {name: limit for name, limit in found.items() if limit is not None}


def _variable_limit() -> int | None:
    text = os.environ.get(_VARIABLE)
    if not text:
        return None
    if not text.strip().isdecimal() or int(text) < 1:
        raise ValueError(f"{_VARIABLE}: {text!r}, must be a whole number of at least 1")
    return int(text)


def _numba_limit() -> int | None:
    """Return NUMBA_NUM_THREADS, if somebody has set it.

    Numba's own default depends on the thread that imported Numba.
    """
    limit = int(config.NUMBA_NUM_THREADS)
    return limit if "NUMBA_NUM_THREADS" in os.environ or limit != config.NUMBA_DEFAULT_NUM_THREADS else None


def _openmp_limit() -> int | None:
    """Return the first number of OMP_NUM_THREADS, which is for the outermost level.

    As in OpenMP, other text is ignored.
    """
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def processors() -> set[int]:
    """Return the processors that this process may run on.

    They are those of its first thread, since other threads may be bound to some of them. If the system does not say,
    as where a filter forbids the system call, they are all processors.
    """
    try:
        return os.sched_getaffinity(os.getpid())
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def is_multiprocessing_child() -> bool:
    """Return whether this process is a child of multiprocessing. Nothing is imported to find out."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None


def cgroup_quota(mounts: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the number of processors whose time the process's control groups grant it.

    It is None without a limit. It is rounded down, but never below 1. A process that exceeds its quota is stopped for
    the rest of a period.
    """
    try:
        lines = groups.read_text().splitlines()
    except (OSError, ValueError):
        return None
    quotas = [quota for line in lines for quota in _quotas(mounts, *line.split(":", 2)[1:])]
    return max(1, int(min(quotas))) if quotas else None


def _quotas(mounts: Path, controllers: str, group: str) -> Iterator[float]:
    """Return the quotas of a group and of all groups above it.

    A container may see its group as the topmost one.
    """
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
