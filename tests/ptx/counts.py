"""What a launch asked of the hardware."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

_BANKS = 32  # of four bytes each


@dataclass
class Counts:
    """Requests are instructions of a warp, however many of its threads take part."""

    loaded_sectors: int = 0  # of 32 bytes, the distinct ones of each request
    stored_sectors: int = 0
    loaded_bytes: int = 0  # asked for by threads, the same ones as often as they were
    stored_bytes: int = 0
    load_requests: int = 0
    store_requests: int = 0
    shared_requests: int = 0
    shared_wavefronts: int = 0  # as many as requests where no two threads hit one bank in different places
    instructions: Counter = field(default_factory=Counter)  # opcode -> executed by warps

    def load(self, lanes, offsets, nbytes):
        self.loaded_sectors += _sectors(lanes, offsets)
        self.loaded_bytes += lanes.count * nbytes
        self.load_requests += lanes.warps

    def store(self, lanes, offsets, nbytes):
        self.stored_sectors += _sectors(lanes, offsets)
        self.stored_bytes += lanes.count * nbytes
        self.store_requests += lanes.warps

    def shared(self, lanes, offsets, nbytes):
        """Threads take turns where they ask for more than 128 bytes: half a warp at 8 bytes, a quarter at 16."""
        self.shared_requests += lanes.warps
        self.shared_wavefronts += _wavefronts(lanes, offsets, max(4, nbytes))


def _sectors(lanes, offsets):
    """Aligned accesses of up to 32 bytes lie in one sector each."""
    sectors = offsets >> 5
    differs = sectors[1:] != sectors[:-1]
    if ((sectors[1:] < sectors[:-1]) & ~lanes.changes).any():
        return len(np.unique(lanes.slots >> 5 << 40 | sectors))
    return 1 + int(np.count_nonzero(differs | lanes.changes))


def _wavefronts(lanes, offsets, nbytes):
    turns = nbytes // 4
    turn = lanes.slots * turns >> 5
    words = offsets >> 2
    same_turn = turn[1:] == turn[:-1]
    distance = words[1:] - words[:-1]
    if (distance[same_turn] == turns).all() or (distance[same_turn] == 0).all():
        return 1 + int(np.count_nonzero(~same_turn))
    places = np.unique(turn[:, None] << 32 | words[:, None] + np.arange(turns))
    banks = (places >> 32) * _BANKS + places % _BANKS
    hits = np.bincount(banks, minlength=(int(turn.max()) + 1) * _BANKS)
    return int(hits.reshape(-1, _BANKS).max(1).sum())
