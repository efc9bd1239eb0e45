"""The device's time beside PyTorch, a copy on the device and what was predicted: the stages `bandwidth` and `host`.

Each call's results are held against the CPU's before it is timed, so this checks large arrays too.
"""

from functools import partial
from itertools import zip_longest
from typing import Any

from bench import gpu_device, gpu_systems, peers
from bench.cases import FAMILIES, Case, Operation, Shape, operations
from bench.first_contact.steps import Steps, need
from bench.timing import Timing, ratio
from numbanorm._operations import OPERATIONS

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
PREDICTED = {"layernorm": LAYER_NORM, "batchnorm": BATCH_NORM}
NOT_PREDICTED = {  # of the other families
    "axis": {Shape("Llama", (8192, 4096), -1): None, Shape("T5", (8192, 768), -1): None},
    "channel_axis": {Shape("ResNet-50", (32, 256, 56, 56), 1): None},
}
TINY = {"axis": Shape("tiny", (1, 768), -1), "channel_axis": Shape("tiny", (60, 100), 1)}


def steps(part: str, until: float) -> Steps:
    """The GPU and its clocks, each case, and its clocks when it is warm."""
    found: Steps = {"clocks": clocks}
    for case, predicted in _cases():
        found[_name(case)] = partial(device_time, case, predicted)
    return found | {"clocks at the end": clocks}


def _cases() -> list[tuple[Case, float | None]]:
    """The shapes of the families take turns."""
    turns = zip_longest(*map(_of_family, FAMILIES), fillvalue=[])
    return [case for turn in turns for cases in turn for case in cases]


def _of_family(family: str) -> list[list[tuple[Case, float | None]]]:
    """The cases of each shape."""
    found = _operations(family)
    shapes = PREDICTED[family] if family in PREDICTED else NOT_PREDICTED[found[0].axis_name]
    predicted = ((shape, shares or (None,) * len(found)) for shape, shares in shapes.items())
    return [
        [(Case(operation, shape), share) for operation, share in zip(found, shares, strict=True)]
        for shape, shares in predicted
    ]


def _operations(family: str) -> tuple[Operation, ...]:
    """Forward and backward, and inference where its statistics are given: else it has the kernel of forward."""
    training = operations(family, training=True)
    given = (one for one in operations(family) if one not in training and OPERATIONS[one.name].statistics)
    return *training, *given


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
    cases = [Case(operation, TINY[operation.axis_name]) for operation in operations(*FAMILIES)]
    return {_name(case): partial(host_time, case) for case in cases}


def host_time(case: Case) -> dict[str, Any]:
    """Median microseconds of each system."""
    need(gpu_device.missing())
    systems, notes = _systems(case)
    calls = {name: sets[0] for name, sets in systems.items()} | {LAUNCH: gpu_systems.bare_launch()}
    with peers.inference_mode():
        return {"ok": True, "us": _microseconds(gpu_device.host_times(calls, ROUNDS)), **notes}
