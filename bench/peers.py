"""The libraries that numbanorm is timed beside."""

import contextlib
from importlib.util import find_spec
from types import ModuleType

import numba

from bench import numpy_peer

NAMES = ("NumPy", "PyTorch")
HAS_TORCH = find_spec("torch") is not None
MISSING = "" if HAS_TORCH else "PyTorch is not installed, its columns show -: pip install torch"


def installed() -> dict[str, ModuleType]:
    """A module of the same functions for each library; PyTorch with as many threads as numbanorm."""
    if not HAS_TORCH:
        return {"NumPy": numpy_peer}
    import torch

    from bench import torch_peer

    torch.set_num_threads(numba.get_num_threads())
    return {"NumPy": numpy_peer, "PyTorch": torch_peer}


def inference_mode() -> contextlib.AbstractContextManager:
    """Where PyTorch calls are quickest: it records no graph."""
    if not HAS_TORCH:
        return contextlib.nullcontext()
    import torch

    return torch.inference_mode()
