"""Run a kernel on the CPU as a launch of threads, all at once, and report what it does wrong."""

from collections import Counter
from itertools import islice
from math import prod

import numpy as np

from tests.ptx.counts import Counts
from tests.ptx.operands import DTYPES, SPECIAL
from tests.ptx.spaces import Global
from tests.ptx.waves import Wave

LANES = 1 << 14  # threads that are executed at once: of 4k to 64k the fastest, with 1 MiB of second-level cache
_LANE_MASKS = {
    "lanemask_eq": lambda bit: bit,
    "lanemask_lt": lambda bit: bit - np.uint64(1),
    "lanemask_le": lambda bit: bit + (bit - np.uint64(1)),
    "lanemask_ge": lambda bit: ~(bit - np.uint64(1)),
    "lanemask_gt": lambda bit: ~(bit + (bit - np.uint64(1))),
}
_SHARED_BYTES = 1 << 22  # of their blocks together


def run(program, grid, block, arguments, memory, *, order=None, blocks=None, shared=0):
    """Execute a launch and count what it asks for; raises a `Fault`.

    `grid` and `block` are numbers or tuples of up to three. `arguments` are numbers, addresses of `memory` among
    them. `order` is a seed for the order in which blocks, and threads as far as they may, are executed. `blocks` are
    the numbers of those to execute, all by default. `shared` is the size of the dynamic shared memory in bytes.
    """
    launch = _Launch(program, grid, block, arguments, memory, order, shared)
    chosen = range(prod(launch.grid)) if blocks is None else list(blocks)
    if blocks is not None and not all(0 <= number < prod(launch.grid) for number in chosen):
        raise ValueError("blocks that are not in the grid")
    if launch.random is not None:
        chosen = launch.random.permutation(chosen)
    with np.errstate(all="ignore"):
        waves = iter(chosen)
        while some := list(islice(waves, launch.blocks_at_once)):
            Wave(launch, some).run()
    launch.count_instructions()
    return launch.counts


class _Launch:
    def __init__(self, program, grid, block, arguments, memory, order, shared):
        self.program, self.shared = program, shared
        self.grid, self.block = _three(grid), _three(block)
        self.threads = prod(self.block)
        if not 0 < self.threads <= program.most_threads():
            raise ValueError(f"{self.threads} threads in a block of at most {program.most_threads()}")
        self.arguments = _argument_bits(program.parameters, arguments)
        self.random = None if order is None else np.random.default_rng(order)
        self.counts = Counts()
        self.executed = Counter()  # number of an instruction -> warps that began a straight part there
        self.memory = Global(memory, program.word("global"), self.counts)
        self.shared_word = program.word("shared")
        self.blocks_at_once = max(1, LANES // self.threads)
        if program.kernel.shared_bytes + shared:
            self.blocks_at_once = min(
                self.blocks_at_once, max(1, _SHARED_BYTES // (program.kernel.shared_bytes + shared))
            )
        self.registers, self.kept_views = {}, []

    def views(self, lanes):
        """The slots of the program as arrays of so many lanes; all waves but the last have the same."""
        if not self.kept_views or len(self.kept_views[0]) != lanes:
            names = self.program.operands.registers
            self.registers = {name: np.empty(lanes, dtype) for name, dtype in names.items()}
            self.kept_views = self.program.operands.arrays(self.registers, self.arguments, lanes)
        return self.kept_views

    def set_specials(self, wave, thread):
        """The registers that tell a thread who it is."""
        for name, register in self.registers.items():
            if SPECIAL.fullmatch(name):
                register[:] = self._special(name[1:], wave, thread)

    def _special(self, name, wave, thread):
        what, _, axis = name.partition(".")
        axis = "xyz".find(axis)
        lane = thread & 31
        if what == "tid":
            return thread // prod(self.block[:axis]) % self.block[axis]
        if what == "ctaid":
            return np.repeat(wave.blocks // prod(self.grid[:axis]) % self.grid[axis], self.threads)
        if what.startswith("lanemask"):
            return _LANE_MASKS[what](np.uint64(1) << lane.astype(np.uint64))
        static = self.program.kernel.shared_bytes
        constants = {"dynamic_smem_size": self.shared, "total_smem_size": static + self.shared}
        constants |= {"ntid": self.block[axis], "nctaid": self.grid[axis], "laneid": lane, "warpid": thread >> 5}
        return constants.get(what, 0)

    def name_of(self, wave, position):
        """The block and the thread that a lane is."""
        block, thread = int(wave.blocks[position // self.threads]), int(position % self.threads)
        return f"block {_place(block, self.grid)}, thread {_place(thread, self.block)}"

    def count_instructions(self):
        for start, warps in self.executed.items():
            steps, end, control = self.program.straight(start)
            for number in [*(number for number, _ in steps), *([end] if control else [])]:
                self.counts.instructions[self.program.instructions[number].opcode] += warps


def _three(sizes):
    sizes = tuple(sizes) if isinstance(sizes, tuple | list) else (sizes,)
    return tuple(int(size) for size in sizes) + (1,) * (3 - len(sizes))


def _place(number, sizes):
    """A number as the index on the axes that are in use."""
    index = tuple(number // prod(sizes[:i]) % sizes[i] for i in range(3))
    used = max((i for i in range(3) if sizes[i] > 1), default=0) + 1
    return index[0] if used == 1 else index[:used]


def _argument_bits(types, arguments):
    if len(types) != len(arguments):
        raise TypeError(f"{len(arguments)} arguments for {len(types)} parameters")
    return [_bits(value, DTYPES[of_type]) for value, of_type in zip(arguments, types, strict=True)]


def _bits(value, dtype):
    """An argument as its parameter's type; a signed number for an unsigned parameter is taken by its bits."""
    if dtype.kind == "f":
        return int(np.array(value, dtype).view(f"u{dtype.itemsize}"))
    if float(value) != int(value):
        raise TypeError(f"{value} for an integer parameter")
    return int(value) & (1 << 8 * dtype.itemsize) - 1
