"""Global memory: one arena, whose addresses no host could mistake for its own."""

from bisect import bisect_left, bisect_right

import numpy as np

from tests.ptx.faults import OutOfBounds

BASE = 0x7000_0000_0000
RED_ZONE = 256  # bytes before and after each allocation that belong to nobody


class GlobalMemory:
    """Allocations in an arena that the system fills with pages only as they are touched.

    What lies in no allocation is invalid. Allocations are few, so two sorted lists of their first and last bytes say
    what is valid, to the byte; an access is mostly within one of them, which two searches tell.
    """

    def __init__(self, nbytes=1 << 28):
        self.arena = np.empty(nbytes // 256 * 256, np.uint8)
        self.starts, self.ends = [], []  # offsets in the arena

    @property
    def used(self):
        """Bytes up to the end of the last allocation."""
        return self.ends[-1] if self.ends else 0

    def allocate(self, nbytes, offset=0):
        """The address of new memory, full of NaN: a multiple of 256 bytes, and `offset` more."""
        before = 0
        for place, following in enumerate([*self.starts, self.arena.size]):
            start = -(-(before + RED_ZONE) // 256) * 256 + offset
            if start + nbytes + RED_ZONE <= following:
                break
            before = self.ends[place] if place < len(self.ends) else 0
        else:
            raise MemoryError(f"no room for {nbytes} bytes in an arena of {self.arena.size}")
        self.starts.insert(place, start)
        self.ends.insert(place, start + nbytes)
        self.arena[start : start + nbytes] = 0xFF
        return BASE + start

    def release(self, address):
        """Give back what `allocate` gave: invalid from now on."""
        place = self.starts.index(address - BASE)
        del self.starts[place], self.ends[place]

    def bytes(self, address, nbytes):
        """Valid memory, to read and write, as uint8."""
        start = int(address) - BASE
        if self.around(start, start + nbytes) is None:
            raise OutOfBounds(f"{nbytes} bytes at {address:#x}: {self.whereabouts(start)}")
        return self.arena[start : start + nbytes]

    def around(self, first, end):
        """The start of the allocation that holds all bytes from one offset to another, or None."""
        place = bisect_right(self.starts, first) - 1
        return self.starts[place] if place >= 0 and end <= self.ends[place] else None

    def invalid(self, offsets, nbytes):
        """Which accesses of so many bytes at these offsets are not within one allocation."""
        if not self.starts:
            return np.ones(len(offsets), bool)
        place = np.searchsorted(self.starts, offsets, "right") - 1
        return (place < 0) | (offsets + nbytes > np.array(self.ends)[place])

    def whereabouts(self, offset):
        """An offset, told by the allocation that it is nearest to."""
        if not self.starts:
            return "nothing is allocated"
        after = min(bisect_left(self.starts, offset), len(self.starts) - 1)
        start, end = min(
            ((self.starts[i], self.ends[i]) for i in {max(after - 1, 0), after}),
            key=lambda ends: max(ends[0] - offset, offset - ends[1]),
        )
        return f"offset {offset - start} of the {end - start} bytes at {BASE + start:#x}"
