"""Which functions are for an array: those of the CPU, or others."""

from typing import Any

from numbanorm._call import arguments


def elsewhere(x: Any, name: str = "x") -> Any:
    """The functions for an x that is on a GPU, or None: then it is for the checks to say what is wrong."""
    if not arguments.on_gpu(x):
        return None
    try:
        from numbanorm.cuda import functions
    except Exception as error:  # of any type, where numba-cuda's version is not one that the kernels know
        raise arguments.no_cuda(name, x, error) from error
    return functions
