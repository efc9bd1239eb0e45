"""x (N, C, L) scaled, a channel at a time, with what is clipped."""

from numbanorm._math import affine
from numbanorm.cuda import cuda, types
from numbanorm.cuda.batchnorm import NONE, plan_of
from numbanorm.cuda.compiling import Kernel, factory
from numbanorm.cuda.grids import type_of
from numbanorm.cuda.kernels.channels import APPLY_TERMS
from numbanorm.cuda.vectors.memory import each, load, registers, store
from numbanorm.cuda.vectors.simd import number, select


@factory
def scale_pieces(dtype, lanes, way):
    """y = (x - m) * scale + offset, kept between low and high; a NaN stays."""
    share, address, stat_lanes = way.share, way.source.address, way.lanes

    def kernel(x, m, scale, offset, low, high, y, N, C, L, chunk, tiles):
        first, end, step, channel, geometry = share(cuda.blockIdx.x, N, C, L, chunk, tiles)
        own_m = own_scale = own_offset = number(0.0, x, stat_lanes)
        if first < end:
            own_m, own_scale = load(m, channel, stat_lanes), load(scale, channel, stat_lanes)
            own_offset = load(offset, channel, stat_lanes)
        values, place = registers(x, lanes, APPLY_TERMS), first
        while place < end:
            for k in each(APPLY_TERMS):
                if place + k * step < end:
                    values[k] = load(x, address(place + k * step, geometry), lanes)
            for k in each(APPLY_TERMS):
                if place + k * step < end:
                    result = affine(values[k] - own_m, own_scale, own_offset)
                    result = select(result < low, low, result)
                    store(y, address(place + k * step, geometry), select(result > high, high, result))
            place += APPLY_TERMS * step

    values = types.CPointer(dtype)
    return Kernel(kernel, (*[values] * 4, dtype, dtype, values, *[types.int64] * 5))


def scale_channels(call, x, m, scale, offset, low, high, y, N, C, L):
    """x, y: (N, C, L); m, scale, offset: (C,); all of one dtype."""
    plan = plan_of(N, C, L, NONE, x, m, scale, offset, y)
    arguments = x, m, scale, offset, low, high, y, N, C, L, plan.chunk, plan.tiles
    call.launch(scale_pieces(type_of(x.dtype), plan.lanes, plan.way), plan.grid, plan.block, *arguments)
