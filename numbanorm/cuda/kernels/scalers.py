"""Scale x (N, C, L), each channel by its own numbers, and limit the result."""

from numbanorm._math import affine
from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, factory
from numbanorm.cuda.kernels.channels import APPLY_TERMS
from numbanorm.cuda.vectors.arithmetic import select
from numbanorm.cuda.vectors.memory import each, load, registers, store
from numbanorm.cuda.vectors.simd import number


@factory
def scale_pieces(dtype, lanes, way):
    """Make a kernel that writes y = (x - m) * scale + offset, limited to low and high. A NaN stays."""
    share, address, stat_lanes = way.share, way.source.address, way.lanes

    def kernel(x, m, scale, offset, low, high, y, N, C, L, chunk, tiles):
        first, end, step, channel, geometry = share(cuda.blockIdx.x, N, C, L, chunk, tiles)
        channel_m = channel_scale = channel_offset = number(0.0, x, stat_lanes)
        if first < end:
            channel_m, channel_scale = load(m, channel, stat_lanes), load(scale, channel, stat_lanes)
            channel_offset = load(offset, channel, stat_lanes)
        values, start = registers(x, lanes, APPLY_TERMS), first
        while start < end:
            for k in each(APPLY_TERMS):
                if start + k * step < end:
                    values[k] = load(x, address(start + k * step, geometry), lanes)
            for k in each(APPLY_TERMS):
                if start + k * step < end:
                    result = affine(values[k] - channel_m, channel_scale, channel_offset)
                    result = select(result < low, low, result)
                    store(y, address(start + k * step, geometry), select(result > high, high, result))
            start += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 4, dtype, dtype, values, *[types.int64] * 5))
