"""Find out whether arrays share memory, or the same part of a file that is mapped twice."""

from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from numbanorm._types import Array

_MAPS = Path("/proc/self/maps")  # of Linux: which part of which file lies where in memory


def near(value: Array, others: dict[str, Any]) -> list[tuple[str, Array]]:
    """Return those of the other values that are arrays and may share memory with `value`, by owners and bounds."""
    found, owns = [], value.flags.owndata
    for name, other in others.items():
        if not isinstance(other, np.ndarray) or (owns and other is not value and other.flags.owndata):
            continue
        if np.may_share_memory(value, other):
            found.append((name, other))
    mapping = None if owns else _mapping(value)
    return found if mapping is None else found + _in_same_file(value, mapping, others)


def same_memory(a: Array, b: Array) -> bool:
    """Return whether each element of a is the same memory as that of b."""
    return a is b or (_address(a) == _address(b) and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype))


def overlap(a: Array, b: Array) -> bool:
    """Return whether two arrays share an element's memory. Return True, too, if finding out takes too many steps."""
    try:
        return np.shares_memory(a, b, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def _in_same_file(value: Array, mapping: mmap, others: dict[str, Any]) -> list[tuple[str, Array]]:
    """Return those of the others that lie in the file of `value`, but are seen through another mapping of it.

    Each comes as an array at the address where the mapping of `value` has it. That is for comparing addresses, not for
    reading.
    """
    mapped = {name: other for name, other in others.items() if _mapping(other) not in (None, mapping)}
    place, found = _place(value) if mapped else None, []
    for name, other in mapped.items():
        theirs = _place(other)
        if place and theirs and place.shared and place.file == theirs.file:
            found.append((name, _moved(other, _address(value) + theirs.offset - place.offset)))
    return found


def _mapping(a: Any) -> mmap | None:
    """Return the mapping that an array's memory belongs to, as that of `np.memmap`, or None."""
    while isinstance(a, np.ndarray):
        a = a.base
    if isinstance(a, memoryview):
        return _mapping(a.obj)
    return a if isinstance(a, mmap) else None


class _Place(NamedTuple):
    file: tuple[str, str]  # device and inode
    offset: int
    shared: bool  # whether what is written there goes to the file


def _place(a: Array) -> _Place | None:
    """Return where in a file an array begins, or None if the system does not tell."""
    address = _address(a)
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        bounds, access, offset, device, inode = line.split(maxsplit=5)[:5]
        first, end = (int(bound, 16) for bound in bounds.split("-"))
        if first <= address < end:
            return _Place((device, inode), int(offset, 16) + address - first, access.endswith("s"))
    return None


def _moved(a: Array, address: int) -> Array:
    """Return an array like a at another address."""
    interface = {**a.__array_interface__, "strides": a.strides, "data": (address, True)}
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def _address(a: Array) -> int:
    address: int = a.__array_interface__["data"][0]
    return address
