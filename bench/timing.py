"""How calls are timed against each other; the one protocol of every time that bench reports."""

import time
from collections.abc import Callable
from statistics import median, quantiles
from typing import NamedTuple

PAUSE = 0.010  # seconds, in which the threads of the call before stop spinning: those of OpenMP spin for 8 ms
SAMPLE = 200e-6  # seconds: shorter calls are repeated until a sample lasts so long, for the clock's sake


class Timing(NamedTuple):
    """Seconds per call, one sample for each round."""

    samples: list[float]

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles."""
        low, high = self.quartiles
        return (high - low) / 2


def ratio(numerator: Timing, denominator: Timing) -> float:
    """The median of the rounds' ratios: the memory's pace changes from round to round, and both share it in each."""
    return median(a / b for a, b in zip(numerator.samples, denominator.samples, strict=True))


def time_calls(calls: dict[str, Callable], rounds: int) -> dict[str, Timing]:
    """Time the calls in turn, round by round, so that whatever disturbs the machine disturbs all of them."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            _sample(call, repeats[name])  # wakes the threads and brings back what the caches can hold
            samples[name].append(_sample(call, repeats[name]))
    return {name: Timing(taken) for name, taken in samples.items()}


def _repeats(call) -> int:
    call()  # compiles
    return max(1, round(SAMPLE / min(_sample(call, 1) for _ in range(3))))


def _sample(call, repeats: int) -> float:
    result = None
    start = time.perf_counter_ns()
    for _ in range(repeats):
        result = call()  # held until the clock has stopped: freeing it is not the call's work
    stop = time.perf_counter_ns()
    del result
    return (stop - start) / repeats * 1e-9
