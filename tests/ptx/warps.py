"""Instructions that several threads of a warp execute together.

Each has a mask that names the threads. A step is run only once all of them are there (`Wave.convene` sees to it).
"""

import numpy as np

from tests.ptx.faults import Divergence, Unsupported
from tests.ptx.races import passed_warp_barrier

FULL = np.uint32(0xFFFFFFFF)


def shuffle(instruction, operands):
    """Each thread reads a register of another of its warp."""
    _, _, mode, _ = instruction.parts
    names, source, operand, clamp, _ = instruction.operands
    target, *inside = [name.strip() for name in names.split("|")]
    target, source = operands.write(target, "b32"), operands.read(source, "b32")
    inside = [operands.write(name, "pred") for name in inside]
    slots = [operands.read(text, "u32") for text in (operand, clamp)]

    def run(wave, lanes, masks):
        views, index = wave.views, lanes.index
        numbers = [views[slot][index] for slot in slots]
        if lanes.whole and wave.whole_warps and all((number == number[0]).all() for number in numbers):
            other, valid = _other_lane(mode, np.arange(32), *[int(number[0]) for number in numbers])
            if (masks == FULL).all():  # the usual case: all warps do the same
                views[target][:] = views[source].reshape(-1, 32).take(other, 1).ravel()
                for predicate in inside:
                    views[predicate].reshape(-1, 32)[:] = valid
                return
        at = lanes.slots & 31
        other, valid = _other_lane(mode, at, *[number.astype(np.int64) for number in numbers])
        unnamed = (masks >> other.astype(np.uint32) & np.uint32(1)) == 0
        if unnamed.any():
            wave.fail(Divergence, "reads lane {}, which its mask does not name", lanes, unnamed, other)
        views[target][index] = views[source][lanes.positions - at + other]
        for predicate in inside:
            views[predicate][index] = valid

    return run


def _other_lane(mode, lane, operand, clamp):
    """From which lane, and whether that is within the segment; if not, a thread reads its own."""
    operand, segments, clamp = operand & 31, clamp >> 8 & 31, clamp & 31
    first = lane & segments
    last = first | (clamp & ~segments)
    if mode == "up":
        other = lane - operand
        valid = other >= last
    else:
        other = {"down": lane + operand, "bfly": lane ^ operand, "idx": first | (operand & ~segments)}[mode]
        valid = other <= last
    return np.where(valid, other, lane), valid


def vote(instruction, operands):
    """Whether a predicate holds for all, any or the same for all of the threads; or for which."""
    _, _, mode, _ = instruction.parts
    target, predicate, _ = instruction.operands
    negated = predicate.startswith("!")
    target = operands.write(target, "b32" if mode == "ballot" else "pred")
    predicate = operands.read(predicate.lstrip("!"), "pred")

    def run(wave, lanes, masks):
        views, index = wave.views, lanes.index
        holds = lanes.positions[views[predicate][index] ^ negated]
        ballot = wave.present(holds, lanes) & masks
        results = {"ballot": ballot, "any": ballot != 0, "all": ballot == masks}
        results["uni"] = (ballot == 0) | results["all"]
        views[target][index] = results[mode]

    return run


def warp_barrier(instruction, operands):
    """Orders what the threads do before with what they do after: here, if the mask names the whole warp."""

    def run(wave, lanes, masks):
        wave.stamps = wave.stamps.copy()
        whole = wave.warp_masks[lanes.slots >> 5] == masks
        positions = lanes.positions[whole]
        wave.stamps[positions] = passed_warp_barrier(wave.stamps[positions])

    return run


_REDUCTIONS = {
    **{"add": np.add, "min": np.minimum, "max": np.maximum},
    **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
}


def reduction(instruction, operands):
    """redux: one result of all the threads' numbers, for masks that name all threads there are."""
    _, _, name, of_type = instruction.parts
    target, source, _ = instruction.operands
    target, source = operands.write(target, of_type), operands.read(source, of_type)

    def run(wave, lanes, masks):
        views, index = wave.views, lanes.index
        warps = lanes.slots >> 5
        if (wave.warp_masks[warps] != masks).any():
            raise Unsupported("a reduction over a part of a warp")
        starts = np.flatnonzero(np.concatenate([[True], lanes.changes]))
        results = _REDUCTIONS[name].reduceat(views[source][index], starts)
        views[target][index] = np.repeat(results, np.diff([*starts, lanes.count]))

    return run


def active_mask(instruction, operands):
    target = operands.write(instruction.operands[0], "b32")

    def run(wave, lanes):
        wave.views[target][lanes.index] = wave.present(lanes.positions, lanes)

    return run


def mask_of(instruction, operands):
    """The slot of the mask: the last operand."""
    return operands.read(instruction.operands[-1], "u32")


COLLECTIVES = {"shfl": shuffle, "vote": vote, "redux": reduction, "bar.warp": warp_barrier}
OPERATIONS = {"activemask": active_mask}
