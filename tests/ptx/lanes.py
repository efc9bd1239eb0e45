"""Which of the threads that are executed at once an instruction is for."""

import numpy as np


class Lanes:
    """Lanes in ascending order, as a slice wherever they are evenly spaced: NumPy then needs no copies.

    Few lanes of many are usually such: the first of each block or of each warp, a last row.
    """

    __slots__ = ("_changes", "_warps", "all_slots", "count", "index", "positions", "sliced")

    def __init__(self, index, positions, all_slots):
        self.index, self.positions, self.all_slots = index, positions, all_slots
        self.count, self.sliced = len(positions), type(index) is slice
        self._changes = self._warps = None

    @classmethod
    def all(cls, all_slots):
        """All lanes, given for each its warp's number times 32 and its place in the warp."""
        return cls(slice(None), np.arange(len(all_slots)), all_slots)

    @classmethod
    def at(cls, positions, all_slots):
        """The lanes at ascending positions."""
        count = len(positions)
        first, last = int(positions[0]), int(positions[-1])
        step = int(positions[1]) - first if count > 1 else 1
        if last - first == step * (count - 1) and (step == 1 or (np.diff(positions) == step).all()):
            index = slice(None) if count == len(all_slots) else slice(first, last + 1, step)
            return cls(index, positions, all_slots)
        return cls(positions, positions, all_slots)

    @property
    def whole(self):
        return self.count == len(self.all_slots)

    @property
    def slots(self):
        return self.all_slots[self.index]

    def where(self, mask):
        """Those for which the mask says so; not none."""
        return Lanes.at(self.positions[mask], self.all_slots)

    def joined(self, *others):
        mask = np.zeros(len(self.all_slots), bool)
        for lanes in (self, *others):
            mask[lanes.index] = True
        return Lanes.at(np.flatnonzero(mask), self.all_slots)

    @property
    def changes(self):
        """For each but the first, whether it is of another warp than the one before."""
        if self._changes is None:
            warps = self.slots >> 5
            self._changes = warps[1:] != warps[:-1]
        return self._changes

    @property
    def warps(self):
        """The number of warps that any of them belongs to."""
        if self._warps is None:
            self._warps = 1 + int(np.count_nonzero(self.changes))
        return self._warps
