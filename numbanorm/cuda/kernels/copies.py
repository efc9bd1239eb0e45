"""Copy values between arrays of any strides, and between float32 and float64."""

from functools import lru_cache

from numbanorm.cuda import cuda, types
from numbanorm.cuda.compiling import Kernel, factory
from numbanorm.cuda.vectors.memory import load, store

THREADS = 256


@factory
def strided_copy(source_dtype, dtype, ndim):
    """Make a kernel that sets target[i, j, ...] = source[i, j, ...]. A thread copies one value. Steps are in values."""

    def kernel(source, target, size, shape, source_steps, steps):
        left = types.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
        if left < size:
            source_place, place = types.int64(0), types.int64(0)
            for k in range(ndim):
                i = left % shape[ndim - 1 - k]
                left //= shape[ndim - 1 - k]
                source_place += i * source_steps[ndim - 1 - k]
                place += i * steps[ndim - 1 - k]
            store(target, place, load(source, source_place, 1))

    sizes = types.UniTuple(types.int64, ndim)
    return Kernel(kernel, (types.CPointer(source_dtype), types.CPointer(dtype), types.int64, sizes, sizes, sizes))


@lru_cache(1 << 12)
def plan(shape, source_steps, steps):
    """Describe a copy by as few axes as possible, at least one.

    Axes whose values follow each other become one.
    """
    axes = [axis for axis in zip(shape, source_steps, steps, strict=True) if axis[0] != 1]
    joined = []
    for size, source_step, step in axes:
        if joined and joined[-1][1] == source_step * size and joined[-1][2] == step * size:
            joined[-1] = joined[-1][0] * size, source_step, step
        else:
            joined.append((size, source_step, step))
    return tuple(zip(*(joined or [(1, 1, 1)]), strict=True))
