"""Instructions that touch memory."""

import numpy as np

from tests.ptx.faults import Unsupported
from tests.ptx.operands import DTYPES, LOCAL_WINDOW, SHARED_WINDOW, WINDOW
from tests.ptx.steps import copy, step
from tests.ptx.text import SIZES

_SPACES = ("global", "shared", "local", "param", "const")
_ORDERED = {"acquire", "release", "relaxed", "mmio"}


def space_of(instruction):
    """The state space that an instruction names; "" for a generic address."""
    return next((part.removesuffix("::cta") for part in instruction.parts if part.removesuffix("::cta") in _SPACES), "")


def width_of(instruction):
    """Bytes that a load or store touches."""
    count = next((int(part[1:]) for part in instruction.parts if part in ("v2", "v4", "v8")), 1)
    return count * SIZES[instruction.parts[-1]]


def load(instruction, operands):
    space, of_type = space_of(instruction), instruction.parts[-1]
    names, address = instruction.operands
    if _ORDERED & {*instruction.parts} or space == "const":
        raise Unsupported("a load of this kind")
    targets = [operands.write(name, of_type) for name in operands.vector(names)]
    if space == "param":
        return copy(targets[0], operands.parameter(address, of_type))
    slot, offset = operands.address(address, space)
    dtype, count = DTYPES[of_type], len(targets)
    space = "read only" if "nc" in instruction.parts else space

    def run(wave, lanes):
        views = wave.views
        for memory, addresses, some in _places(wave, lanes, space, _addresses(views[slot][lanes.index], offset)):
            data = memory.load(wave, some, addresses, dtype, count)
            if count == 1:
                views[targets[0]][some.index] = data
            else:
                for i, target in enumerate(targets):
                    views[target][some.index] = data[:, i]

    return run


def store(instruction, operands):
    space, of_type = space_of(instruction), instruction.parts[-1]
    address, names = instruction.operands
    if _ORDERED & {*instruction.parts} or space in ("const", "param"):
        raise Unsupported("a store of this kind")
    sources = [operands.read(name, of_type) for name in operands.vector(names)]
    slot, offset = operands.address(address, space)
    dtype, count = DTYPES[of_type], len(sources)

    def run(wave, lanes):
        views = wave.views
        for memory, addresses, some in _places(wave, lanes, space, _addresses(views[slot][lanes.index], offset)):
            if count == 1:
                values = views[sources[0]][some.index]
            else:
                values = np.empty((some.count, count), dtype)
                for i, source in enumerate(sources):
                    values[:, i] = views[source][some.index]
            memory.store(wave, some, addresses, values)

    return run


def _addresses(base, offset):
    """As signed 64-bit numbers: all that is valid fits."""
    return base + np.int64(offset) if base.itemsize == 8 else base.astype(np.int64) + offset


def _places(wave, lanes, space, addresses):
    """The memory that an access is to; generic addresses may be to several."""
    if space:
        return [(wave.spaces[space], addresses, lanes)]
    windows = [
        (name, start, (addresses >= start) & (addresses < start + WINDOW))
        for name, start in (("shared", SHARED_WINDOW), ("local", LOCAL_WINDOW))
    ]
    windows.append(("global", 0, ~(windows[0][2] | windows[1][2])))
    return [
        (wave.spaces[name], addresses[inside] - start, lanes.where(inside))
        for name, start, inside in windows
        if inside.any()
    ]


def convert_address(instruction, operands):
    """cvta: between the address in a space and the generic one. Those of global memory are the same."""
    start = np.uint64({"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(space_of(instruction), 0))
    target, source = instruction.operands
    slots = operands.write(target, "u64"), operands.read(source, "u64")
    if "to" in instruction.parts:
        return step(lambda a: a - start, *slots)
    return step(lambda a: a + start, *slots)


def nothing(instruction, operands):
    """Fences and hints: memory is in order here, and what is not ordered is a race with them or without."""
    return lambda wave, lanes: None


OPERATIONS = {
    **{"ld": load, "ldu": load, "st": store, "cvta": convert_address},
    **dict.fromkeys(["prefetch", "prefetchu", "membar", "fence", "discard", "applypriority"], nothing),
}
