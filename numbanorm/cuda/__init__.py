"""The kernels on the GPU; the one place that imports numba.cuda."""

try:
    from numba import cuda
except ImportError as error:  # no Numba that has it
    raise ImportError(f"numbanorm: arrays on a GPU need numba-cuda; pip install 'numbanorm[cuda]' ({error})") from error

if getattr(cuda, "implementation", None) != "NVIDIA":  # Numba's own, which is no longer kept up
    raise ImportError("numbanorm: arrays on a GPU need numba-cuda; pip install 'numbanorm[cuda]'")

__all__ = ["cuda"]
