"""Valid calls of the operations of the table."""

from functools import partial
from itertools import product

import numpy as np

from numbanorm._operations import OPERATIONS


def example_calls(x, with_mask=False):
    """By name: the function, and the arrays that it takes by name, which are its to write.

    Of each operation that has a result of x's size. x: (rows, cols), normalised over its columns, or with channels
    there.
    """
    found = {}
    for name, operation in OPERATIONS.items():
        if operation.takes_out:
            arguments = (operation.arguments if with_mask else partial(unmasked, operation))(x, 1, np.ones)
            arrays = {key: a for key, a in arguments.items() if isinstance(a, np.ndarray)}
            numbers = {key: a for key, a in arguments.items() if key not in arrays}
            found[name] = partial(operation.function, **numbers), arrays
    return found


def unmasked(operation, x, axis, values):
    """All arguments but a mask; `values` of a shape for those that x does not tell."""
    arguments = operation.arguments(x, axis, values)
    arguments.pop("mask", None)
    return arguments


def each_way(operation, x, axis):
    """All arguments, in each way: each statistic in each dtype, a mask or none, each switch on and off."""
    arguments = operation.arguments(x, axis, np.ones)
    statistics = operation.statistics + operation.updated
    ways = {name: [arguments[name].astype(dtype) for dtype in (x.dtype, np.float64)] for name in statistics}
    ways |= {switch: [False, True] for switch in operation.switches}
    if "mask" in arguments:
        ways["mask"] = [None, arguments["mask"]]
    for chosen in product(*ways.values()):
        yield arguments | dict(zip(ways, chosen, strict=True))


def arrays_changed(arguments, change):
    """The same arguments, with each array as `change` makes it."""
    return {name: change(a) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
