"""Instructions at which threads part, wait or end.

Each is a function of the wave, the instruction's number and the lanes that reached it; it gives the number of the
instruction with which lanes go on, and these, or None if none do for now. Others may go on in `Wave.ready`.
"""

from tests.ptx import warps
from tests.ptx.faults import Fault, Unsupported


def is_barrier(instruction):
    parts = instruction.parts
    return parts[0] in ("bar", "barrier") and "sync" in parts


def decode(program, instruction):
    """What a control instruction does, or None for another one."""
    name = "bar.warp" if instruction.opcode.startswith(("bar.warp", "barrier.warp")) else instruction.parts[0]
    if name in _CONTROLS:
        run = _CONTROLS[name](program, instruction)
    elif name in warps.COLLECTIVES:
        run = _collective(program, instruction, warps.COLLECTIVES[name])
    else:
        return None
    if instruction.guard is None:
        return run
    return _guarded(run, program.operands.read(instruction.guard, "pred"), instruction.negated)


def _guarded(run, guard, negated):
    """The lanes for which the predicate does not hold go on behind."""

    def guarded(wave, at, lanes):
        mask = wave.views[guard][lanes.index] ^ negated
        if mask.all():
            return run(wave, at, lanes)
        if not mask.any():
            return at + 1, lanes
        wave.ready.append((at + 1, lanes.where(~mask)))
        return run(wave, at, lanes.where(mask))

    return guarded


def _branch(program, instruction):
    label = instruction.operands[0]

    def run(wave, at, lanes):
        return program.kernel.labels[label], lanes

    return run


def _branch_by_index(program, instruction):
    """brx.idx: to the label whose number a register holds."""
    index = program.operands.read(instruction.operands[0], "u32")
    table = instruction.operands[1]

    def run(wave, at, lanes):
        chosen, labels = wave.views[index][lanes.index], program.kernel.tables[table]
        if (chosen >= len(labels)).any():
            wave.fail(Fault, "jumps to label {} of its table", lanes, chosen >= len(labels), chosen)
        for i, label in enumerate(labels):
            if (chosen == i).any():
                wave.ready.append((program.kernel.labels[label], lanes.where(chosen == i)))
        return None

    return run


def _exit(program, instruction):
    def run(wave, at, lanes):
        wave.exited[lanes.index] = True

    return run


def _trap(program, instruction):
    def run(wave, at, lanes):
        wave.fail(Fault, "stops the launch", lanes)

    return run


def _barrier(program, instruction):
    """bar.sync: all threads of the block. Which of the block's barriers it is makes no difference then."""
    supported = "sync" in instruction.parts and len(instruction.operands) == 1

    def run(wave, at, lanes):
        if not supported:
            wave.fail(Unsupported, "a barrier of some threads, or with a result", lanes)
        return wave.wait(at, lanes)

    return run


def _collective(program, instruction, decode_step):
    try:
        step = decode_step(instruction, program.operands)
        mask = warps.mask_of(instruction, program.operands)
    except (Unsupported, LookupError, ValueError) as reason:
        return _refused(reason)

    def run(wave, at, lanes):
        lanes, masks = wave.convene(at, lanes, mask)
        if lanes is None:
            return None
        step(wave, lanes, masks)
        return at + 1, lanes

    return run


def _refused(reason):
    def run(wave, at, lanes):
        wave.fail(Unsupported, f"not interpreted: {reason}", lanes)

    return run


_CONTROLS = {
    **{"bra": _branch, "brx": _branch_by_index, "ret": _exit, "exit": _exit, "trap": _trap, "brkpt": _trap},
    **{"bar": _barrier, "barrier": _barrier},
}
