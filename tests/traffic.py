"""How many bytes the CUDA kernels move, beside the fewest that they could: counted where they are interpreted, without
a GPU.

Counted are the sectors of 32 bytes that each warp's loads and stores ask for. Parameters are left out, which every
block reads again, from the caches. The fewest are, forward, x and y; backward, dy, x and dx; and in batch normalization
one more reading of what is summed first, since no statistic is known before all of x has been read. What is above that
are statistics, the partial sums of the parameters' gradients, and sectors of which a part is wanted.
"""

from math import prod
from typing import NamedTuple

import numpy as np

from numbanorm import (
    Moments,
    StandardScaler,
    batch_norm_backward,
    batch_norm_backward_apply,
    batch_norm_backward_reduce,
    batch_norm_forward,
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from tests import device

MOST_BLOCKS = 24  # of a launch are executed: they are all alike


class Case(NamedTuple):
    operation: str
    shape: tuple[int, ...]
    channel_axis: int | None = None  # of batch normalization


def moved(case: Case, most_blocks: int | None = MOST_BLOCKS) -> float:
    """Bytes, over the fewest."""
    x = device.ones(case.shape)
    like = (case.shape[0], 1) if case.channel_axis is None else (case.shape[case.channel_axis],)
    axis = {} if case.channel_axis is None else {"channel_axis": case.channel_axis}
    function, fewest = OPERATIONS[case.operation]
    with device.emulated(most_blocks=most_blocks):
        function(x, device.ones(like), **axis)
        return sum(device.moved) / (fewest * x.dtype.itemsize * prod(case.shape))


def _standardized(x, one, channel_axis):
    C = np.zeros((1, x.shape[channel_axis]), np.float32)
    StandardScaler().fit(C).transform(x)


OPERATIONS = {  # on x and a statistic of it; and how many arrays of x's size must be moved
    "layer_norm": (lambda x, one: layer_norm(x), 2),
    "layer_norm_forward": (lambda x, one: layer_norm_forward(x), 2),
    "layer_norm_backward": (lambda x, one: layer_norm_backward(x, x, one, one), 3),
    "rms_norm_forward": (lambda x, one: rms_norm_forward(x), 2),
    "rms_norm_backward": (lambda x, one: rms_norm_backward(x, x, one), 3),
    "batch_norm_forward": (lambda x, one, **axis: batch_norm_forward(x, **axis), 3),
    "batch_norm_backward": (lambda x, one, **axis: batch_norm_backward(x, x, one, one, **axis), 5),
    "batch_norm_backward_reduce": (lambda x, one, **axis: batch_norm_backward_reduce(x, x, one, one, **axis), 2),
    "batch_norm_backward_apply": (
        lambda x, one, **axis: batch_norm_backward_apply(x, x, one, one, None, one, one, 9, **axis),
        3,
    ),
    "Moments.of": (lambda x, one, **axis: Moments.of(x, **axis), 1),
    "StandardScaler.transform": (_standardized, 2),
}

CASES = [
    Case("layer_norm", (2048, 64)),
    *(Case("layer_norm_forward", (1024, cols)) for cols in (64, 256, 768, 1024, 4096, 8192, 16384)),
    Case("layer_norm_forward", (1024, 1023)),
    Case("layer_norm_forward", (64, 65536)),
    *(Case("layer_norm_backward", (16384, cols)) for cols in (64, 256, 768, 1024)),
    *(Case("layer_norm_backward", (rows, cols)) for rows, cols in ((4096, 4096), (2048, 8192))),
    Case("layer_norm_backward", (512, 16384)),
    Case("rms_norm_forward", (1024, 4096)),
    Case("rms_norm_backward", (4096, 4096)),
    *(Case(f"batch_norm_{way}", (N, C), 1) for way in ("forward", "backward") for N, C in ((65536, 64), (16384, 512))),
    *(Case(f"batch_norm_{way}", (32, 28, 28, 128), -1) for way in ("forward", "backward")),
    *(Case(f"batch_norm_{way}", (32, 128, 28, 28), 1) for way in ("forward", "backward")),
    *(Case(f"batch_norm_{way}", (32, 512, 7, 7), 1) for way in ("forward", "backward")),
    *(Case(name, (16384, 512), 1) for name in list(OPERATIONS)[7:]),
    *(Case(name, (32, 128, 28, 28), 1) for name in list(OPERATIONS)[7:-1]),
]
