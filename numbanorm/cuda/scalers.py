"""Scale x (N, C, L), each channel by its own numbers, and limit the result."""

from numbanorm.cuda.batchnorm import plan_of
from numbanorm.cuda.grids import NONE, type_of
from numbanorm.cuda.kernels.scalers import scale_pieces


# The host's also returns whether x has an infinity. To tell that here would wait for the kernel.
def scale_channels(call, x, m, scale, offset, low, high, y):
    """Fill y.

    x, y: (N, C, L); m, scale, offset: (C,); all of one dtype.
    """
    N, C, L = call.planes
    plan = plan_of(N, C, L, NONE, x, m, scale, offset, y)
    arguments = x, m, scale, offset, low, high, y, N, C, L, plan.chunk, plan.tiles
    call.launch(scale_pieces(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)
