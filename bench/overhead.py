"""What a call costs beside its kernel, on tiny arrays: checks, views, results and the dispatch of compiled code.

The bare kernel is what a user's own compiled function calls, on arrays that exist: see "From your own @njit code" in
the README. These functions are not cached: a cached one would go on calling kernels that have changed since.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numba
import numpy as np

import numbanorm
from bench.cases import Case, all_cases
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, ratio, time_calls
from numbanorm.cpu.engine.parallel import SERIAL
from numbanorm.cpu.kernels import batches as bn
from numbanorm.cpu.kernels import rows as ln

TIMED = ("call", "out=", "kernel")
ROUNDS, QUICK_ROUNDS = 101, 11
AT_MOST = {("layer_norm", (1, 768)): 3.5}


class Overhead(NamedTuple):
    """A case, and the times of the public call, of the same with out=, and of the bare kernel if it stands here."""

    case: Case
    timings: dict[str, Timing]

    @property
    def ratio(self) -> float | None:
        return ratio(self.timings["call"], self.timings["kernel"]) if "kernel" in self.timings else None


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


@numba.njit
def _rms_norm(x, weight, eps, y, rstd):
    ln.rms_norm_rows_forward(SERIAL, False, x, weight, 0.0, eps, y, 0.0, rstd)


@numba.njit
def _rms_norm_backward(dy, x, rstd, weight, dx, dweight):
    ln.rms_norm_rows_backward(SERIAL, False, dy, x, 0.0, rstd, weight, dx, dweight, 0.0)


def measure(quick: bool) -> list[Overhead]:
    """Every operation on every tiny shape."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    return [Overhead(case, time_calls(_calls(case), rounds)) for case in all_cases() if case.shape.network == "tiny"]


def _calls(case: Case):
    operation, shape = case.operation, case.shape
    arrays = operation.arrays(shape)
    call = partial(getattr(numbanorm, operation.name), *arrays, **{operation.axis_name: shape.axis})
    found = {"call": call, "out=": partial(call, out=np.empty(shape.sizes, np.float32))}
    kernel = _KERNELS.get(operation.name)
    return found | ({"kernel": kernel(np.empty(shape.sizes, np.float32), *arrays)} if kernel else {})


# The compiled functions with all they take: y or dx, and the arrays of the case. Tiny shapes are two-dimensional.


def _kernel_of_layer_norm(y, x, weight, bias):
    return partial(_layer_norm, x, weight, bias, 1e-5, y, *np.empty((2, len(x)), np.float32))


def _kernel_of_layer_norm_backward(dx, dy, x, mean, rstd, weight):
    gradients = np.zeros((2, len(weight)), np.float32)
    return partial(_layer_norm_backward, dy, x, mean.ravel(), rstd.ravel(), weight, dx, *gradients)


def _kernel_of_rms_norm(y, x, weight):
    return partial(_rms_norm, x, weight, 1e-6, y, np.empty(len(x), np.float32))


def _kernel_of_rms_norm_backward(dx, dy, x, rstd, weight):
    return partial(_rms_norm_backward, dy, x, rstd.ravel(), weight, dx, np.zeros_like(weight))


def _kernel_of_batch_norm(y, x, mean, var, weight, bias):
    given = mean.astype(np.float64), var.astype(np.float64), weight, bias
    return partial(_batch_norm, x[..., None], *given, 1e-5, y[..., None])


def _kernel_of_batch_norm_forward(y, x, weight, bias, running_mean, running_var):
    mean, var = np.empty((2, len(weight)))
    return partial(_batch_norm_forward, x[..., None], weight, bias, 1e-5, y[..., None], mean, weight.copy(), var)


def _kernel_of_batch_norm_backward(dx, dy, x, mean, rstd, weight):
    gradients = np.zeros((2, len(weight)), np.float32)
    return partial(_batch_norm_backward, dy[..., None], x[..., None], mean, rstd, weight, dx[..., None], *gradients)


_KERNELS: dict[str, Callable] = {
    "layer_norm": _kernel_of_layer_norm,
    "layer_norm_forward": _kernel_of_layer_norm,
    "layer_norm_backward": _kernel_of_layer_norm_backward,
    "rms_norm": _kernel_of_rms_norm,
    "rms_norm_forward": _kernel_of_rms_norm,
    "rms_norm_backward": _kernel_of_rms_norm_backward,
    "batch_norm": _kernel_of_batch_norm,
    "batch_norm_forward": _kernel_of_batch_norm_forward,
    "batch_norm_backward": _kernel_of_batch_norm_backward,
}


def table(results: list[Overhead]) -> Table:
    """A row per call, in microseconds."""
    header = ["call", "x", "call us", "out= us", "kernel us", "call / kernel", "at most", "met"]
    rows = []
    for result in results:
        operation, sizes = result.case.operation.name, result.case.shape.sizes
        at_most = AT_MOST.get((operation, sizes))
        times = [f"{result.timings[name].median * 1e6:.2f}" if name in result.timings else "-" for name in TIMED]
        shown, verdict = "-" if result.ratio is None else f"{result.ratio:.2f}", ["-", "-"]
        if at_most is not None and result.ratio is not None:
            verdict = [f"{at_most:g}", "yes" if result.ratio <= at_most else "NO"]
        rows.append([operation, " x ".join(map(str, sizes)), *times, shown, *verdict])
    return Table("Overhead: a call beside its bare kernel", header, rows)


def save(results: list[Overhead]):
    """A row per call; returns the path."""
    return append(
        "overhead",
        [
            {"operation": case.operation.name, "shape": "x".join(map(str, case.shape.sizes))}
            | {f"{name} s": timings[name].median if name in timings else "" for name in TIMED}
            for case, timings in results
        ],
    )
