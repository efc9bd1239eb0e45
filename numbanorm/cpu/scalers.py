"""Scale x (N, C, L), each channel by its own numbers, and limit the result."""

from typing import Any

from numbanorm._types import Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels import scalers


def scale_channels(
    call: Any, x: Array, m: Array, scale: Array, offset: Array, low: float, high: float, y: Array
) -> bool:
    """Fill y (N, C, L), of m, scale and offset (C,). Return whether x has an infinity."""
    return x.size > 0 and bool(scalers.scale_channels(engine(), call.streams(2), x, m, scale, offset, low, high, y))
