"""What kind of array a call is on, and the call that fits it. No library is imported to find out."""

from importlib import import_module
from typing import Any

import numpy as np

from numbanorm._call import arguments, host


def over_axes(x: Any, axis: Any) -> Any:
    """A call on an x, checked, that is normalised over `axis`."""
    if type(x) is np.ndarray and type(axis) is int and x.flags.carray:
        call = host.usual_over_axis(x.shape, x.dtype, axis)
        if call is not None:
            return call
    return _made_for(x).over_axes(x, axis)


def over_channels(x: Any, channel_axis: Any) -> Any:
    """A call on an x, checked, of which each channel is normalised."""
    if type(x) is np.ndarray and type(channel_axis) is int and x.flags.carray:
        call = host.usual_over_channels(x.shape, x.dtype, channel_axis)
        if call is not None:
            return call
    return _made_for(x).over_channels(x, channel_axis)


def _made_for(x: Any) -> Any:
    """The module that makes calls on arrays like x."""
    return for_device("x", x, "numbanorm._call.device") or host


def for_device(name: str, x: Any, module: str) -> Any:
    """A module of this package for arrays like x, if x is on a GPU, else None. It is a TypeError if it cannot run."""
    if isinstance(x, np.ndarray) or not arguments.on_gpu(x):
        return None
    try:
        return import_module(module)
    except Exception as error:  # of any type, where numba-cuda's version is not one that the kernels know
        raise arguments.no_cuda(name, x, error) from error
