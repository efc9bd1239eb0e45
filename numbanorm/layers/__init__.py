"""Layers for a hand-written trainer: they hold arrays and call the functions."""

from numbanorm.layers.base import NamedGradient
from numbanorm.layers.batchnorm import BatchNorm
from numbanorm.layers.layernorm import LayerNorm
from numbanorm.layers.rmsnorm import RMSNorm
from numbanorm.layers.saved import Saved, no_grad, set_debug
from numbanorm.layers.state import LoadedKeys

__all__ = ["BatchNorm", "LayerNorm", "LoadedKeys", "NamedGradient", "RMSNorm", "Saved", "no_grad", "set_debug"]
