"""What a layer costs beside the functions that it calls, on tiny arrays."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import numbanorm
from bench.environment import append
from bench.tables import Table
from bench.timing import Timing, time_calls

ROUNDS, QUICK_ROUNDS = 101, 11


class Pass(NamedTuple):
    """A pass of a layer, and the times of the layer and of the functions."""

    name: str
    timings: dict[str, Timing]


def measure(quick: bool) -> list[Pass]:
    """Forward passes, with and without what backward needs, and forward and backward together."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    passes = _over_axes("LayerNorm", "layer_norm") | _over_axes("RMSNorm", "rms_norm") | _batch_norm()
    return [Pass(name, time_calls(calls, rounds)) for name, calls in passes.items()]


def _arrays(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)


def _both(layer, x, dy) -> Callable:
    def both():
        layer(x)
        return layer.backward(dy)

    return both


def _unkept(layer, x) -> Callable:
    def unkept():
        with numbanorm.no_grad():
            return layer(x)

    return unkept


def _over_axes(name: str, stem: str) -> dict[str, dict[str, Callable]]:
    x, dy = _arrays((1, 768))
    layer = getattr(numbanorm, name)(768)
    parameters = list(layer.parameters())
    inference, forward, backward = (getattr(numbanorm, stem + way) for way in ("", "_forward", "_backward"))

    def functions():
        _, *statistics = forward(x, *parameters)
        return backward(dy, x, *statistics, layer.weight)

    return {
        f"{name}, 1 x 768, forward": {"layer": lambda: layer(x), "functions": lambda: forward(x, *parameters)},
        f"{name}, 1 x 768, forward under no_grad": {
            "layer": _unkept(layer, x),
            "functions": lambda: inference(x, *parameters),
        },
        f"{name}, 1 x 768, forward and backward": {"layer": _both(layer, x, dy), "functions": functions},
    }


def _batch_norm() -> dict[str, dict[str, Callable]]:
    x, dy = _arrays((60, 100))
    layer = numbanorm.BatchNorm(100)
    running, parameters = (np.zeros(100), np.ones(100)), (layer.weight, layer.bias)
    evaluating = numbanorm.BatchNorm(100).eval()

    def functions():
        _, mean, rstd = numbanorm.batch_norm_forward(x, *parameters, *running)
        return numbanorm.batch_norm_backward(dy, x, mean, rstd, layer.weight)

    forward = {
        "layer": lambda: layer(x),
        "functions": lambda: numbanorm.batch_norm_forward(x, *parameters, *running),
    }
    unkept = {"layer": _unkept(evaluating, x), "functions": lambda: numbanorm.batch_norm(x, *running, *parameters)}
    return {
        "BatchNorm, 60 x 100, forward": forward,
        "BatchNorm, 60 x 100, evaluation under no_grad": unkept,
        "BatchNorm, 60 x 100, forward and backward": {"layer": _both(layer, x, dy), "functions": functions},
    }


def table(results: list[Pass]) -> Table:
    """A row per pass, in microseconds."""
    rows = []
    for name, timings in results:
        layer, functions = (timings[system].median * 1e6 for system in ("layer", "functions"))
        rows.append([name, f"{layer:.2f}", f"{functions:.2f}", f"{layer - functions:.2f}"])
    return Table("Layers beside the functions that they call", ["pass", "layer us", "functions us", "more us"], rows)


def save(results: list[Pass]):
    """A row per pass; returns the path."""
    rows = [{"pass": name} | {f"{system} s": t.median for system, t in timings.items()} for name, timings in results]
    return append("layers", rows)
