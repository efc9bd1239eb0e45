"""Compute results, and terms of sums, at every index of a run.

An operand may be one number for the whole run. It may also vary along the run, as weight does in layer normalization,
and the statistics of short channels. The same loop serves both, since `at` reads either.
"""

import numpy as np

from numbanorm._math import affine, input_gradient, normalize, scaled_difference, shifted_gradient
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.vectors.arithmetic import across, total
from numbanorm.cpu.vectors.loops import LINES_AHEAD, adding_lines, each_vector, elementwise, summing
from numbanorm.cpu.vectors.simd import FEW, add_to, at, few, item, pointer, put
from numbanorm.cpu.vectors.streaming import expect_at

GRADIENT_SUMS = 3  # sums for each statistic: of h, g and g * h


@elementwise
def normalize_affine_row(j, y, row, m, rstd, mean_h, weight, bias):
    """y = x_hat * weight + bias."""
    x_hat = normalize(at(row, j), at(m, j), at(rstd, j), at(mean_h, j))
    put(y, j, affine(x_hat, at(weight, j), at(bias, j)))


@elementwise
def affine_row(j, y, row, m, factor, offset):
    """y = (row - m) * factor + offset."""
    put(y, j, affine(at(row, j) - at(m, j), at(factor, j), at(offset, j)))


@elementwise
def input_gradient_row(j, dx, dy, row, weight, m, rstd, m_wdy, factor, slope, offset):
    """dx = factor * g + slope * h + offset."""
    h = scaled_difference(at(row, j), at(m, j), at(rstd, j))
    g = shifted_gradient(at(dy, j), at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, at(factor, j), at(slope, j), at(offset, j)))


@elementwise
def gradients_row(j, dx, dy, row, weight, m, rstd, mean_h, m_wdy, slope, offset, run, stride):
    """Write a row of dx. Add dy * x_hat and dy (by `add_to`) to two runs on the way."""
    x_j, dy_j, m, rstd = at(row, j), at(dy, j), at(m, j), at(rstd, j)
    add_to(run, stride, j, (dy_j * normalize(x_j, m, rstd, at(mean_h, j)), dy_j))
    h, g = scaled_difference(x_j, m, rstd), shifted_gradient(dy_j, at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, rstd, at(slope, j), at(offset, j)))


@each_vector
def scaled_row(j, y, row, scale):
    """y = row * scale."""
    put(y, j, at(row, j) * at(scale, j))


@each_vector
def copy_row(j, y, row):
    """y = row."""
    put(y, j, at(row, j))


@each_vector
def add_row(j, row, sums):
    """Add a run to sums, which are float64."""
    put(sums, j, at(sums, j) + at(row, j))


@loop
def _moment_terms(j, x, m):
    d = at(x, j) - at(m, j)
    return d, d * d


@loop
def _gradient_terms(j, x, dy, weight, m, rstd, m_wdy):
    h = scaled_difference(at(x, j), at(m, j), at(rstd, j))
    g = shifted_gradient(at(dy, j), at(weight, j), at(m_wdy, j))
    return h, g, g * h


@summing(2, by_lane=True)
def row_lane_sums(j, x, m):
    """Return the sums of d and d * d in each lane."""
    return _moment_terms(j, x, m)


@loop
def row_sums(size, x, m):
    """Return the sums of d and d * d."""
    return across(row_lane_sums(size, x, m))


@summing(2, in_float64=True)
def float64_row_sums(j, x, m):
    """Do what `row_sums` does in float64, with a float64 m. float64 holds squares that float32 cannot."""
    return _moment_terms(j, x, m)


@summing(2, in_float64=True)
def scaled_row_sums(j, x, m, scale):
    """Do what `float64_row_sums` does for x * scale, with m near the mean of x * scale."""
    d = at(x, j) * at(scale, j) - at(m, j)
    return d, d * d


@summing(GRADIENT_SUMS)
def row_gradient_sums(j, x, dy, weight, m, rstd, m_wdy):
    """Return the sums of h, g and g * h."""
    return _gradient_terms(j, x, dy, weight, m, rstd, m_wdy)


@summing(GRADIENT_SUMS, in_float64=True)
def float64_row_gradient_sums(j, x, dy, weight, m, rstd, m_wdy):
    """Do what `row_gradient_sums` does in float64, with float64 m, rstd and m_wdy."""
    return _gradient_terms(j, x, dy, weight, m, rstd, m_wdy)


@summing(2)
def parameter_gradient_sums(j, x, dy, m, rstd, mean_h):
    """Return the sums of dy * x_hat and dy."""
    return at(dy, j) * normalize(at(x, j), at(m, j), at(rstd, j), at(mean_h, j)), at(dy, j)


def _moment_lines(j, k, x, stride, streams, m):
    """Return the terms of `row_sums` of line k at index j."""
    line = pointer(x, k * stride)
    if streams:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
    return _moment_terms(j, line, m)


def _gradient_lines(j, k, x, stride, streams, dy, weight, m, rstd, m_wdy):
    """Return the terms of `row_gradient_sums` of line k at index j."""
    line, line_dy = pointer(x, k * stride), pointer(dy, k * stride)
    if streams:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
        expect_at(pointer(line_dy, LINES_AHEAD * stride), j)
    return _gradient_terms(j, line, line_dy, item(weight, k), m, rstd, m_wdy)


add_moment_lines = adding_lines(2)(_moment_lines)
add_float64_moment_lines = adding_lines(2, in_float64=True)(_moment_lines)
add_gradient_lines = adding_lines(GRADIENT_SUMS)(_gradient_lines)
add_float64_gradient_lines = adding_lines(GRADIENT_SUMS, in_float64=True)(_gradient_lines)


@loop
def shift_samples(size):
    """Return how many of a row's first values make its shift: 8, 4, 2 or 1."""
    samples = FEW
    while samples > size:
        samples //= 2
    return samples


@loop
def shift_terms(samples, row, weight):
    """Return terms whose sum is the mean of a row's first values times weight.

    The sum is exact when all these products are equal.
    """
    first = few(row, samples)
    return at(row, first) * at(weight, first) * (1.0 / samples)


@loop
def row_shift(size, row, weight):
    """Return the shift of a row: a number near the mean of the row times weight."""
    return total(shift_terms(shift_samples(size), row, weight))


@summing(1)
def _row_sum(j, x):
    return (at(x, j),)


@block
def repeat(values, L, width):
    """Make a line of `width` numbers from a number for each channel.

    Each number is repeated L times. The line then begins again with the first channel, as often as it has room for.
    """
    compact()
    if width == values.size:
        return values
    line, period = np.empty(width, values.dtype), values.size * L
    if L == 1:
        copy_row(period, line, values)
    else:
        for c in range(values.size):
            copy_row(L, pointer(line, c * L), values[c])
    for start in range(period, width, period):
        copy_row(min(period, width - start), pointer(line, start), line)
    return line


@block
def fold(lines, width, L, sums):
    """Add the values of lines to the sums of their channels. Each of `sums` has a line, in the layout of `repeat`."""
    compact()
    for k in range(len(sums)):
        line, channel_sums = lines[k], sums[k]
        for start in range(0, width, channel_sums.size * L):
            if L == 1:
                add_row(channel_sums.size, pointer(line, start), channel_sums)
            else:
                for c in range(channel_sums.size):
                    channel_sums[c] += _row_sum(L, pointer(line, start + c * L))[0]
