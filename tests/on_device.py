"""The public functions with NumPy's arrays, whose copies lie on the device of `tests.device`.

So the tests of the CPU's results run as they are. What concerns host memory alone (byte order, addresses that are not
aligned) is left out on the way: such arrays are copied.
"""

from functools import wraps

import numpy as np

from tests import device


def on_device(function):
    """A public function; arrays that it writes are written, and all others must be as before."""

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
        written = [kwargs.get("out"), *(kwargs.get(name) for name in ("running_mean", "running_var"))]
        if function.__name__ == "batch_norm_forward":
            written += args[3:5]
        written = {id(a) for a in written if a is not None}
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
