"""Statistics and scalers: what is timed beside NumPy and scikit-learn, and the bytes that it must move.

For X of n values of 4 bytes (all else is a few values per column, small beside it)::

    Moments.of, fit      reads X               4 n bytes
    transform            reads X, writes y     8 n bytes
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

import numbanorm
from bench.bandwidth import ORDINARY, STREAMING, copies, read
from bench.cases import random
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, ratio, time_calls

SHAPES = ((1_000, 10), (100_000, 20), (1_000_000, 64))
ROUNDS, QUICK_ROUNDS = 11, 3
LARGE = 50  # MB
TARGETS = {"fit": 5, "transform": 3}  # times as fast as scikit-learn on 1,000,000 x 64; nowhere slower
OF_CEILING = 0.7  # on large arrays
TOLERANCE = 2e-5  # of float32 results of scikit-learn's, which rounds more often


class Result(NamedTuple):
    """An operation on one shape, and the times of all systems and of the ceiling's kinds."""

    operation: str
    shape: tuple[int, int]
    megabytes: float
    timings: dict[str, Timing]

    @property
    def speed_up(self) -> float:
        return ratio(self.timings["peer"], self.timings["numbanorm"])

    @property
    def of_ceiling(self) -> float:
        kinds = [timing for name, timing in self.timings.items() if name not in ("numbanorm", "peer")]
        return ratio(min(kinds, key=lambda timing: timing.median), self.timings["numbanorm"])


def measure(console: Console, quick: bool) -> list[Result]:
    """Check and time all operations; the results."""
    cases = [(operation, shape) for operation in OPERATIONS for shape in SHAPES]
    rounds = QUICK_ROUNDS if quick else ROUNDS
    return [_measure(*case, rounds) for case in track(cases, "scalers", console=console)]


def _measure(operation: str, shape: tuple[int, int], rounds: int) -> Result:
    make, writes = OPERATIONS[operation]
    X = random(0, *shape)
    own, peer, agree = make(X)
    agree()
    ceiling = copies(1, X.nbytes) if writes else {"read": read(X.nbytes)}
    timings = time_calls({"peer": peer, "numbanorm": own} | ceiling, rounds)
    return Result(operation, shape, (1 + writes) * X.nbytes / 1e6, timings)


def _moments(X: np.ndarray):
    """Beside what NumPy does in as many digits; its own float32 sums are wrong in the third."""

    def peer():
        return X.mean(0, np.float64), X.var(0, np.float64)

    def agree():
        found = numbanorm.Moments.of(X)
        np.testing.assert_allclose((found.mean, found.var()), peer(), rtol=1e-9)

    return lambda: numbanorm.Moments.of(X), peer, agree


def _of_scaler(kind: str, call: str, **options):
    def make(X: np.ndarray):
        from sklearn import preprocessing

        scalers = [getattr(module, kind)(**options).fit(X) for module in (numbanorm, preprocessing)]

        def agree():
            own, peer = (scaler.transform(X.copy()) for scaler in scalers)
            np.testing.assert_allclose(own, peer, rtol=0, atol=TOLERANCE * np.abs(peer).max())

        return *(lambda scaler=scaler: getattr(scaler, call)(X) for scaler in scalers), agree

    return make


OPERATIONS: dict[str, tuple[Callable, bool]] = {
    "Moments.of": (_moments, False),
    "StandardScaler.fit": (_of_scaler("StandardScaler", "fit"), False),
    "StandardScaler.transform": (_of_scaler("StandardScaler", "transform"), True),
    "StandardScaler.inverse_transform": (_of_scaler("StandardScaler", "inverse_transform"), True),
    "MinMaxScaler.fit": (_of_scaler("MinMaxScaler", "fit"), False),
    "MinMaxScaler.transform": (_of_scaler("MinMaxScaler", "transform"), True),
    "MinMaxScaler.transform, clip": (_of_scaler("MinMaxScaler", "transform", clip=True), True),
}


def table(results: list[Result]) -> Table:
    """A row for each."""
    header = ["operation, X", "MB", "numbanorm ms", "scikit-learn or NumPy ms", "speed-up", "of ceiling", "target met"]
    return Table("Statistics and scalers, float32", header, [_row(result) for result in results])


def _row(result: Result) -> list[str]:
    rows, columns = result.shape
    both = result.timings["numbanorm"], result.timings["peer"]
    times = (f"{timing.median * 1e3:.3g} ± {timing.spread * 1e3:.2g}" for timing in both)
    ratios = f"{result.speed_up:.1f}", f"{result.of_ceiling:.2f}"
    return [f"{result.operation}, {rows} x {columns}", f"{result.megabytes:.3g}", *times, *ratios, _verdict(result)]


def _verdict(result: Result) -> str:
    """Of a scaler: whether it is as fast as it is meant to be."""
    large = result.megabytes > LARGE
    least = max([1.0] + [times for name, times in TARGETS.items() if large and f".{name}" in result.operation])
    return "yes" if result.speed_up >= least and (not large or result.of_ceiling >= OF_CEILING) else "NO"


def save(results: list[Result]) -> Path:
    """A row per case; returns the path."""
    return append("scalers", [_record(result) for result in results])


def _record(result: Result) -> dict[str, object]:
    record: dict[str, object] = {"operation": result.operation, "shape": "x".join(map(str, result.shape))}
    for name in ("numbanorm", "peer", "read", ORDINARY, STREAMING):
        timing = result.timings.get(name)
        low, high = timing.quartiles if timing else ("", "")
        record |= {f"{name} s": timing.median if timing else "", f"{name} low s": low, f"{name} high s": high}
    return record | {"speed-up": result.speed_up, "of ceiling": result.of_ceiling}
