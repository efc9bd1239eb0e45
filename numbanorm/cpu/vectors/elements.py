"""What the kernels do at every index of a run: results, and terms of sums.

An operand that is one number for the run and one that varies along it (weight in layer normalization, the statistics of
short channels) go through the same loop: `at` reads either.
"""

import numpy as np

from numbanorm._math import affine, input_gradient, normalize, scaled_difference, shifted_gradient
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.vectors.loops import LINES_AHEAD, adding_lines, each_vector, elementwise, summing
from numbanorm.cpu.vectors.simd import FEW, across, add_to, at, few, item, pointer, put, total
from numbanorm.cpu.vectors.streaming import expect_at

GRADIENT_SUMS = 3  # per statistic


@elementwise
def normalize_affine_row(j, y, row, m, rstd, mean_h, weight, bias):
    x_hat = normalize(at(row, j), at(m, j), at(rstd, j), at(mean_h, j))
    put(y, j, affine(x_hat, at(weight, j), at(bias, j)))


@elementwise
def affine_row(j, y, row, m, scale, offset):
    """y = (row - m) * scale + offset."""
    put(y, j, affine(at(row, j) - at(m, j), at(scale, j), at(offset, j)))


@elementwise
def input_gradient_row(j, dx, dy, row, weight, m, rstd, m_wdy, scale, slope, offset):
    h = scaled_difference(at(row, j), at(m, j), at(rstd, j))
    g = shifted_gradient(at(dy, j), at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, at(scale, j), at(slope, j), at(offset, j)))


@elementwise
def gradients_row(j, dx, dy, row, weight, m, rstd, mean_h, m_wdy, slope, offset, run, stride):
    """A row of dx, and dy * x_hat and dy added (`add_to`) to two runs on the way."""
    x_j, dy_j, m, rstd = at(row, j), at(dy, j), at(m, j), at(rstd, j)
    add_to(run, stride, j, (dy_j * normalize(x_j, m, rstd, at(mean_h, j)), dy_j))
    h, g = scaled_difference(x_j, m, rstd), shifted_gradient(dy_j, at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, rstd, at(slope, j), at(offset, j)))


@each_vector
def scaled_row(j, y, row, scale):
    put(y, j, at(row, j) * at(scale, j))


@each_vector
def copy_row(j, y, row):
    put(y, j, at(row, j))


@each_vector
def add_row(j, short, long):
    """Add a run to one of float64."""
    put(long, j, at(long, j) + at(short, j))


@loop
def _moment_terms(j, x, m):
    d = at(x, j) - at(m, j)
    return d, d * d


@loop
def _gradient_terms(j, x, dy, weight, m, rstd, m_wdy):
    h = scaled_difference(at(x, j), at(m, j), at(rstd, j))
    g = shifted_gradient(at(dy, j), at(weight, j), at(m_wdy, j))
    return h, g, g * h


@summing(2, lanes_apart=True)
def row_lane_sums(j, x, m):
    """Of d and d * d, d = x - m."""
    return _moment_terms(j, x, m)


@loop
def row_sums(size, x, m):
    """`row_lane_sums`, added up."""
    return across(row_lane_sums(size, x, m))


@summing(2, wide=True)
def wide_row_sums(j, x, m):
    """`row_sums` in float64, with a float64 m: it also holds squares that float32 cannot."""
    return _moment_terms(j, x, m)


@summing(2, wide=True)
def scaled_row_sums(j, x, m, scale):
    """`wide_row_sums` of x * scale, with m near the mean of that."""
    d = at(x, j) * at(scale, j) - at(m, j)
    return d, d * d


@summing(GRADIENT_SUMS)
def row_gradient_sums(j, x, dy, weight, m, rstd, m_wdy):
    """Of h, g and g * h."""
    return _gradient_terms(j, x, dy, weight, m, rstd, m_wdy)


@summing(GRADIENT_SUMS, wide=True)
def wide_row_gradient_sums(j, x, dy, weight, m, rstd, m_wdy):
    """`row_gradient_sums` in float64, with float64 m, rstd and m_wdy."""
    return _gradient_terms(j, x, dy, weight, m, rstd, m_wdy)


@summing(2)
def parameter_gradient_sums(j, x, dy, m, rstd, mean_h):
    """Of dy * x_hat and dy."""
    return at(dy, j) * normalize(at(x, j), at(m, j), at(rstd, j), at(mean_h, j)), at(dy, j)


def _moment_lines(j, k, x, stride, far, m):
    """`row_sums` of each index; far: whether the lines come from memory."""
    line = pointer(x, k * stride)
    if far:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
    return _moment_terms(j, line, m)


def _gradient_lines(j, k, x, stride, far, dy, weight, m, rstd, m_wdy):
    """`row_gradient_sums` of each index."""
    line, line_dy = pointer(x, k * stride), pointer(dy, k * stride)
    if far:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
        expect_at(pointer(line_dy, LINES_AHEAD * stride), j)
    return _gradient_terms(j, line, line_dy, item(weight, k), m, rstd, m_wdy)


add_moment_lines, add_wide_moment_lines = adding_lines(2)(_moment_lines), adding_lines(2, wide=True)(_moment_lines)
add_gradient_lines = adding_lines(GRADIENT_SUMS)(_gradient_lines)
add_wide_gradient_lines = adding_lines(GRADIENT_SUMS, wide=True)(_gradient_lines)


@loop
def shift_samples(size):
    """How many of a row's first values make its shift: 8, 4, 2 or 1."""
    samples = FEW
    while samples > size:
        samples //= 2
    return samples


@loop
def shift_terms(samples, row, weight):
    """What adds up to the mean of a row's first values times weight, exact when they are equal."""
    first = few(row, samples)
    return at(row, first) * at(weight, first) * (1.0 / samples)


@loop
def row_shift(size, row, weight):
    """A number near the mean of a row times weight."""
    return total(shift_terms(shift_samples(size), row, weight))


@summing(1)
def _row_sum(j, x):
    return (at(x, j),)


@block
def repeat(values, L, width):
    """A number per channel -> a number per value of a line, L at a time, over and over."""
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
    """Add each value of lines (kinds, width or more) to the sum of its channel."""
    compact()
    for k in range(len(sums)):
        line, own = lines[k], sums[k]
        for start in range(0, width, own.size * L):
            if L == 1:
                add_row(own.size, pointer(line, start), own)
            else:
                for c in range(own.size):
                    own[c] += _row_sum(L, pointer(line, start + c * L))[0]
