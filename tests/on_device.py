"""The public functions with NumPy's arrays, whose copies lie on the device of `tests.device`.

So the tests of the CPU's results run as they are. What concerns host memory alone (byte order, addresses that are not
aligned) is left out on the way: such arrays are copied.
"""

from functools import wraps
from inspect import signature

import numpy as np

from numbanorm._operations import OPERATIONS
from tests import device


def on_device(function):
    """A public function; arrays that it writes are written, and all others must be as before."""

    bound, operation = signature(function), OPERATIONS.get(function.__name__)

    @wraps(function)
    def call(*args, **kwargs):
        there, here = {}, {}

        def send(a):
            if not isinstance(a, np.ndarray):
                return a
            if id(a) not in there:
                usual = a if a.flags.aligned and a.dtype.isnative else np.array(a, a.dtype.newbyteorder("="))
                there[id(a)], here[id(a)] = device.to_device(usual), a
            return there[id(a)]

        with device.emulated():
            result = function(*map(send, args), **{name: send(value) for name, value in kwargs.items()})
        given = bound.bind(*args, **kwargs).arguments
        written = {
            id(given[name])
            for name in ("out", *(operation.updated if operation else ()))
            if given.get(name) is not None
        }
        for key, a in here.items():
            values = device.to_host(there[key])
            if key in written:
                a[...] = values
            else:
                np.testing.assert_array_equal(a, values)
        owners = {id(array): here[key] for key, array in there.items()}

        def back(array):
            return owners[id(array)] if id(array) in owners else np.array(device.to_host(array))

        return type(result)(*map(back, result)) if isinstance(result, tuple) else back(result)

    return call
