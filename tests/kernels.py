"""Every CUDA kernel, of every dtype and in every way in which it can be launched."""

import re
from itertools import product
from typing import NamedTuple

from numba import types

from numbanorm.cuda import rows_and_columns
from numbanorm.cuda.compiling import Kernel
from numbanorm.cuda.grids import FLOAT64_LANES
from numbanorm.cuda.kernels import channels, columns, copies, long_rows, moments, per_channel, rows, scalers, sums, ways
from numbanorm.cuda.kernels.norms import LAYER_NORM, RMS_NORM
from numbanorm.cuda.kernels.states import EXTREMES, MOMENTS

NORMS = LAYER_NORM, RMS_NORM


class Case(NamedTuple):
    name: str
    kernel: Kernel
    dtype: object
    wide: bool  # whether it loads vectors of 128 bits

    @property
    def stores_wide(self):
        """But for the states of channels, a number each."""
        return not re.match("piece_.*channels", self.name)


def channels_first(lanes, masked):
    """As launches ask for it: the same arguments, written the same way, give the same kernels."""
    return ways.channels(lanes, masked, False)


WAYS = {ways.columns: "columns", channels_first: "channels"}


def every_kernel():
    for dtype in (types.float32, types.float64):
        for lanes in (16 // (dtype.bitwidth // 8), 1):
            yield from _of_lanes(dtype, lanes)
        yield from _of_dtype(dtype)


def _of_lanes(dtype, lanes):
    name, wide = f"{dtype} x {lanes}", lanes > 1
    for norm in NORMS:
        yield from _of_norm(norm, dtype, lanes)
    for way, masked in product(WAYS, (False, True)):
        if way is channels_first and masked and wide:
            continue
        described = f"{WAYS[way]}, {'masked, ' if masked else ''}{name}"
        for make in (channels.piece_moments, channels.piece_gradients):
            yield Case(f"{make.__name__}, {described}", make(dtype, lanes, way(lanes, masked), dtype), dtype, wide)
            if dtype is not types.float64:
                few = min(lanes, FLOAT64_LANES)
                made = make(dtype, few, way(few, masked), types.float64)
                yield Case(f"{make.__name__} in float64, {described}", made, types.float64, False)
        for make in (channels.apply, channels.apply_gradient):
            yield Case(f"{make.__name__}, {described}", make(dtype, lanes, way(lanes, masked)), dtype, wide)
        if not masked:
            for make in (moments.piece_extremes, scalers.scale_pieces):
                yield Case(f"{make.__name__}, {described}", make(dtype, lanes, way(lanes, masked)), dtype, wide)


def _of_norm(norm, dtype, lanes):
    name, wide = f"{norm.name}, {dtype} x {lanes}", lanes > 1
    for make, most in ((rows.rows_forward, rows.MOST_THREADS), (rows.rows_backward, rows.MOST_GRADIENT_THREADS)):
        for threads, steps in _groups(lanes, dtype.bitwidth // 8, most):
            described = f"{make.__name__}, {threads} threads, {steps} steps"
            yield Case(f"{described}, {name}", make(norm, dtype, lanes, steps, threads), dtype, wide)
    for make in (long_rows.long_rows_forward, long_rows.long_rows_backward, columns.columns_forward):
        yield Case(f"{make.__name__}, {name}", make(norm, dtype, lanes), dtype, wide)
    for threads in (4, 32):
        made = columns.columns_backward(norm, dtype, lanes, threads)
        yield Case(f"columns_backward, {threads} threads, {name}", made, dtype, wide)


def _groups(lanes, itemsize, most):
    return sorted(
        {rows_and_columns.group_of(cols, lanes, itemsize, most) for cols in range(lanes, 1 << 15, lanes)} - {(0, 0)}
    )


def _of_dtype(dtype):
    for make, norm in product((sums.column_sums, sums.parameter_gradients), NORMS):
        yield Case(f"{make.__name__}, {norm.name}, {dtype}", make(norm, dtype), dtype, False)
    for frozen in (False, True):
        described = f"channel_gradients{', frozen' if frozen else ''}, {dtype}"
        yield Case(described, per_channel.channel_gradients(dtype, frozen), dtype, False)
    precise = (types.float64,) if dtype is types.float64 else (types.float32, types.float64)
    for first, second in product(precise, precise):
        names, most = f"{dtype}, statistics {first} and {second}", max(first, second, key=lambda t: t.bitwidth)
        made = per_channel.channel_statistics(dtype, first, second)
        yield Case(f"channel_statistics, {names}", made, most, False)
        for make in (per_channel.given_statistics, per_channel.given_constants):
            yield Case(f"{make.__name__}, {names}", make(dtype, first, second), most, False)
    for way, weights in product(WAYS, (None, types.float64, types.uint8)):
        described = f"weighted_piece_moments, {WAYS[way]}, weights {weights}, {dtype}"
        yield Case(described, moments.weighted_piece_moments(dtype, way(1, False), weights), types.float64, False)
    kind = {types.float32: EXTREMES, types.float64: MOMENTS}[dtype]
    yield Case(f"whole_states, {dtype}", per_channel.whole_states(dtype, kind), dtype, False)
    yield Case(f"gradients_of_sums, {dtype}", per_channel.gradients_of_sums(dtype), types.float64, False)
    if dtype is types.float64:
        yield Case("channel_sums", per_channel.channel_sums(), types.float64, False)
    for ndim in (1, 2, 4):
        yield Case(f"strided_copy, {ndim} axes, {dtype}", copies.strided_copy(dtype, dtype, ndim), dtype, False)
