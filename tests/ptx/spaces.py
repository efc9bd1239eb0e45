"""Memory as the threads that are executed at once see it: every access checked, counted, and then made."""

import numpy as np

from tests.ptx import races
from tests.ptx.faults import Misaligned, OutOfBounds, Race, Uninitialised
from tests.ptx.memory import BASE

_KEPT_READS = 1 << 22  # offsets and stamps, before they are entered into the table


def _rows(memory, dtype, count):
    """Memory with a row for each place that a vector of `count` elements can have."""
    view = memory.view(dtype)
    return view if count == 1 else view.reshape(-1, count)


def _check_alignment(wave, lanes, addresses, nbytes):
    if nbytes > 1 and int(np.bitwise_or.reduce(addresses)) & (nbytes - 1):
        wave.fail(Misaligned, f"{nbytes} bytes at {{:#x}}", lanes, addresses & (nbytes - 1) != 0, addresses)


class Global:
    """A launch's view of global memory.

    Most of what is read nobody writes, so who reads an allocation is only kept in a list until it is written.
    """

    def __init__(self, memory, word, counts):
        self.memory, self.counts = memory, counts
        self.table = races.Table(memory.used, word)
        self.written = set()  # the starts of allocations that somebody has written
        self.reads = {}  # start of an allocation -> what `races.Table.read` takes, for each read so far
        self.kept = 0

    def load(self, wave, lanes, addresses, dtype, count):
        return self.load_as(wave.stamps[lanes.index], wave, lanes, addresses, dtype, count)

    def load_as(self, own, wave, lanes, addresses, dtype, count):
        """Load as the threads with these stamps."""
        nbytes = dtype.itemsize * count
        offsets, place = self._offsets(wave, lanes, addresses, nbytes)
        self.counts.load(lanes, offsets, nbytes)
        if place in self.written or place is None:
            self._replay(place)
            conflicts = self.table.read(offsets, nbytes, own)
            if conflicts is not None:
                wave.fail(Race, "reads {:#x}, which another thread has written", lanes, conflicts, addresses)
        else:
            self.reads.setdefault(place, []).append((offsets, nbytes, own, False))
            self.kept += lanes.count
            if self.kept > _KEPT_READS:
                self._replay(None, written=False)
        return _rows(self.memory.arena, dtype, count)[offsets // nbytes]

    def store(self, wave, lanes, addresses, values):
        nbytes = values.itemsize * (1 if values.ndim == 1 else values.shape[1])
        offsets, place = self._offsets(wave, lanes, addresses, nbytes)
        self.counts.store(lanes, offsets, nbytes)
        self._replay(place)
        conflicts = self.table.write(offsets, nbytes, wave.stamps[lanes.index])
        if conflicts is not None:
            wave.fail(Race, "writes {:#x}, which another thread has read or written", lanes, conflicts, addresses)
        _rows(self.memory.arena, values.dtype, nbytes // values.itemsize)[offsets // nbytes] = values

    def _offsets(self, wave, lanes, addresses, nbytes):
        """Where in the arena, and which allocation it is if it is one for all."""
        _check_alignment(wave, lanes, addresses, nbytes)
        offsets = addresses - BASE
        place = self.memory.around(int(offsets.min()), int(offsets.max()) + nbytes)
        if place is None:
            invalid = self.memory.invalid(offsets, nbytes)
            if invalid.any():
                where = self.memory.whereabouts(int(offsets[invalid][0]))
                wave.fail(OutOfBounds, f"{nbytes} bytes at {{:#x}}: {where}", lanes, invalid, addresses)
        return offsets, place

    def _replay(self, place, written=True):
        """Enter an allocation's reads so far, or (None) all, into the table; it may be written from now on."""
        for read in [place] if place is not None else list(self.reads):
            for access in self.reads.pop(read, ()):
                self.table.read(*access)
                self.kept -= len(access[0])
        if written:
            self.written |= {place} if place is not None else {*self.memory.starts}


class ReadOnly:
    """Global memory through the cache that no write is seen by: what is read so, no thread may write in the launch."""

    def __init__(self, memory):
        self.memory = memory

    def load(self, wave, lanes, *access):
        return self.memory.load_as(np.full(lanes.count, races.SEVERAL_BLOCKS), wave, lanes, *access)


class Shared:
    """The shared memory of the blocks that are executed at once, one after the other; NaN until written."""

    def __init__(self, nbytes, word, blocks, counts):
        self.nbytes, self.counts = nbytes, counts
        self.stride = -(-nbytes // 64) * 64
        self.bytes = np.full(self.stride * blocks, 0xFF, np.uint8)
        self.table = races.Table(self.bytes.size, word)

    def load(self, wave, lanes, addresses, dtype, count):
        nbytes = dtype.itemsize * count
        offsets = self._offsets(wave, lanes, addresses, nbytes)
        unwritten = self.table.unwritten(offsets, nbytes)
        if unwritten is not None:
            wave.fail(Uninitialised, "reads shared memory at {}, which nobody wrote", lanes, unwritten, addresses)
        conflicts = self.table.read(offsets, nbytes, wave.stamps[lanes.index])
        if conflicts is not None:
            text = "reads shared memory at {}, which another thread has written with no barrier between"
            wave.fail(Race, text, lanes, conflicts, addresses)
        return _rows(self.bytes, dtype, count)[offsets // nbytes]

    def store(self, wave, lanes, addresses, values):
        nbytes = values.itemsize * (1 if values.ndim == 1 else values.shape[1])
        offsets = self._offsets(wave, lanes, addresses, nbytes)
        conflicts = self.table.write(offsets, nbytes, wave.stamps[lanes.index])
        if conflicts is not None:
            text = "writes shared memory at {}, which another thread has read or written with no barrier between"
            wave.fail(Race, text, lanes, conflicts, addresses)
        _rows(self.bytes, values.dtype, nbytes // values.itemsize)[offsets // nbytes] = values

    def _offsets(self, wave, lanes, addresses, nbytes):
        _check_alignment(wave, lanes, addresses, nbytes)
        invalid = (addresses < 0) | (addresses > self.nbytes - nbytes)
        if invalid.any():
            text = f"{nbytes} bytes at {{}} of {self.nbytes} bytes of shared memory"
            wave.fail(OutOfBounds, text, lanes, invalid, addresses)
        self.counts.shared(lanes, addresses, nbytes)
        return addresses + wave.block_of[lanes.index] * self.stride


class Local:
    """Each thread's own memory."""

    def __init__(self, nbytes, lanes):
        self.nbytes = nbytes
        self.stride = -(-nbytes // 32) * 32
        self.bytes = np.full(self.stride * lanes, 0xFF, np.uint8)

    def load(self, wave, lanes, addresses, dtype, count):
        offsets = self._offsets(wave, lanes, addresses, dtype.itemsize * count)
        return _rows(self.bytes, dtype, count)[offsets // (dtype.itemsize * count)]

    def store(self, wave, lanes, addresses, values):
        count = 1 if values.ndim == 1 else values.shape[1]
        offsets = self._offsets(wave, lanes, addresses, values.itemsize * count)
        _rows(self.bytes, values.dtype, count)[offsets // (values.itemsize * count)] = values

    def _offsets(self, wave, lanes, addresses, nbytes):
        _check_alignment(wave, lanes, addresses, nbytes)
        invalid = (addresses < 0) | (addresses > self.nbytes - nbytes)
        if invalid.any():
            text = f"{nbytes} bytes at {{}} of {self.nbytes} bytes of local memory"
            wave.fail(OutOfBounds, text, lanes, invalid, addresses)
        return addresses + lanes.positions * self.stride
