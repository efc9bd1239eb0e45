"""This package holds the kernels on the GPU. Only this file imports numba.cuda and cuda.core.

Kernels and vectors take the compiler's names from here. How a kernel is compiled is in `numbanorm.cuda.compiling`.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

_NEEDED = (
    "arrays there need the package numba-cuda, 0.30.4 or newer, and a NumPy that it works with "
    "(0.30.4 needs NumPy below 2.5); pip install -U 'numbanorm[cuda]'"
)


def _unusable(reason: str) -> ImportError:
    """Return an error that says what to install, what is installed, and why that does not do."""
    try:
        beside = f"Numba {version('numba')} and NumPy {version('numpy')}"
        found = f"numba-cuda {version('numba-cuda')} beside {beside}: {reason}"
    except PackageNotFoundError:
        found = reason
    return ImportError(f"{_NEEDED} ({found})")


try:
    import numba.cuda.cudaimpl  # noqa: F401 (a first compilation imports it, and fails if NumPy lacks what it names)
    from numba import cuda as _cuda
    from numba import types
    from numba.cuda import cgutils, extending  # type: ignore[attr-defined]
    from numba.cuda.core import imputils

    if getattr(_cuda, "implementation", None) != "NVIDIA":  # Numba's own, which is no longer kept up
        raise ImportError("Numba's own numba.cuda was imported instead")

    import cuda.core as _core  # numba-cuda brings it, also versions before 1.0, which lack some of these names

    for _name in ("launch", "LaunchConfig", "Linker", "LinkerOptions", "ObjectCode", "Stream"):
        getattr(_core, _name)
    from cuda.bindings import driver as _driver
    from cuda.bindings import nvjitlink as _nvjitlink
    from cuda.bindings import nvvm as _nvvm
except Exception as error:  # a version that does not fit Numba's or NumPy's fails in many ways
    raise _unusable(f"{type(error).__name__}: {error}") from error

cuda: Any = _cuda
core: Any = _core  # loads machine code and launches it
driver: Any = _driver  # NVIDIA's own functions, as Python calls them
nvvm: Any = _nvvm  # compiles
nvjitlink: Any = _nvjitlink  # optimises and links

__all__ = ["cgutils", "core", "cuda", "driver", "extending", "imputils", "nvjitlink", "nvvm", "types"]
