"""How arrays lie in memory: layouts by name, and any that hypothesis draws."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st


class Layout(NamedTuple):
    order: Sequence[int]  # the axes, from the outermost in memory
    steps: Sequence[int]  # along each axis
    shift: int = 0  # bytes
    swapped: bool = False
    read_only: bool = False
    subclass: bool = False
    repeated: int | None = None  # the axis along which there is one value


class _Subclass(np.ndarray):
    pass


def arrange(a, layout):
    """A copy that lies so in memory, with NaN between and around its values."""
    one = a if layout.repeated is None else a[(slice(None),) * layout.repeated + (slice(1),)]
    dtype = a.dtype.newbyteorder() if layout.swapped else a.dtype
    sizes = [one.shape[i] * abs(layout.steps[i]) for i in layout.order]
    nbytes = prod(sizes) * dtype.itemsize
    around = np.full(layout.shift + nbytes + 64, 255, np.uint8)
    view = around[layout.shift :][:nbytes].view(dtype).reshape(sizes).transpose(np.argsort(layout.order))
    view = view[tuple(slice(None, None, step) for step in layout.steps)]
    view[...] = one
    view = view if layout.repeated is None else np.broadcast_to(view, a.shape)
    view = view.view(_Subclass) if layout.subclass else view
    if layout.read_only:
        view.flags.writeable = False
    return view


def _named(order=lambda axes: axes, step=1, **options):
    """A function that copies an array into a layout, whose axes are put in order by a function of their numbers."""

    def copied(a):
        return arrange(a, Layout(order([*range(a.ndim)]), [step] * a.ndim, **options))

    return copied


LAYOUTS = {
    "c": _named(),
    "fortran": _named(order=lambda axes: axes[::-1]),
    "channels_last": _named(order=lambda axes: axes[:1] + axes[2:] + axes[1:2]),
    "sliced": _named(step=2),
    "reversed": _named(step=-1),
    "unaligned": _named(shift=1),
    "read_only": _named(read_only=True),
    "big_endian": _named(swapped=True),
    "subclass": _named(subclass=True),
}
WRITABLE_LAYOUTS = [name for name in LAYOUTS if name != "read_only"]


@st.composite
def layouts(draw, ndim, written):
    """Plain, or other than that in some ways."""
    plain, seldom = draw(st.booleans()), st.integers(0, 3)
    steps = st.lists(st.sampled_from([1, 1, 1, 2, -1, -3]), min_size=ndim, max_size=ndim)
    return Layout(
        order=list(range(ndim)) if plain or draw(st.booleans()) else draw(st.permutations(range(ndim))),
        steps=[1] * ndim if plain or draw(st.booleans()) else draw(steps),
        shift=0 if plain else draw(st.sampled_from([0, 0, 4, 8, 64, 1])),
        swapped=not plain and draw(seldom) == 3,
        read_only=not (plain or written) and draw(seldom) == 3,
        subclass=not plain and draw(seldom) == 3,
        repeated=draw(st.integers(0, ndim - 1)) if not (plain or written) and draw(seldom) == 3 else None,
    )
