"""Find out what kind of array a call is on, and make the call that fits it. No library is imported for that."""

from importlib import import_module
from typing import Any

import numpy as np

from numbanorm._call import arguments, host


def over_axes(x: Any, axis: Any) -> Any:
    """Check x, and make a call that normalises it over `axis`."""
    if type(x) is np.ndarray and type(axis) is int and x.flags.carray:
        call = host.usual_over_axis(x.shape, x.dtype, axis)
        if call is not None:
            return call
    return _made_for(x).over_axes(x, axis)


def over_channels(x: Any, channel_axis: Any) -> Any:
    """Check x, and make a call that normalises each of its channels."""
    if type(x) is np.ndarray and type(channel_axis) is int and x.flags.carray:
        call = host.usual_over_channels(x.shape, x.dtype, channel_axis)
        if call is not None:
            return call
    return _made_for(x).over_channels(x, channel_axis)


def _made_for(x: Any) -> Any:
    """Return the module that makes calls on arrays like x."""
    return for_device("x", x, "numbanorm._call.device") or host


def for_device(name: str, x: Any, module: str) -> Any:
    """Import a module of this package if x is on a GPU, and return it. Return None for other arrays.

    It is a TypeError if the module cannot be imported.
    """
    if isinstance(x, np.ndarray) or not arguments.on_gpu(x):
        return None
    try:
        return import_module(module)
    except Exception as error:  # of any type, where numba-cuda's version is not one that the kernels know
        raise arguments.no_cuda(name, x, error) from error
