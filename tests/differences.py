"""Gradients beside the central differences of a loss."""

import numpy as np

from tests.cases import assert_within

STEP = 1e-6
ERROR = 1e-8  # of differences of a loss near 1: STEP squared, and its rounding by STEP
SOME = 8  # entries of each array


def assert_slopes(loss, pairs):
    """Each gradient of (array, gradient) holds the slopes of `loss()` along some entries of the array."""
    for array, gradient in pairs:
        some = np.random.default_rng(0).choice(array.size, min(array.size, SOME), replace=False)
        slopes = np.array([_slope(loss, array, at) for at in some])
        assert_within(gradient.flat[some], slopes, ERROR)


def _slope(loss, array, at):
    before, slope = array.flat[at], 0.0
    for sign in (1, -1):
        array.flat[at] = before + sign * STEP
        slope += sign * loss() / (2 * STEP)
    array.flat[at] = before
    return slope
