"""What a call costs beside its kernel, on tiny arrays: checks, views, results and the dispatch of compiled code.

The bare kernel is what a user's own compiled function calls, on arrays that exist: see "From your own @njit code" in
the README. These functions are not cached: a cached one would go on calling kernels that have changed since.
"""

from functools import partial
from typing import NamedTuple

import numba
import numpy as np

import numbanorm
from bench import batchnorm, layernorm
from bench.cases import Case
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, ratio, time_calls
from numbanorm.cpu.engine.parallel import SERIAL
from numbanorm.cpu.kernels import batches as bn
from numbanorm.cpu.kernels import rows as ln

ROUNDS, QUICK_ROUNDS = 101, 11
AT_MOST = {("layer_norm", (1, 768)): 3.5}


class Overhead(NamedTuple):
    """A case, and the times of the public call, of the same with out=, and of the bare kernel."""

    case: Case
    timings: dict[str, Timing]

    @property
    def ratio(self) -> float:
        return ratio(self.timings["call"], self.timings["kernel"])


@numba.njit
def _layer_norm(x, weight, bias, eps, y, mean, rstd):
    ln.layer_norm_rows_forward(SERIAL, False, x, weight, bias, eps, y, mean, rstd)


@numba.njit
def _layer_norm_backward(dy, x, mean, rstd, weight, dx, dweight, dbias):
    ln.layer_norm_rows_backward(SERIAL, False, dy, x, mean, rstd, weight, dx, dweight, dbias)


@numba.njit
def _batch_norm(x, mean, var, weight, bias, eps, y):
    bn.batch_norm(SERIAL, False, x, mean, var, weight, bias, eps, y)


@numba.njit
def _batch_norm_forward(x, weight, bias, eps, y, mean, rstd, var):
    bn.batch_norm_forward(SERIAL, False, x, weight, bias, eps, y, mean, rstd, var)


@numba.njit
def _batch_norm_backward(dy, x, mean, rstd, weight, dx, dweight, dbias):
    bn.batch_norm_backward(SERIAL, False, dy, x, mean, rstd, weight, dx, dweight, dbias)


def measure(quick: bool) -> list[Overhead]:
    """Every operation on every tiny shape."""
    cases = layernorm.cases(np.float32) + batchnorm.cases(np.float32)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    return [Overhead(case, time_calls(_calls(case), rounds)) for case in cases if case.shape.network == "tiny"]


def _calls(case: Case):
    operation, shape = case.operation, case.shape
    arrays = operation.arrays(shape)
    call = partial(getattr(numbanorm, operation.name), *arrays, **{operation.axis_name: shape.axis})
    return {"call": call, "out=": partial(call, out=np.empty(shape.sizes, np.float32)), "kernel": _kernel(case, arrays)}


def _kernel(case: Case, arrays):
    """The compiled function with all it takes; tiny shapes are two-dimensional."""
    rows, cols = case.shape.sizes
    eps, result = 1e-5, np.empty((rows, cols), np.float32)
    if case.operation.name == "layer_norm_backward":
        dy, x, mean, rstd, weight = arrays
        gradients = np.zeros((2, cols), np.float32)
        return partial(_layer_norm_backward, dy, x, mean.ravel(), rstd.ravel(), weight, result, *gradients)
    if case.operation.axis_name == "axis":
        return partial(_layer_norm, *arrays, eps, result, *np.empty((2, rows), np.float32))

    def three(a):
        return a.reshape(rows, cols, 1)

    if case.operation.name == "batch_norm":
        x, mean, var, *affine = arrays
        return partial(
            _batch_norm, three(x), mean.astype(np.float64), var.astype(np.float64), *affine, eps, three(result)
        )
    if case.operation.name == "batch_norm_forward":
        x, *affine = arrays[:3]
        mean, var = np.empty((2, cols))
        return partial(_batch_norm_forward, three(x), *affine, eps, three(result), mean, affine[0].copy(), var)
    dy, x, *statistics = arrays
    gradients = np.zeros((2, cols), np.float32)
    return partial(_batch_norm_backward, three(dy), three(x), *statistics, three(result), *gradients)


def table(results: list[Overhead]) -> Table:
    """A row per call, in microseconds."""
    header = ["call", "x", "call us", "out= us", "kernel us", "call / kernel", "at most", "met"]
    rows = []
    for result in results:
        operation, sizes = result.case.operation.name, result.case.shape.sizes
        at_most = AT_MOST.get((operation, sizes))
        times = [f"{result.timings[name].median * 1e6:.2f}" for name in ("call", "out=", "kernel")]
        verdict = ["-", "-"] if at_most is None else [f"{at_most:g}", "yes" if result.ratio <= at_most else "NO"]
        rows.append([operation, " x ".join(map(str, sizes)), *times, f"{result.ratio:.2f}", *verdict])
    return Table("Overhead: a call beside its bare kernel", header, rows)


def save(results: list[Overhead]):
    """A row per call; returns the path."""
    return append(
        "overhead",
        [
            {"operation": case.operation.name, "shape": "x".join(map(str, case.shape.sizes))}
            | {f"{name} s": timing.median for name, timing in timings.items()}
            for case, timings in results
        ],
    )
