"""Compute what kernels of RMS normalization need at every index of a run.

RMS normalization is layer normalization of values whose mean is taken for 0, without a bias. So these loops take what
the loops of layer normalization take (`numbanorm.cpu.vectors.elements`), but do not read m, mean_h, m_wdy, offset and
bias: the formulas are given 0, which the compiler leaves out. Sums that would be multiplied by 0 are 0.
"""

from numbanorm._math import affine, input_gradient, normalize, scaled_difference, shifted_gradient
from numbanorm.cpu.compiling.jit import loop
from numbanorm.cpu.vectors.arithmetic import across
from numbanorm.cpu.vectors.loops import LINES_AHEAD, adding_lines, elementwise, summing
from numbanorm.cpu.vectors.simd import add_to, at, item, pointer, put
from numbanorm.cpu.vectors.streaming import expect_at


@loop
def no_shift(size, row, weight):
    """Return 0, in place of `row_shift`."""
    return 0.0


@elementwise
def normalize_scale_row(j, y, row, m, rstd, mean_h, weight, bias):
    """y = x_hat * weight."""
    x_hat = normalize(at(row, j), 0.0, at(rstd, j), 0.0)
    put(y, j, affine(x_hat, at(weight, j), 0.0))


@elementwise
def rms_input_gradient_row(j, dx, dy, row, weight, m, rstd, m_wdy, factor, slope, offset):
    """dx = factor * g + slope * h."""
    h, g = scaled_difference(at(row, j), 0.0, at(rstd, j)), shifted_gradient(at(dy, j), at(weight, j), 0.0)
    put(dx, j, input_gradient(g, h, at(factor, j), at(slope, j), 0.0))


@elementwise
def rms_gradients_row(j, dx, dy, row, weight, m, rstd, mean_h, m_wdy, slope, offset, run, stride):
    """Write a row of dx. Add dy * x_hat (by `add_to`) to a run on the way."""
    dy_j, rstd = at(dy, j), at(rstd, j)
    h, g = scaled_difference(at(row, j), 0.0, rstd), shifted_gradient(dy_j, at(weight, j), 0.0)
    add_to(run, stride, j, (dy_j * h,))
    put(dx, j, input_gradient(g, h, rstd, at(slope, j), 0.0))


@summing(1, by_lane=True)
def square_lane_sums(j, x):
    """Return the sum of squares in each lane."""
    return (at(x, j) * at(x, j),)


@loop
def row_squares(size, x, m):
    """Do what `row_sums` does about 0: the second result is the sum of squares."""
    return 0.0, across(square_lane_sums(size, x))[0]


@summing(1, in_float64=True)
def _scaled_squares(j, x, scale):
    value = at(x, j) * at(scale, j)
    return (value * value,)


@loop
def scaled_row_squares(size, x, m, scale):
    """Do what `scaled_row_sums` does about 0."""
    return 0.0, _scaled_squares(size, x, scale)[0]


@loop
def _gradient_term(j, x, dy, weight, rstd):
    h, g = scaled_difference(at(x, j), 0.0, at(rstd, j)), shifted_gradient(at(dy, j), at(weight, j), 0.0)
    return g * h


@summing(1)
def _products(j, x, dy, weight, rstd):
    return (_gradient_term(j, x, dy, weight, rstd),)


@loop
def row_products(size, x, dy, weight, m, rstd, m_wdy):
    """Do what `row_gradient_sums` does about 0: the third result is the sum of g * h."""
    return 0.0, 0.0, _products(size, x, dy, weight, rstd)[0]


@summing(1)
def _weight_gradient(j, x, dy, rstd):
    return (at(dy, j) * normalize(at(x, j), 0.0, at(rstd, j), 0.0),)


@loop
def weight_gradient_sum(size, x, dy, m, rstd, mean_h):
    """Return the sum of dy * x_hat."""
    return _weight_gradient(size, x, dy, rstd)


@adding_lines(1)
def add_square_lines(j, k, x, stride, streams, m):
    """Return the squares of line k at index j."""
    line = pointer(x, k * stride)
    if streams:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
    return (at(line, j) * at(line, j),)


@adding_lines(1)
def add_product_lines(j, k, x, stride, streams, dy, weight, m, rstd, m_wdy):
    """Return g * h of line k at index j."""
    line, line_dy = pointer(x, k * stride), pointer(dy, k * stride)
    if streams:
        expect_at(pointer(line, LINES_AHEAD * stride), j)
        expect_at(pointer(line_dy, LINES_AHEAD * stride), j)
    return (_gradient_term(j, line, line_dy, item(weight, k), rstd),)
