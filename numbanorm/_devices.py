"""Which functions are for an array: those of the CPU, or others."""

from typing import Any

from numbanorm import _checks


def elsewhere(x: Any) -> Any:
    """The functions for an x that is on a GPU, or None: then it is for the checks to say what is wrong."""
    if not _checks.on_gpu(x):
        return None
    try:
        from numbanorm.cuda import functions
    except ImportError as error:
        raise _checks.no_cuda("x", x, error) from error
    return functions
