"""A valid call of each operation of the table that has a result of x's size."""

from functools import partial

import numpy as np

from numbanorm._operations import OPERATIONS


def example_calls(x, with_mask=False):
    """By name: the function, and the arrays that it takes by name, which are its to write.

    x: (rows, cols), normalised over its columns, or with channels there.
    """
    found = {}
    for name, operation in OPERATIONS.items():
        if operation.takes_out:
            arguments = operation.arguments(x, 1, np.ones)
            arrays = {key: a for key, a in arguments.items() if isinstance(a, np.ndarray)}
            numbers = {key: a for key, a in arguments.items() if key not in arrays}
            if not with_mask:
                arrays.pop("mask", None)
            found[name] = partial(operation.function, **numbers), arrays
    return found
