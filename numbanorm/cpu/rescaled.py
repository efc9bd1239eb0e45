"""Do the backward passes of values so far apart that x - mean leaves the range of their dtype."""

from typing import Any

import numpy as np

from numbanorm._math import dtype_range
from numbanorm._types import Array
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels.ranges import least_rstd


def scaled_backward(kernel: Any, arrays: tuple[Array, ...], *rest: Any, dx: Array | None) -> None:
    """Run a kernel that refused its `arrays` on copies of x, mean and rstd, which are scaled by powers of two.

    The arrays are (dy, x, mean, rstd), or (dy, x, rstd) where the mean is taken for 0. x_hat is the same then, and so
    are all sums. dx is proportional to rstd, so it is scaled back at the end.
    """
    dy, x, *means, rstd = arrays
    step, _ = dtype_range(x.itemsize)
    far = (rstd > 0) & (rstd < least_rstd(x.itemsize))
    scale = np.where(far, 1 / step, 1.0).astype(rstd.dtype)
    over = np.expand_dims(scale, 1).astype(x.dtype)  # beside x: statistics lack its second axis, or have it alone
    with np.errstate(all="ignore"):
        kernel(engine(), False, dy, x * over, *(mean * scale for mean in means), rstd / scale, *rest)
        if dx is not None:
            np.multiply(dx, over, out=dx)
