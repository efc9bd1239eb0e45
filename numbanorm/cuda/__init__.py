"""The kernels on the GPU; the one place that imports numba.cuda."""

from typing import Any

_MISSING = "arrays there need the package numba-cuda; pip install 'numbanorm[cuda]'"

try:
    from numba import cuda as _cuda
    from numba.cuda import cgutils, extending  # type: ignore[attr-defined]
    from numba.cuda.core import imputils
except ImportError as error:
    raise ImportError(f"{_MISSING} ({error})") from error

if getattr(_cuda, "implementation", None) != "NVIDIA":  # Numba's own, which is no longer kept up
    raise ImportError(_MISSING)

cuda: Any = _cuda

__all__ = ["cgutils", "cuda", "extending", "imputils"]
