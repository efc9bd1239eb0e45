"""Which thread touched which word last, to tell accesses that nothing orders.

Every thread has a stamp: its block, how many block barriers it has passed, its warp, how many warp barriers, and its
lane. A table holds, for each word, the stamp of its last writer and that of its readers: of the one, or with a flag
that there were several in the warp, in the block, or in several blocks. Two stamps are ordered if they are the same
thread's, or the same block's with another number of block barriers, or the same warp's with another number of warp
barriers. What matters is only that something orders the two, not in which order they were executed here.
"""

import numpy as np

from tests.ptx.faults import Unsupported

_LANE, _WARP_BARRIERS, _WARP, _BARRIERS, _BLOCK = (0, 5), (5, 14), (19, 5), (24, 15), (39, 23)  # first bit, bits


def _mask(*fields):
    return np.int64(sum(((1 << bits) - 1) << first for first, bits in fields))


LANE, WARP_BARRIERS, BARRIERS, BLOCK = map(_mask, (_LANE, _WARP_BARRIERS, _BARRIERS, _BLOCK))
SEVERAL_WARPS = np.int64(1 << 62)
SEVERAL = np.int64(-(1 << 63))
WARP = _mask(_WARP) | SEVERAL_WARPS
SEVERAL_BLOCKS = np.int64(-1)
BARRIER, WARP_BARRIER = np.int64(1 << _BARRIERS[0]), np.int64(1 << _WARP_BARRIERS[0])


def stamps(blocks, threads):
    """Of the threads of blocks, no barrier passed."""
    if len(blocks) and max(blocks) + 2 >= 1 << _BLOCK[1]:
        raise Unsupported(f"block {max(blocks)}")
    block = np.repeat(np.asarray(blocks, np.int64) + 1, threads)  # 0 is nobody's
    thread = np.tile(np.arange(threads, dtype=np.int64), len(blocks))
    return block << _BLOCK[0] | thread >> 5 << _WARP[0] | thread & 31


def passed_barrier(old):
    """The stamps after a block barrier."""
    if (old & BARRIERS == BARRIERS).any():
        raise Unsupported("more block barriers than are counted")
    return (old + BARRIER) & ~WARP_BARRIERS


def passed_warp_barrier(old):
    if (old & WARP_BARRIERS == WARP_BARRIERS).any():
        raise Unsupported("more warp barriers than are counted")
    return old + WARP_BARRIER


class Table:
    """Last writers and readers of memory, in words as long as the shortest store."""

    def __init__(self, nbytes, word):
        size = -(-nbytes // 256) * 256 // word
        self.word, self.writers, self.readers = word, np.zeros(size, np.int64), np.zeros(size, np.int64)

    def rows(self, table, nbytes):
        """The table with a row for each place that an access of so many bytes can have."""
        return table if nbytes <= self.word else table.reshape(-1, nbytes // self.word)

    def places(self, offsets, nbytes):
        """The rows of accesses."""
        return offsets // max(nbytes, self.word)

    def unwritten(self, offsets, nbytes):
        """Which accesses are to words that nobody wrote, or None."""
        return _any_row(self.rows(self.writers, nbytes)[self.places(offsets, nbytes)] == 0)

    def read(self, offsets, nbytes, own, written=True):
        """Note reads; which of them conflict with a write, or None. `written`: whether there may have been one."""
        places = self.places(offsets, nbytes)
        if written:
            conflicts = _conflicts(self.rows(self.writers, nbytes)[places], own)
            if conflicts is not None:
                return conflicts
        readers = self.rows(self.readers, nbytes)
        _note(readers, places, own if readers.ndim == 1 else np.repeat(own[:, None], readers.shape[1], 1))
        return None

    def write(self, offsets, nbytes, own):
        """Note writes; which of them conflict with another access, or None."""
        places = self.places(offsets, nbytes)
        writers = self.rows(self.writers, nbytes)
        for table in (writers, self.rows(self.readers, nbytes)):
            conflicts = _conflicts(table[places], own)
            if conflicts is not None:
                return conflicts
        writers[places] = own if writers.ndim == 1 else own[:, None]
        first = writers if writers.ndim == 1 else writers[:, 0]
        lost = first[places] != own
        return lost if lost.any() else None


def _any_row(wrong):
    if not wrong.any():
        return None
    return wrong if wrong.ndim == 1 else wrong.any(1)


def _conflicts(found, own):
    """Which stamps that were found in the table are not ordered with the threads' own."""
    if not found.any():
        return None
    own = own if found.ndim == 1 else own[:, None]
    other = found ^ own
    differs = (other != 0) & (found != 0)
    if not differs.any():
        return None
    same_block = other & BLOCK == 0
    ordered = other & BARRIERS != 0
    ordered |= (other & WARP == 0) & (other & WARP_BARRIERS != 0)
    ordered |= other & (WARP | LANE | SEVERAL) == 0
    return _any_row(differs & ~(same_block & ordered))


def _note(readers, places, own):
    """Join the threads' own stamps with those in the table; where some meet in one place, with each other too."""
    found = readers[places]
    if (found == own).all() or (found == SEVERAL_BLOCKS).all():
        return
    joined = _joined(found, own)
    while True:
        readers[places] = joined
        found = readers[places]
        lost = found != joined
        if not lost.any():
            return
        if lost.ndim == 2:
            lost = lost.any(1)
        places, joined = places[lost], _joined(found[lost], joined[lost])


def _joined(old, new):
    """One stamp for both: it conflicts with what either does, but for what the new one is ordered to."""
    other = old ^ new
    result = new.copy()
    unordered = (other & BARRIERS == 0) & (old != 0) & (other & ~WARP_BARRIERS != 0)
    several_warps = unordered & ((other & WARP != 0) | (new & SEVERAL_WARPS != 0))
    in_warp = unordered & ~several_warps & (other & WARP_BARRIERS == 0)
    result[in_warp] = new[in_warp] & ~LANE | SEVERAL
    result[several_warps] = new[several_warps] & ~(LANE | WARP | WARP_BARRIERS) | SEVERAL | SEVERAL_WARPS
    result[(other & BLOCK != 0) & (old != 0)] = SEVERAL_BLOCKS
    return result
