"""The device's time beside PyTorch, a copy on the device and what was predicted: the stages `bandwidth` and `host`.

Each call's results are held against the CPU's before it is timed, so this checks large arrays too.
"""

from functools import partial
from itertools import zip_longest
from typing import Any

from bench import batchnorm, gpu_device, gpu_systems, layernorm, peers
from bench.cases import Case, Operation, Shape
from bench.first_contact.steps import Steps, need
from bench.timing import Timing, ratio

PEERS = ("PyTorch",)
COPY, LAUNCH = "copy", "empty kernel"
ROUNDS = 7

# Shares of a copy of the fewest bytes on an H100, from a queue model: 132 multiprocessors, PREDICTED_PACE, machine code
# for compute capability 9.0. The most telling shapes first. LN: forward and backward.
PREDICTED_PACE = 3.02  # TB/s
LAYER_NORM = {
    Shape("BERT", (8192, 768), -1): (0.95, 0.66),
    Shape("large", (16384, 4096), -1): (1.0, 0.91),
    Shape("long rows", (4096, 32768), -1): (0.86, 0.52),
    Shape("GPT-2", (4096, 1024), -1): (0.92, 0.56),
    Shape("wide", (4096, 8192), -1): None,
    Shape("wide", (4096, 16384), -1): None,
}
# BN: forward, backward and inference.
BATCH_NORM = {
    Shape("ResNet-50", (32, 256, 56, 56), 1): (0.53, 0.53, 0.92),
    Shape("ResNet-50", (32, 112, 112, 64), -1): (0.44, 0.47, 0.93),
    Shape("ResNet-50", (256, 512, 7, 7), 1): (0.28, 0.38, 0.58),
    Shape("ResNet-50", (32, 56, 56, 256), -1): (0.49, 0.51, 0.93),
    Shape("MLP", (16384, 1024), 1): (0.53, 0.54, 0.90),
    Shape("ResNet-50", (32, 64, 112, 112), 1): (0.53, 0.53, 0.92),
    Shape("ResNet-50", (256, 7, 7, 512), -1): (0.44, 0.49, 0.80),
}
TINY = (layernorm, Shape("tiny", (1, 768), -1)), (batchnorm, Shape("tiny", (60, 100), 1))


def steps(part: str, until: float) -> Steps:
    """The GPU and its clocks, each case, and its clocks when it is warm."""
    found: Steps = {"clocks": clocks}
    for case, predicted in _cases():
        found[_name(case)] = partial(device_time, case, predicted)
    return found | {"clocks at the end": clocks}


def _cases() -> list[tuple[Case, float | None]]:
    """The shapes of LN and of BN take turns."""
    layer_norm = [_cases_of(layernorm.OPERATIONS[1:], shape, shares) for shape, shares in LAYER_NORM.items()]
    forward, backward, inference = (batchnorm.OPERATIONS[i] for i in (1, 2, 0))
    batch_norm = [_cases_of((forward, backward, inference), *pair) for pair in BATCH_NORM.items()]
    turns = zip_longest(layer_norm, batch_norm, fillvalue=[])
    return [case for turn in turns for cases in turn for case in cases]


def _cases_of(operations: tuple[Operation, ...], shape: Shape, shares: tuple[float, ...] | None):
    predicted = shares or (None,) * len(operations)
    return [(Case(operation, shape), share) for operation, share in zip(operations, predicted, strict=True)]


def _name(case: Case) -> str:
    return f"{case.operation.name}, {case.shape}"


def clocks() -> dict[str, Any]:
    need(gpu_device.missing())
    return gpu_device.facts()


def device_time(case: Case, predicted: float | None) -> dict[str, Any]:
    """Median microseconds of each system, and what they are of a copy."""
    need(gpu_device.missing())
    systems, notes = _systems(case)
    with peers.inference_mode():
        timings = gpu_device.device_times(systems | {COPY: gpu_systems.copies(case)}, ROUNDS)
    shares = {name: round(ratio(timings[COPY], timings[name]), 3) for name in systems}
    return {
        "ok": True,
        "us": _microseconds(timings),
        "gb_per_s": round(case.megabytes / timings["numbanorm"].median / 1e3),
        "of_copy": shares,
        "predicted_of_copy": predicted,
        **notes,
    }


def _systems(case: Case) -> tuple[dict[str, list], dict[str, Any]]:
    """And what is to be said of the peers that are not among them."""
    notes: list[str] = [f"{name} needs {lack}" for name in PEERS if (lack := gpu_systems.lacks(name))]
    with peers.inference_mode():
        systems = gpu_systems.systems(case, notes.append, PEERS)
    return systems, {"notes": notes} if notes else {}


def _microseconds(timings: dict[str, Timing]) -> dict[str, list[float]]:
    """Median and spread."""
    return {name: [round(t.median * 1e6, 2), round(t.spread * 1e6, 2)] for name, t in timings.items()}


def host_steps(part: str, until: float) -> Steps:
    """What tiny arrays take the host, beside a bare launch."""
    cases = [Case(operation, shape) for module, shape in TINY for operation in module.OPERATIONS]
    return {_name(case): partial(host_time, case) for case in cases}


def host_time(case: Case) -> dict[str, Any]:
    """Median microseconds of each system."""
    need(gpu_device.missing())
    systems, notes = _systems(case)
    calls = {name: sets[0] for name, sets in systems.items()} | {LAUNCH: gpu_systems.bare_launch()}
    with peers.inference_mode():
        return {"ok": True, "us": _microseconds(gpu_device.host_times(calls, ROUNDS)), **notes}
