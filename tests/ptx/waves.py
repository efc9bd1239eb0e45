"""The blocks that are executed at once, and which of their threads is executed when.

Threads that are at the same instruction are executed together. Of several such groups the one furthest back in the
program goes first, so that what parted at a branch meets again behind it; with a random generator any of them. A
thread that comes to a barrier, or to an instruction for several threads of a warp before the others that it names,
waits; when nobody can go on any more, either all threads of a block wait at the same barrier, or it is at fault.
"""

import numpy as np

from tests.ptx import races
from tests.ptx.faults import Divergence
from tests.ptx.lanes import Lanes
from tests.ptx.spaces import Local, ReadOnly, Shared
from tests.ptx.warps import FULL


class Wave:
    def __init__(self, launch, blocks):
        self.launch, self.program, self.blocks = launch, launch.program, np.asarray(blocks)
        threads = self.threads = launch.threads
        count = len(blocks) * threads
        thread = np.tile(np.arange(threads), len(blocks))
        self.block_of = np.repeat(np.arange(len(blocks)), threads)
        warps = -(-threads // 32)
        self.slots = self.block_of * warps * 32 + thread
        self.warp_masks = np.full(warps, FULL, np.uint32)
        self.warp_masks[-1] >>= np.uint32(-threads % 32)
        self.warp_masks = np.tile(self.warp_masks, len(blocks))
        self.whole_warps = threads % 32 == 0
        self.views = launch.views(count)
        launch.set_specials(self, thread)
        self.stamps = races.stamps(blocks, threads)
        self.exited, self.waiting = np.zeros(count, bool), np.full(count, -1)
        self.parked = {}  # number of an instruction for several threads -> lanes that wait there, bits of the absent
        kernel = self.program.kernel
        self.spaces = {
            "global": launch.memory,
            "read only": ReadOnly(launch.memory),
            "shared": Shared(kernel.shared_bytes + launch.shared, launch.shared_word, len(blocks), launch.counts),
            "local": Local(kernel.local_bytes, count),
        }
        self.ready, self.at = [], 0
        self.all = Lanes.all(self.slots)

    def run(self):
        self._start(0, self.all)
        while self.ready:
            while self.ready:
                self._advance(*self._next())
            self._release()

    def _start(self, at, lanes):
        """Lanes go on; in random order, warps in up to three groups."""
        if self.launch.random is None:
            self.ready.append((at, lanes))
            return
        group = self.launch.random.integers(3, size=len(self.warp_masks))[lanes.slots >> 5]
        self.ready.extend((at, lanes.where(group == i)) for i in range(3) if (group == i).any())

    def _next(self):
        if len(self.ready) == 1:
            return self.ready.pop()
        random = self.launch.random
        at = min(self.ready, key=lambda group: group[0])[0]
        if random is not None:
            at = self.ready[random.integers(len(self.ready))][0]
        together = [lanes for other, lanes in self.ready if other == at]
        self.ready = [group for group in self.ready if group[0] != at]
        return at, together[0].joined(*together[1:]) if len(together) > 1 else together[0]

    def _advance(self, at, lanes):
        """Execute until the lanes wait or end, or others may go first."""
        executed, straight, end = self.launch.executed, self.program.straight, len(self.program.instructions)
        while True:
            if at == end:
                self.exited[lanes.index] = True
                return
            steps, after, control = straight(at)
            executed[at] += lanes.warps
            for self.at, step in steps:
                step(self, lanes)
            at = after
            if control is not None:
                self.at = at
                following = control(self, at, lanes)
                if following is None:
                    return
                at, lanes = following
            if self.ready:
                self.ready.append((at, lanes))
                return

    def wait(self, at, lanes):
        """At a barrier of the block."""
        if lanes.whole:
            self.stamps = races.passed_barrier(self.stamps)
            return at + 1, lanes
        self.waiting[lanes.index] = at
        return None

    def _release(self):
        """Nobody can go on: let those blocks do whose threads all wait at the same barrier."""
        if self.parked:
            self._fail_parked()
        if self.exited.all():
            return
        at = self.waiting.reshape(-1, self.threads)
        if (at != at[:, :1]).any():
            self._fail_barrier(at)
        released = self.waiting >= 0
        self.stamps = np.where(released, races.passed_barrier(self.stamps), self.stamps)
        for number in np.unique(self.waiting[released]):
            self._start(int(number) + 1, self.all.where(self.waiting == number))
        self.waiting[released] = -1

    def convene(self, at, lanes, mask):
        """The lanes here of whose masks' threads all are here, and their masks; the others wait, or fail."""
        if at in self.parked:
            lanes = lanes.joined(self.parked.pop(at)[0])
        masks = self.views[mask][lanes.index]
        if lanes.whole and self.whole_warps and (masks == FULL).all():
            return lanes, masks
        present = self.present(lanes.positions, lanes)
        own = masks >> (lanes.slots & 31).astype(np.uint32) & np.uint32(1) == 0
        if own.any():
            self.fail(Divergence, "is not in its own mask {:#x}", lanes, own, masks)
        absent = masks & ~present
        missing = absent != 0
        if not missing.any():
            return lanes, masks
        self.parked[at] = lanes.where(missing), absent[missing]
        if missing.all():
            return None, None
        lanes = lanes.where(~missing)
        return lanes, self.views[mask][lanes.index]

    def present(self, positions, lanes):
        """For each of the lanes, which of its warp are among those at the positions: a bit each."""
        here = np.zeros(len(self.warp_masks) * 32, bool)
        here[self.slots[positions]] = True
        return np.packbits(here, bitorder="little").view(np.uint32)[lanes.slots >> 5]

    def fail(self, fault, text, lanes, which=None, values=None):
        """Raise a fault of the first of the lanes that are concerned; `text` may show its value."""
        first = 0 if which is None else int(np.flatnonzero(which)[0])
        if values is not None:
            text = text.format(int(values[first]))
        raise fault(f"{self.launch.name_of(self, lanes.positions[first])}: {text}, in\n    {self._text(self.at)}")

    def _text(self, number):
        return f"[{number}] {self.program.instructions[number].text}"

    def _fail_parked(self):
        self.at, (lanes, absent) = next(iter(self.parked.items()))
        block, thread = divmod(int(lanes.positions[0]), self.threads)
        other = thread // 32 * 32 + int(absent[0]).bit_length() - 1
        fate = self._fate(block * self.threads + other) if other < self.threads else "is not in the block"
        self.fail(Divergence, f"waits for others of its warp, thread {other} {fate}", lanes)

    def _fail_barrier(self, at):
        """A block whose threads wait at these barriers, or have ended: tell of two for which it is not the same."""
        block = int(np.flatnonzero((at != at[:, :1]).any(1))[0])
        first = int(np.flatnonzero(at[block] >= 0)[0])
        other = int(np.flatnonzero(at[block] != at[block, first])[0])
        fate = self._fate(block * self.threads + other)
        self.at = int(at[block, first])
        lanes = self.all.where((self.block_of == block) & (self.waiting >= 0))
        self.fail(Divergence, f"waits at a barrier, thread {other} of its block {fate}", lanes)

    def _fate(self, position):
        """What became of a thread that another waits for."""
        if self.exited[position]:
            return "has ended"
        parked = [at for at, (lanes, _) in self.parked.items() if position in lanes.positions]
        return f"waits at\n    {self._text(parked[0] if parked else int(self.waiting[position]))}"
