"""How many bytes the CUDA kernels move, beside the fewest that they could: counted where they are interpreted, without
a GPU.

Counted are the sectors of 32 bytes that each warp's loads and stores ask for. Parameters are left out, which every
block reads again, from the caches. The fewest are, forward, x and y; backward, dy, x and dx; and in batch normalization
one more reading of what is summed first, since no statistic is known before all of x has been read. What is above that
are statistics, the partial sums of the parameters' gradients, and sectors of which a part is wanted.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from numbanorm import Moments, StandardScaler
from numbanorm._operations import OPERATIONS
from tests import emulator
from tests.examples import arrays_changed

MOST_BLOCKS = 24  # of a launch are executed: they are all alike


class Case(NamedTuple):
    operation: str  # of the table, or of OTHERS
    shape: tuple[int, ...]
    axis: int  # that is normalised, or the channels'


def moved(case: Case, most_blocks: int | None = MOST_BLOCKS) -> float:
    """Bytes, over the fewest."""
    x = np.ones(case.shape, np.float32)
    call, fewest = _of_others(case, x) if case.operation in OTHERS else _of_the_table(case, x)
    with emulator.emulated(most_blocks=most_blocks):
        call()
        return sum(emulator.moved) / (fewest * x.nbytes)


def _of_the_table(case: Case, x):
    operation = OPERATIONS[case.operation]
    arguments = operation.arguments(x, case.axis, np.ones, optional=False)
    if "weight" in arguments:
        arguments["weight"] = None
    return partial(operation.function, **arrays_changed(arguments, _there)), operation.moves_uncached


def _of_others(case: Case, x):
    function, fewest = OTHERS[case.operation]
    return partial(function, _there(x), case.axis), fewest


def _there(a):
    """At the address of an allocation, as libraries make arrays."""
    array = emulator.ones(a.shape)
    emulator.to_host(array)[...] = a
    return array


def _standardized(x, channel_axis):
    C = np.zeros((1, x.shape[channel_axis]), np.float32)
    StandardScaler().fit(C).transform(x)


OTHERS = {  # and how many arrays of x's size must be moved
    "Moments.of": (lambda x, channel_axis: Moments.of(x, channel_axis=channel_axis), 1),
    "StandardScaler.transform": (_standardized, 2),
}

CASES = [
    Case("layer_norm", (2048, 64), -1),
    *(Case("layer_norm_forward", (1024, cols), -1) for cols in (64, 256, 768, 1024, 4096, 8192, 16384)),
    Case("layer_norm_forward", (1024, 1023), -1),
    Case("layer_norm_forward", (64, 65536), -1),
    *(Case("layer_norm_backward", (16384, cols), -1) for cols in (64, 256, 768, 1024)),
    *(Case("layer_norm_backward", (rows, cols), -1) for rows, cols in ((4096, 4096), (2048, 8192))),
    Case("layer_norm_backward", (512, 16384), -1),
    *(
        Case(name, (4096 if "dy" in operation.given else 1024, 4096), -1)  # gradients have a row of sums per block
        for name, operation in OPERATIONS.items()
        if operation.axis_name == "axis" and operation.family != "layernorm"
    ),
    *(Case(f"batch_norm_{way}", (65536, 64), 1) for way in ("forward", "backward")),
    *(Case(f"batch_norm_{way}", (32, 28, 28, 128), -1) for way in ("forward", "backward")),
    *(Case(f"batch_norm_{way}", (32, 512, 7, 7), 1) for way in ("forward", "backward")),
    *(
        Case(name, shape, 1)
        for shape in ((16384, 512), (32, 128, 28, 28))
        for name in (*(name for name, one in OPERATIONS.items() if one.axis_name == "channel_axis"), *OTHERS)
        if name != "StandardScaler.transform" or len(shape) == 2  # which takes tables
    ),
]
