"""What is on this machine: the stage `probe`. No step of it needs a GPU to say why there is none."""

import os
import platform
import shutil
import subprocess
from glob import glob
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.first_contact.steps import Lacking, Steps

PACKAGES = ("numpy", "numba", "numba-cuda", "llvmlite", "cuda-core", "cuda-bindings", "cuda-pathfinder", "nvidia-nvvm")
PACKAGES += ("nvidia-nvjitlink", "nvidia-cuda-nvrtc", "torch", "triton", "cupy-cuda12x", "cupy-cuda13x")
VARIABLES = ("CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NUMBA_CUDA_DRIVER")
TOOLKIT = "/usr/local/cuda"


def steps(part: str, until: float) -> Steps:
    return {"GPU": gpu, "NVVM": nvvm, "versions": versions, "nvidia-smi": nvidia_smi, "info": info}


def gpu() -> dict[str, Any]:
    from bench import gpu_device

    if sentence := gpu_device.no_gpu():
        raise Lacking(sentence)
    return gpu_device.facts()


def nvvm() -> dict[str, Any]:
    try:
        from numbanorm.cuda import cuda  # noqa: F401 (it finds NVIDIA's numba.cuda, or says what is wrong)
    except ImportError as error:
        raise Lacking(str(error)) from error
    try:
        from numba.cuda.cudadrv.nvvm import NVVM

        return {"version": NVVM().get_version()}
    except Exception as error:
        found = glob(f"{TOOLKIT}*/**/libnvvm.so*", recursive=True)
        advice = f"; found {found[0]}: set CUDA_HOME={TOOLKIT}" if found else ""
        raise Lacking(f"NVVM: {type(error).__name__}: {error}{advice}") from error


def versions() -> dict[str, Any]:
    found = {name: _version(name) for name in PACKAGES}
    tools = {name: shutil.which(name) for name in ("compute-sanitizer", "nvcc", "ncu", "nsys")}
    settings = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    return {"python": platform.python_version(), "versions": found, "tools": tools, "environment": settings}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def nvidia_smi() -> dict[str, Any]:
    """Whether somebody else is on the GPU, its power limit and its ECC."""
    fields = "name,driver_version,compute_mode,power.limit,ecc.mode.current,utilization.gpu,memory.used,memory.total"
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"], capture_output=True, text=True, timeout=20
        )
    except OSError as error:
        raise Lacking(f"nvidia-smi: {error}") from error
    return {"printed": (found.stdout + found.stderr).splitlines()}


def info() -> dict[str, Any]:
    """What ``python -m numbanorm info`` says."""
    from numbanorm._info import lines

    return dict(lines())
