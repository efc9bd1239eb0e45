"""A user's own compiled functions, which choose and launch kernels as the launchers do in Python; for scripts."""

import numpy as np
from numba import njit

import numbanorm
from numbanorm.cpu.engine.machine import last_level_cache, streams
from numbanorm.cpu.engine.parallel import engine
from numbanorm.cpu.kernels.batches import batch_norm_forward_parts, batch_norm_forward_whole
from numbanorm.cpu.kernels.long_rows import layer_norm_long_rows_forward, long_forward
from numbanorm.cpu.kernels.rows import layer_norm_rows_forward
from numbanorm.cpu.kernels.tiles import whole_channels

EPS = 1e-5
ROWS = (40, 300), (5000, 64), (2, 300_000)  # one piece of work, several, and long rows
CHANNELS = (16, 8, 10), (40, 3, 5000)  # tiles of whole channels, and of parts of channels


@njit(cache=True)
def layer_norm(x, weight, bias):
    y, mean, rstd = np.empty_like(x), np.empty(x.shape[0], x.dtype), np.empty(x.shape[0], x.dtype)
    if long_forward(x.shape[1], x.itemsize):
        layer_norm_long_rows_forward(engine(), streams(2 * x.nbytes), x, weight, bias, EPS, y, mean, rstd)
    else:
        layer_norm_rows_forward(engine(), streams(2 * x.nbytes), x, weight, bias, EPS, y, mean, rstd)
    return y, mean, rstd


@njit(cache=True)
def batch_norm(x, weight, bias):
    y, mean, var, rstd = np.empty_like(x), np.empty(x.shape[1]), np.empty(x.shape[1]), np.empty_like(weight)
    if whole_channels(x.shape, x.itemsize):
        batch_norm_forward_whole(engine(), streams(2 * x.nbytes), x, weight, bias, EPS, y, mean, rstd, var)
    else:
        batch_norm_forward_parts(engine(), streams(2 * x.nbytes), x, weight, bias, EPS, y, mean, rstd, var)
    return y, mean.astype(x.dtype), rstd


@njit(cache=True)
def chosen(nbytes):
    return engine(), streams(nbytes)


FUNCTIONS = layer_norm, batch_norm, chosen


def cases():
    """Each function, the public one, and what both are given."""
    rng = np.random.default_rng(0)
    for shapes, axis, own, public in (
        (ROWS, -1, layer_norm, numbanorm.layer_norm_forward),
        (CHANNELS, 1, batch_norm, numbanorm.batch_norm_forward),
    ):
        for shape in shapes:
            x = rng.normal(3, 2, shape).astype(np.float32)
            yield own, public, (x, *rng.normal(size=(2, shape[axis])).astype(np.float32))


def expected():
    """What the public functions return."""
    return [public(*given) for _, public, given in cases()]


def verify(those):
    """Compiled callers get the same, to the bit."""
    for (own, _, given), results in zip(cases(), those, strict=True):
        for name, found, result in zip(results._fields, own(*given), results, strict=False):
            np.testing.assert_array_equal(found, result.ravel() if name != "y" else result, f"{own} {given[0].shape}")


def verify_streams():
    """Compiled code has the same limit as Python's."""
    limit = last_level_cache() // 2
    for nbytes in (0, limit, limit + 1, 1 << 40):
        assert chosen(nbytes)[1] == streams(nbytes) == (nbytes > limit)


def hits():
    """How many functions were read from Numba's cache, and how many were compiled."""
    stats = [function.stats for function in FUNCTIONS]
    return tuple(sum(sum(s[which].values()) for s in stats) for which in (1, 2))
