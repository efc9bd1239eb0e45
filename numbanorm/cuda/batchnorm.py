"""Launch the kernels of batch normalization of x (N, C, L). With L = 1, x is rows x channels."""

from functools import lru_cache
from typing import NamedTuple

from numbanorm.cuda.grids import NONE, block_for, lanes_for, type_of
from numbanorm.cuda.kernels import ways
from numbanorm.cuda.kernels.channels import TERMS, apply, apply_gradient, piece_gradients, piece_moments
from numbanorm.cuda.kernels.per_channel import channel_gradients, channel_statistics, given_constants, given_statistics
from numbanorm.cuda.kernels.states import FIELDS, SLOTS

_BLOCKS = 512  # that keep a GPU busy
_LONG = 16  # from so many neighbouring values of a channel on, a thread takes them (the way of channels)
_MANY = 64  # from so many rows on, where these are fewer, a thread takes columns
_MOST = 1 << 30  # vectors to a piece
_LONGEST = 1 << 31  # vectors to a run, that 32 bits can number together with those of a piece


class _Plan(NamedTuple):
    """Say how the values of x are shared out over blocks; see `numbanorm.cuda.kernels.ways`."""

    way: ways.Way
    lanes: int
    block: tuple[int, int]
    tiles: int  # blocks to a piece
    pieces: int
    chunk: int  # rows of a piece, or vectors of each channel
    columns: int  # states of a piece
    channel_columns: int  # states of a piece that belong to one channel

    @property
    def grid(self):
        return self.tiles * self.pieces


@lru_cache(1 << 10)
def _plan(N, C, L, lanes, masked, most_lanes):
    lanes = min(lanes, most_lanes)
    if L == 1 or (L < _LONG and N >= _MANY):
        lanes = lanes if L == 1 else 1
        block = block_for(-(-C * L // lanes))
        tiles = -(-C * L // (lanes * block[0]))
        total, least = N, block[1] * 4 * TERMS
        way, columns, channel_columns = ways.columns(lanes, masked), C * L, L
    else:
        lanes = 1 if masked else lanes
        block, tiles = (SLOTS, 1), C
        total, least = N * (L // lanes), SLOTS * TERMS
        long = L // lanes >= _LONGEST
        way, columns, channel_columns = ways.channels(lanes, masked, long), C, 1
    pieces = max(1, min(_BLOCKS // max(1, tiles), -(-total // least)), -(-total // _MOST))
    chunk = max(1, -(-total // pieces))
    return _Plan(way, lanes, block, tiles, -(-total // chunk), chunk, columns, channel_columns)


def plan_of(N, C, L, mask, *runs, most_lanes=4):
    """Plan how x is shared out, in vectors of at most `most_lanes` lanes.

    runs: x, and others of its shape or of its channels.
    """
    return _plan(N, C, L, lanes_for(C if L == 1 else L, *runs), mask.size > 0, most_lanes)


def batch_norm_forward(call, x, weight, bias, running, eps, mask, y, mean, rstd):
    """Fill y, mean and rstd, and move the running statistics. Return a function that returns True.

    x, y: (N, C, L); mask: (N, L), or none; all else (C,). Parameters and running statistics may be none. The function
    does not look whether the statistics of the batch are finite: the host would have to wait for the GPU.
    """
    (N, C, L), running_mean, running_var, momentum = call.planes, running.mean, running.var, running.momentum
    plan, dtype = plan_of(N, C, L, mask, x, weight, bias, y, mean, rstd), type_of(x.dtype)
    partials, scaled = call.scratch(x.dtype, plan.pieces * FIELDS * plan.columns, 4 * C)
    place = N, C, L, plan.chunk, plan.tiles
    call.launch(piece_moments(dtype, plan.lanes, plan.way, dtype), plan.grid, plan.block, x, mask, partials, *place)
    block = block_for(C)
    running_dtypes = type_of(running_mean.dtype), type_of(running_var.dtype)
    arguments = partials, eps, momentum, mean, rstd, scaled, running_mean, running_var
    sizes = plan.pieces, C, plan.channel_columns, running_mean.size, running_var.size
    # This also moves the running statistics. The host has `update_running` for that: it comes after y, since a signal
    # may interrupt the call, and layers, which take no arrays on a GPU, use it alone.
    call.launch(channel_statistics(dtype, *running_dtypes), -(-C // block[0]), block, *arguments, *sizes)
    arguments = x, scaled, weight, bias, mask, y, *place, weight.size, bias.size
    call.launch(apply(dtype, plan.lanes, plan.way), plan.grid, plan.block, *arguments)
    return _all_is_done


def _all_is_done():
    return True


def batch_norm(call, x, mean, var, weight, bias, eps, y):
    """Fill y, by given statistics. Return True.

    x, y: (N, C, L); mean, var, of any dtypes, weight, bias: (C,). The function does not look whether a variance is
    negative: the host would have to wait for the GPU.
    """
    N, C, L = call.planes
    (scaled,) = call.scratch(x.dtype, 4 * C)
    kernel = given_statistics(type_of(x.dtype), type_of(mean.dtype), type_of(var.dtype))
    call.launch(kernel, -(-C // SLOTS), (SLOTS, 1), mean, var, eps, scaled, C)
    _apply(call, x, scaled, weight, bias, NONE, y, N, C, L)
    return True


def _apply(call, x, scaled, weight, bias, mask, y, N, C, L):
    plan = plan_of(N, C, L, mask, x, weight, bias, y)
    arguments = x, scaled, weight, bias, mask, y, N, C, L, plan.chunk, plan.tiles, weight.size, bias.size
    call.launch(apply(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)


def batch_norm_backward(call, dy, x, mean, rstd, weight, mask, dx, dweight, dbias):
    """Fill dx, dweight and dbias.

    dy, x, dx: (N, C, L); mask: (N, L), or none; all else (C,), and of x's dtype.
    """
    N, C, L = call.planes
    linear, plan = _gradients(call, dy, x, mean, rstd, NONE, weight, mask, dx, dweight, dbias, N, C, L, frozen=False)
    arguments = dy, x, mean, rstd, linear, mask, dx, N, C, L, plan.chunk, plan.tiles
    call.launch(apply_gradient(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)


def batch_norm_backward_frozen(call, dy, x, mean, rstd, weight, mask, dx, dweight, dbias):
    """Do what `batch_norm_backward` does where mean and rstd are constants.

    They may be of other dtypes than x.
    """
    N, C, L = call.planes
    m, rounded_rstd, mean_h = call.scratch(x.dtype, C, C, C)
    kernel = given_constants(type_of(x.dtype), type_of(mean.dtype), type_of(rstd.dtype))
    call.launch(kernel, -(-C // SLOTS), (SLOTS, 1), mean, rstd, m, rounded_rstd, mean_h, C)
    linear, _ = _gradients(call, dy, x, m, rounded_rstd, mean_h, weight, mask, dx, dweight, dbias, N, C, L, frozen=True)
    _apply(call, dy, linear, NONE, NONE, mask, dx, N, C, L)  # dx = rstd * wdy


def _gradients(call, dy, x, mean, rstd, mean_h, weight, mask, dx, dweight, dbias, N, C, L, frozen):
    """Fill dweight and dbias. Return `linear`, as `channel_gradients` stores it, and the plan."""
    plan, dtype = plan_of(N, C, L, mask, dy, x, mean, rstd, dx), type_of(x.dtype)
    partials, linear = call.scratch(x.dtype, plan.pieces * FIELDS * plan.columns, 4 * C)
    arguments = dy, x, mean, rstd, mask, partials, N, C, L, plan.chunk, plan.tiles
    call.launch(piece_gradients(dtype, plan.lanes, plan.way, dtype), plan.grid, plan.block, *arguments)
    block = block_for(C)
    arguments = partials, rstd, mean_h, weight, dweight, dbias, linear
    sizes = plan.pieces, C, plan.channel_columns, weight.size
    call.launch(channel_gradients(dtype, frozen), -(-C // block[0]), block, *arguments, *sizes)
    return linear, plan
