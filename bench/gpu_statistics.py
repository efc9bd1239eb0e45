"""Statistics and scalers on a GPU, beside a copy on the device of as many bytes, for `gpu`.

Whole calls by the host's clock, from an idle device until it is idle again: most fetch what they have measured, and so
wait for it themselves. All calls are of the same array, which the cache does not hold.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

import numbanorm
from bench import gpu_systems
from bench.cases import random
from bench.tables import Table
from bench.timing import Timing, ratio

ROWS, COLUMNS = 1 << 19, 256  # 537 MB


def table(rounds: int) -> Table:
    """A row for each call."""
    kind = gpu_systems.library()
    x, other, one = (kind.to_device(a) for a in (random(0, ROWS, COLUMNS), random(1, ROWS, COLUMNS), np.ones(COLUMNS)))
    target, nbytes = kind.empty_like(x), ROWS * COLUMNS * 4
    timings = _times(_calls(x, other, one) | {"copy": (partial(kind.copy, target, x), 2)}, rounds)
    copied, rows = timings.pop("copy")[0], []
    for name, (timing, moved) in timings.items():
        megabytes, median = moved * nbytes / 1e6, timing.median
        times = f"{median * 1e3:.3g} ± {timing.spread * 1e3:.2g}", f"{megabytes / median / 1e3:.0f}"
        rows.append([name, f"{megabytes:.0f}", *times, f"{ratio(copied, timing) * moved / 2:.2f}"])
    header = ["call", "MB", "ms", "GB/s", "of copy"]
    return Table(f"statistics and scalers, {ROWS} x {COLUMNS}, float32, whole calls", header, rows)


def _calls(x, other, one) -> dict[str, tuple[Callable, int]]:
    """Each, and how many arrays of x's size it must move."""
    apply = partial(numbanorm.batch_norm_backward_apply, other, x, one, one, None, one, one, ROWS)
    standard, extremes = numbanorm.StandardScaler().fit(x), numbanorm.MinMaxScaler().fit(x)
    return {
        "Moments.of": (partial(numbanorm.Moments.of, x), 1),
        "batch_norm_backward_reduce": (partial(numbanorm.batch_norm_backward_reduce, other, x, one, one), 2),
        "batch_norm_backward_apply": (apply, 3),
        "StandardScaler.fit": (partial(standard.fit, x), 1),
        "StandardScaler.transform": (partial(standard.transform, x), 2),
        "MinMaxScaler.fit": (partial(extremes.fit, x), 1),
        "MinMaxScaler.transform": (partial(extremes.transform, x), 2),
    }


def _times(calls: dict[str, tuple[Callable, int]], rounds: int) -> dict[str, tuple[Timing, int]]:
    from numbanorm.cuda import cuda

    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, (call, _) in calls.items():
            cuda.synchronize()
            start = time.perf_counter()
            result = call()
            cuda.synchronize()
            samples[name].append(time.perf_counter() - start)
            del result
    return {name: (Timing(samples[name][1:]), moved) for name, (_, moved) in calls.items()}  # the first compiles
