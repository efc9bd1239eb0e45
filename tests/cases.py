"""Shapes and values for the tests, and the accuracy contract that results are held against."""

from itertools import count
from typing import NamedTuple

import numpy as np

OFFSETS = [0.0, 1.0, 1e3, 1e4, 1e6]  # the mean of values of standard deviation 1

# Around the sizes at which kernels change their way: lanes, runs of 512, lines, tiles; primes; one and none left over.
LAYER_NORM_CASES = [  # shape, axis
    ((1, 1), -1),
    ((3, 2), -1),
    ((5, 7), 1),
    ((4, 31), -1),
    ((4, 32), -1),
    ((4, 33), -1),
    ((43, 64), -1),
    ((43, 65), -1),
    ((2, 511), -1),
    ((2, 512), -1),
    ((2, 513), -1),
    ((1, 4099), -1),
    ((3, 12000), -1),
    ((1, 16400), -1),
    ((4099, 1), -1),
    ((1031, 3), -1),
    ((600, 257), -1),
    ((64, 768), -1),
    ((100, 3001), -1),
    ((3, 70001), -1),
    ((2, 300001), -1),
    ((13,), 0),
    ((2, 3, 5), (1, 2)),
    ((2, 3, 5), (-1, -2)),
    ((2, 3, 5), (0, 1, 2)),
    ((2, 3, 5), 1),
    ((2, 3, 5), 0),
    ((2, 3, 5), (0, 2)),
    ((4, 5, 6, 7), (0, 2)),
    ((4, 5, 6, 7), (1, 2)),
    ((2, 96, 7, 7), 1),
    ((2, 40, 23, 29), 1),
    ((3, 1, 700), 1),
    ((1, 20000, 3), 1),
    ((2, 300, 600), 1),
]

BATCH_NORM_CASES = [  # shape, channel axis
    ((2, 1), 1),
    ((2, 3), 1),
    ((60, 100), 1),
    ((17, 31), 1),
    ((1031, 3), 1),
    ((9, 513), 1),
    ((700, 512), 1),
    ((300, 1100), 1),
    ((5000, 64), 1),
    ((5000, 64), 0),
    ((2, 3, 5), 1),
    ((2, 3, 5), 2),
    ((2, 3, 5), 0),
    ((1, 3, 5), 1),
    ((7, 5, 49), 1),
    ((4, 600, 49), 1),
    ((3, 2, 255), 1),
    ((3, 2, 256), 1),
    ((3, 2, 257), 1),
    ((4, 3, 16, 16), 1),
    ((4, 3, 17, 19), -3),
    ((4, 17, 19, 3), -1),
    ((30, 2, 100, 100), 1),
    ((2, 2, 300000), 1),
    ((40000, 2, 20), 1),
]


def values(shape, dtype=np.float32, offset=0.0, seed=0):
    """Normal values of standard deviation 1 around an offset."""
    return (np.random.default_rng(seed).standard_normal(shape) + offset).astype(dtype)


def series(seed, **options):
    """A function of a shape: `values` that are others each time, so that no argument equals another."""
    seeds = count(seed)
    return lambda shape: values(shape, seed=next(seeds), **options)


def two_values(shape):
    """x and dy whose sums, a term at a time in float32, would be rounded the same way each time."""
    sign = np.where(np.arange(int(np.prod(shape))).reshape(shape) * 2654435761 >> 16 & 1, 1, -1)
    return (1e3 + sign).astype(np.float32), (1.1 * sign + 0.3).astype(np.float32)


def tolerance(dtype):
    """The contract's 2e-6, 34 units of rounding, for float32; the same in float64.

    There the sums are no more precise than the values, so twice as many.
    """
    return 2e-6 if np.dtype(dtype).itemsize == 4 else 68 * 2.0**-53


def y_bound(expected, x_hat, weight, dtype):
    """2e-6 * max(1, |x_hat| / 4) * max(1, |weight|), and 1.5 units in the last place of the largest of three.

    These are y, bias and x_hat * weight. Half a unit is of y, which is rounded. Batch normalization also rounds
    bias - delta * scale, where delta is up to two deviations: that may lie beyond a power of two that none of the three
    reaches, and half its unit is then one of theirs.
    """
    product = x_hat * weight
    largest = np.maximum(np.maximum(np.abs(expected), np.abs(expected - product)), np.abs(product))
    share = tolerance(dtype) * np.maximum(1, np.abs(x_hat) / 4) * np.maximum(1, np.abs(weight))
    return share + 1.5 * np.spacing(largest.astype(dtype))


class Bounds(NamedTuple):
    """How far gradients may be from the reference."""

    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray


def gradient_bounds(expected, dtype):
    """2e-6 of the magnitudes of their terms before these cancel.

    Of dx, the largest rstd * (|wdy| + |mean(wdy)| + |x_hat * mean(wdy * x_hat)|) of its row or channel; of dweight, the
    sum of |dy * x_hat| + |dy|, since x_hat has an absolute error; of dbias, the sum of |dy|. Where no mean is
    subtracted and there is no dbias, the error of x_hat is relative, and the sum of |dy * x_hat| is enough.
    """
    dbias_terms = getattr(expected, "dbias_terms", 0.0)
    terms = expected.dx_terms, expected.dweight_terms + dbias_terms, dbias_terms
    return Bounds(*(tolerance(dtype) * a for a in terms))


def assert_normalized(y, expected, expected_x_hat, weight=1.0):
    """Within `y_bound`."""
    assert_within(y, expected, y_bound(expected, expected_x_hat, weight, y.dtype.newbyteorder("=")))


def assert_gradients(gradients, expected):
    """Within `gradient_bounds`, each that the reference has."""
    bounds = gradient_bounds(expected, gradients.dx.dtype)
    for name in [name for name in bounds._fields if hasattr(expected, name)]:
        assert_within(getattr(gradients, name), getattr(expected, name), getattr(bounds, name))


def assert_within(actual, expected, limit):
    assert actual.shape == expected.shape
    error = np.abs(actual - expected)
    assert (error <= limit).all(), f"largest error {error.max()}, {np.nanmax(error / limit)} times the limit"


def assert_statistics(mean, rstd, expected):
    """The mean to a few units of itself and the contract's part of a standard deviation, rstd to a few units."""
    unit = tolerance(mean.dtype)
    mean64, rstd64, std64 = (a.reshape(mean.shape) for a in (expected.mean, expected.rstd, np.sqrt(expected.var)))
    assert_within(mean, mean64, unit * (np.abs(mean64) / 8 + std64))
    assert_within(rstd, rstd64, unit * rstd64 / 4)


def assert_forward(result, expected, over_x=1.0):
    """y and the statistics. Where there is no mean nothing cancels in rstd, the root of a sum of squares."""
    assert_normalized(result.y, expected.y, expected.x_hat, over_x)
    if hasattr(expected, "mean"):
        assert_statistics(result.mean, result.rstd, expected)
    else:
        assert_within(result.rstd, expected.rstd, tolerance(result.rstd.dtype) * expected.rstd / 4)
