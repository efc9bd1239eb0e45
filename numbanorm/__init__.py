"""Batch, layer and RMS normalization, forward and backward, fused, for NumPy arrays, compiled with Numba."""

from typing import TYPE_CHECKING, Any

from numbanorm._call.recycling import recycle_memory
from numbanorm._types import Forward, Gradients
from numbanorm._version import __version__
from numbanorm.batchnorm import batch_norm, batch_norm_backward, batch_norm_forward
from numbanorm.batchnorm_halves import GradientSums, batch_norm_backward_apply, batch_norm_backward_reduce
from numbanorm.layernorm import layer_norm, layer_norm_backward, layer_norm_forward
from numbanorm.layers import BatchNorm, LayerNorm, RMSNorm, no_grad, set_debug
from numbanorm.moments import Moments
from numbanorm.rmsnorm import RMSForward, RMSGradients, rms_norm, rms_norm_backward, rms_norm_forward
from numbanorm.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from numbanorm.scalers import MinMaxScaler, StandardScaler


def __getattr__(name: str) -> Any:
    """Import the scalers when they are first used, since their module imports scikit-learn if it is installed."""
    if name in ("MinMaxScaler", "StandardScaler"):
        from numbanorm import scalers

        return getattr(scalers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List all names, with those that are imported when they are first used."""
    return sorted({*globals(), *__all__})


__all__ = [
    "BatchNorm",
    "Forward",
    "GradientSums",
    "Gradients",
    "LayerNorm",
    "MinMaxScaler",
    "Moments",
    "RMSForward",
    "RMSGradients",
    "RMSNorm",
    "StandardScaler",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_backward_apply",
    "batch_norm_backward_reduce",
    "batch_norm_forward",
    "get_num_threads",
    "layer_norm",
    "layer_norm_backward",
    "layer_norm_forward",
    "no_grad",
    "recycle_memory",
    "rms_norm",
    "rms_norm_backward",
    "rms_norm_forward",
    "set_debug",
    "set_num_threads",
]
