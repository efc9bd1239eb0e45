"""The libraries that numbanorm is timed beside: for each, a module with the functions of `numpy_peer`.

A function takes the arrays of a case and the axis and returns the call to be timed, or None where the library cannot
do it; what a library does not have at all, its module lacks.
"""

import contextlib
import os
import shutil
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numbanorm

BASIC = ("NumPy", "PyTorch")
ALL = (*BASIC, "compiled", "JAX", "ONNX")

MODULES = {"NumPy": "numpy_peer", "PyTorch": "torch_peer", "compiled": "compiled_peer"}
MODULES |= {"JAX": "jax_peer", "ONNX": "onnx_peer"}
_NEEDS = {"NumPy": (), "PyTorch": ("torch",), "compiled": ("torch",)}
_NEEDS |= {"JAX": ("jax",), "ONNX": ("onnx", "onnxruntime")}


def installed(names: tuple[str, ...] = BASIC) -> dict[str, ModuleType]:
    """Those of `names` that can run here; PyTorch, the only one to be told from outside, with numbanorm's threads."""
    found = [name for name in names if not lacks(name)]
    if "PyTorch" in found:
        import torch

        torch.set_num_threads(numbanorm.get_num_threads())
    return {name: import_module(f"bench.{MODULES[name]}") for name in found}


def missing(names: tuple[str, ...] = BASIC) -> list[str]:
    """A sentence for each of `names` that cannot run here."""
    return [f"{name}: needs {lack}, its columns show -" for name in names if (lack := lacks(name))]


def inference_mode() -> contextlib.AbstractContextManager:
    """Where PyTorch calls are quickest: it records no graph."""
    if lacks("PyTorch"):
        return contextlib.nullcontext()
    import torch

    return torch.inference_mode()


def lacks(name: str) -> str:
    """What must be installed first; nothing if it is."""
    packages = [package for package in _NEEDS[name] if find_spec(package) is None]
    if packages:
        return f"pip install {' '.join(packages)}"
    if name == "compiled" and not shutil.which(os.environ.get("CXX", "g++")):
        return "a C++ compiler (g++, or what CXX names)"
    return ""
