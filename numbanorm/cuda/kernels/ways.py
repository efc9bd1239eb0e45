"""Share out the values of x (N, C, L) over blocks and threads, where each channel has its own statistics.

In the way of *columns*, x is a matrix of N rows and C * L columns, where L neighbouring columns are one channel's. A
thread takes some rows of a vector of columns. In the way of *channels*, a block takes a piece of one channel, and a
thread takes vectors within the channel's runs of L values.

`tiles` neighbouring blocks take a piece of all channels: `chunk` rows, or `chunk` vectors of each channel.
"""

from functools import lru_cache
from typing import Any, NamedTuple

from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import device
from numbanorm.cuda.kernels.runs import Source, always
from numbanorm.cuda.kernels.states import FIELDS, SLOTS, states
from numbanorm.cuda.vectors.arithmetic import quotient
from numbanorm.cuda.vectors.memory import is_set, shared


class Way(NamedTuple):
    """Hold the device functions of a way, for vectors of some lanes."""

    name: str  # tells the way from all others
    share: Any  # (block, N, C, L, chunk, tiles): first, end and step of a thread's places, its channel and geometry
    source: Source
    deliver: Any  # (lanes, kind): a device function that stores the merged state of a block's threads
    lanes: int  # of a vector of statistics that are read together


def _source(address, position, masked):
    @device
    def counts(place, geometry, mask):
        return is_set(mask, position(place, geometry))

    return Source(address, counts if masked else always, position)


@lru_cache(None)
def columns(lanes, masked):
    """Make the way of columns. Vectors have several lanes only where L is 1."""

    @device
    def share(block, N, C, L, chunk, tiles):
        column = (types.int64(block % tiles) * cuda.blockDim.x + cuda.threadIdx.x) * lanes
        begin = types.int64(block // tiles) * chunk
        first = begin + cuda.threadIdx.y
        end = min(begin + chunk, N) if column < C * L else first
        return first, end, cuda.blockDim.y, column // L, (column, C * L, L)

    @device
    def address(row, geometry):
        column, column_count, L = geometry
        return row * column_count + column

    @device
    def position(row, geometry):
        column, column_count, L = geometry
        return row * L + column % L

    return Way(f"columns({lanes}, {masked})", share, _source(address, position, masked), _deliver_columns, lanes)


@device
def _long_quotient(a, b):
    return a // b


@lru_cache(None)
def channels(lanes, masked, long=False):
    """Make the way of channels. Vectors have several lanes only where these divide L and there is no mask.

    long: L may be 2**31 or more.
    """
    divide = _long_quotient if long else quotient

    @device
    def share(block, N, C, L, chunk, tiles):
        channel, piece, vectors = types.int64(block % tiles), types.int64(block // tiles), L // lanes
        start = piece * chunk
        begin, end = start // vectors, min(chunk, N * vectors - start)
        geometry = begin, start - begin * vectors, vectors, channel, C, L
        return types.int64(cuda.threadIdx.x), end, cuda.blockDim.x, channel, geometry

    @device
    def address(place, geometry):
        begin, first, vectors, channel, C, L = geometry
        n = divide(first + place, vectors)
        return ((begin + n) * C + channel) * L + (first + place - n * vectors) * lanes

    @device
    def position(place, geometry):
        begin, first, vectors, channel, C, L = geometry
        return begin * vectors + first + place

    name = f"channels({lanes}, {masked}, {long})"
    return Way(name, share, _source(address, position, masked), _deliver_channels, 1)


@lru_cache(None)
def _deliver_columns(lanes, kind):
    of_lanes = states(kind, lanes)
    of_threads, store_state, room = of_lanes.of_threads, of_lanes.store, lanes * FIELDS * SLOTS

    @device
    def deliver(state, partials, block, C, L, tiles):
        slot, column = (
            cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x,
            (types.int64(block % tiles) * cuda.blockDim.x + cuda.threadIdx.x) * lanes,
        )
        state = of_threads(shared(partials, room), state, cuda.threadIdx.y, cuda.blockDim.y, cuda.blockDim.x, slot)
        if cuda.threadIdx.y == 0 and column < C * L:
            store_state(partials, types.int64(block // tiles) * FIELDS * C * L + column, C * L, state)

    return deliver


@lru_cache(None)
def _deliver_channels(lanes, kind):
    of_one_lane, of_all_lanes = states(kind, 1), states(kind, lanes).of_all_lanes
    of_threads, store_state, room = of_one_lane.of_threads, of_one_lane.store, FIELDS * SLOTS

    @device
    def deliver(state, partials, block, C, L, tiles):
        thread = cuda.threadIdx.x
        state = of_threads(shared(partials, room), of_all_lanes(state), thread, cuda.blockDim.x, 1, thread)
        if thread == 0:
            store_state(partials, types.int64(block // tiles) * FIELDS * C + block % tiles, C, state)

    return deliver
