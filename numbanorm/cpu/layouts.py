"""Arrange arrays as the kernels need them."""

from typing import Any

import numpy as np

from numbanorm._types import Array


def behaved(a: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array that is C-ordered, aligned, of this dtype, and writable as far as Numba can tell.

    Numba would compile anew for any other array.
    """
    flags, other = a.flags, a.dtype is not dtype and a.dtype != dtype  # most are the same object, which is soon said
    if flags.carray and not other and type(a) is np.ndarray:
        return a
    a = np.asarray(a)  # not a subclass
    if other or not (flags.c_contiguous and flags.aligned):
        return a.astype(dtype, "C")
    return a if a.flags.writeable else np.asarray(_Writable(a))


def packed(a: Array, mask: Array) -> Array:
    """Return the values of a (N, C, L) where the mask is True, as (positions, C, 1)."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1)[mask])[:, :, None]


def unpack(rows: Array, mask: Array, a: Array) -> None:
    """Fill a (N, C, L) with the `packed` rows, and with 0 where the mask is False."""
    a[...] = 0
    np.moveaxis(a, 1, -1)[mask] = rows[:, :, 0]


class _Writable:
    """Expose a read-only array's memory without the flag, for kernels that only read it."""

    def __init__(self, a: Array) -> None:
        self.owner = a
        interface = a.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
