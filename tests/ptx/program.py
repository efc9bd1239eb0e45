"""A kernel, decoded: what each instruction does, and where threads can part or have to wait."""

import copy
import re
from functools import partial

from tests.ptx import accesses, arithmetic, control, conversions, text, warps
from tests.ptx.faults import Unsupported
from tests.ptx.operands import Operands

_OPERATIONS = {
    **arithmetic.OPERATIONS,
    **conversions.OPERATIONS,
    **accesses.OPERATIONS,
    **warps.OPERATIONS,
}


class Program:
    """One kernel of a PTX module.

    `barriers` are the numbers of the instructions that order threads, `bar.sync` and `bar.warp.sync`; `without` one of
    them a kernel should be at fault.
    """

    def __init__(self, ptx_text, entry=None):
        self.kernel = text.parse(ptx_text, entry)
        self.instructions = self.kernel.instructions
        self.operands = Operands(self.kernel)
        self.steps, self.controls = {}, {}  # number of an instruction -> what it does
        for number, instruction in enumerate(self.instructions):
            self._decode(number, instruction)
        self.parts = {}  # number of an instruction -> the straight part of the program that begins there
        self.leaders = {*self.kernel.labels.values(), len(self.instructions)}

    @property
    def parameters(self):
        """The types of the parameters."""
        return [of_type for of_type, _ in self.kernel.parameters]

    @property
    def barriers(self):
        return [i for i, instruction in enumerate(self.instructions) if control.is_barrier(instruction)]

    def without(self, number):
        """The program in which an instruction does nothing."""
        other = copy.copy(self)
        other.steps, other.controls, other.parts = {**self.steps}, {**self.controls}, {}
        other.controls.pop(number, None)
        other.steps[number] = lambda wave, lanes: None
        return other

    def straight(self, start):
        """From an instruction up to the next at which threads can part or meet.

        That are: numbered steps, the number of what follows, and the control instruction there, if it is one.
        """
        if start not in self.parts:
            end = start
            while (
                end not in self.controls and end < len(self.instructions) and (end == start or end not in self.leaders)
            ):
                end += 1
            self.parts[start] = [(i, self.steps[i]) for i in range(start, end)], end, self.controls.get(end)
        return self.parts[start]

    def word(self, space):
        """Bytes of the shortest store to a space: what races are told by, as each store is to whole such words."""
        widths = [
            accesses.width_of(instruction)
            for instruction in self.instructions
            if instruction.parts[0] == "st" and accesses.space_of(instruction) in (space, "")
        ]
        return min(widths, default=16)

    def most_threads(self):
        """In a block, as far as the kernel says."""
        limits = re.findall(r"\.(?:maxntid|reqntid)\s+(\d+)(?:\s*,\s*(\d+))?(?:\s*,\s*(\d+))?", self.kernel.limits)
        return min((int(x) * int(y or 1) * int(z or 1) for x, y, z in limits), default=1024)

    def _decode(self, number, instruction):
        decoded = control.decode(self, instruction)
        if decoded is not None:
            self.controls[number] = decoded
            return
        try:
            step = _OPERATIONS[instruction.parts[0]](instruction, self.operands)
        except (Unsupported, LookupError, ValueError, AttributeError) as reason:
            step = partial(_unsupported, reason)
        if instruction.guard:
            step = _guarded(step, self.operands.read(instruction.guard, "pred"), instruction.negated)
        self.steps[number] = step


def _unsupported(reason, wave, lanes):
    wave.fail(Unsupported, f"not interpreted: {reason}", lanes)


def _guarded(step, guard, negated):
    """For the lanes only whose predicate says so."""

    def run(wave, lanes):
        mask = wave.views[guard][lanes.index] ^ negated
        if mask.all():
            step(wave, lanes)
        elif mask.any():
            step(wave, lanes.where(mask))

    return run
