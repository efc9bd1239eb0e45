"""A first contact without a GPU, by the emulated device of the tests: it shows that the stages work, and no speed."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np

from bench import gpu_device, gpu_systems
from bench.cases import Shape
from bench.first_contact import bandwidth, correctness, sanitizer
from bench.first_contact.steps import Lacking
from bench.timing import Timing

PREDICTED = {
    "layernorm": {Shape("small", (6, 64), -1): (1.0, 1.0)},
    "batchnorm": {Shape("small", (3, 8, 5, 4), 1): None},
}
NOT_PREDICTED = {"axis": {Shape("small", (6, 64), -1): None}, "channel_axis": {}}
TINY = {"axis": Shape("tiny", (6, 64), -1), "channel_axis": Shape("tiny", (20, 8), 1)}
FAMILIES = {
    "rows": [correctness.Case("layer_norm", (5, 64))],
    "RMS normalization": [correctness.Case("rms_norm", (5, 64))],
    "rows of channels": [correctness.Case("batch_norm", (20, 8), 1)],
    "frozen": [correctness.Case("batch_norm", (20, 8), 1, "frozen")],
    "masked": [correctness.Case("batch_norm", (3, 8, 5, 4), 1, "masked")],
    "moments": [correctness.Case("moments", (3, 8, 5, 4), 1)],
    "scalers": [correctness.Case("scalers", (40, 6))],
    "libraries": [correctness.Case("both norms", (20, 8), 1)],
}


@contextmanager
def emulated() -> Iterator[None]:
    """In which the stages find a GPU, and small cases for it."""
    from tests import emulator
    from tests.devices import EMULATED

    library = gpu_systems.Library(emulator.to_device, emulator.to_host, _empty_like, _copy)
    replaced = {
        gpu_device: {"no_gpu": str, "facts": _facts, "device_times": _times, "host_times": _host_times},
        gpu_systems: {"library": lambda: library, "sets_of": lambda case: 2, "bare_launch": lambda: lambda: None},
        bandwidth: {"PREDICTED": PREDICTED, "NOT_PREDICTED": NOT_PREDICTED, "TINY": TINY, "PEERS": ()},
        sanitizer: {"program": _no_sanitizer},
        correctness: {
            "device_of": lambda name: EMULATED,
            "FAMILIES": {name: FAMILIES.get(name, []) for name in correctness.FAMILIES},
            "DTYPES": (np.float32,),
        },
    }
    with ExitStack() as stack:
        stack.enter_context(emulator.emulated())
        for module, names in replaced.items():
            stack.enter_context(patch.multiple(module, **names))
        yield


def _facts() -> dict[str, object]:
    return {"gpu": "emulated"}


def _no_sanitizer() -> str:
    raise Lacking("compute-sanitizer watches nothing that is emulated")


def _empty_like(array):
    from tests import emulator

    return emulator.empty(array, array.shape, array.strides, array.dtype)


def _copy(target, source):
    from tests import emulator

    emulator.to_host(target)[...] = emulator.to_host(source)


def _times(systems: dict[str, list[Callable]], rounds: int) -> dict[str, Timing]:
    return _host_times({name: partial(_all, calls) for name, calls in systems.items()}, rounds)


def _all(calls: list[Callable]) -> None:
    for call in calls:
        call()


def _host_times(calls: dict[str, Callable], rounds: int) -> dict[str, Timing]:
    """Two rounds: an emulated call takes long."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - start)
    return {name: Timing(taken) for name, taken in samples.items()}
