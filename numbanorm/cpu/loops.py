"""The elementwise and gradient loops that both norms share, over one row of values or a few lines of them.

An operand that is one number for the row and one that varies along it (weight in layer normalization, the statistics of
columns) go through the same loop: `at` reads either.
"""

import numpy as np

from numbanorm._math import affine, input_gradient, normalize, scaled_difference, shifted_gradient
from numbanorm.cpu.jit import inlined, loop, summing
from numbanorm.cpu.moments import RUN, TERMS, TOGETHER, add_run
from numbanorm.cpu.simd import add_to, at, elementwise, item, put, run_of, streamable

GRADIENT_SUMS = 5  # per statistic. dy beside g: g is rounded to a unit of m_wdy, which may be far from most dy


@streamable
def normalize_affine_row(j, y, row, m, rstd, mean_h, weight, bias):
    x_hat = normalize(at(row, j), at(m, j), at(rstd, j), at(mean_h, j))
    put(y, j, affine(x_hat, at(weight, j), at(bias, j)))


@streamable
def affine_row(j, y, row, m, scale, offset):
    """y = (row - m) * scale + offset."""
    put(y, j, affine(at(row, j) - at(m, j), at(scale, j), at(offset, j)))


@summing
def _run_gradient_sums(dy, row, weight, m, rstd, m_wdy):
    sum_h = sum_g = sum_gh = sum_dy_h = sum_dy = row.dtype.type(0)
    for j in range(row.size):
        h = scaled_difference(row[j], m, rstd)
        g = shifted_gradient(dy[j], item(weight, j), m_wdy)
        sum_h += h
        sum_g += g
        sum_gh += g * h
        sum_dy_h += dy[j] * h
        sum_dy += dy[j]
    return sum_h, sum_g, sum_gh, sum_dy_h, sum_dy


@inlined
def row_gradient_sums(dy, row, weight, m, rstd, m_wdy):
    """The sums of h, g, g * h, dy * h and dy over a row."""
    sum_h = sum_g = sum_gh = sum_dy_h = sum_dy = 0.0
    for start in range(0, row.size, RUN):
        run = slice(start, start + RUN)
        sums = _run_gradient_sums(dy[run], row[run], run_of(weight, run), m, rstd, m_wdy)
        sum_h += sums[0]
        sum_g += sums[1]
        sum_gh += sums[2]
        sum_dy_h += sums[3]
        sum_dy += sums[4]
    return sum_h, sum_g, sum_gh, sum_dy_h, sum_dy


@elementwise
def _add_gradient_lines(j, x, dy, weight, m, rstd, m_wdy, sum_h, sum_g, sum_gh, sum_dy_h, sum_dy):
    m, rstd, m_wdy = at(m, j), at(rstd, j), at(m_wdy, j)
    lines_h = lines_g = lines_gh = lines_dy_h = lines_dy = at(x.dtype.type(0), j)
    for k in range(x.shape[0]):
        dy_k = at(dy[k], j)
        h = scaled_difference(at(x[k], j), m, rstd)
        g = shifted_gradient(dy_k, at(item(weight, k), j), m_wdy)
        lines_h += h
        lines_g += g
        lines_gh += g * h
        lines_dy_h += dy_k * h
        lines_dy += dy_k
    add_to(sum_h, j, lines_h)
    add_to(sum_g, j, lines_g)
    add_to(sum_gh, j, lines_gh)
    add_to(sum_dy_h, j, lines_dy_h)
    add_to(sum_dy, j, lines_dy)


@loop
def add_gradient_lines(dy, x, weight, m, rstd, m_wdy, sums):
    """Add to sums (GRADIENT_SUMS float64 arrays) those of h, g, g * h, dy * h and dy over lines (lines, width)."""
    run = np.empty((GRADIENT_SUMS, x.shape[1]), x.dtype)
    for start in range(0, x.shape[0], TERMS):
        run[:] = 0
        for k in range(start, min(start + TERMS, x.shape[0]), TOGETHER):
            lines = slice(k, k + TOGETHER)
            into = run[0], run[1], run[2], run[3], run[4]
            _add_gradient_lines(x[lines], dy[lines], run_of(weight, lines), m, rstd, m_wdy, *into)
        add_run(run, sums)


@streamable
def input_gradient_row(j, dx, dy, row, weight, m, rstd, m_wdy, scale, slope, offset):
    h = scaled_difference(at(row, j), at(m, j), at(rstd, j))
    g = shifted_gradient(at(dy, j), at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, at(scale, j), at(slope, j), at(offset, j)))


@streamable
def gradients_row(j, dx, dy, row, weight, m, rstd, mean_h, m_wdy, slope, offset, dweight, dbias):
    """A row of dx, and dy * x_hat and dy added to dweight and dbias on the way."""
    x_j, dy_j, m, rstd = at(row, j), at(dy, j), at(m, j), at(rstd, j)
    add_to(dweight, j, dy_j * normalize(x_j, m, rstd, at(mean_h, j)))
    add_to(dbias, j, dy_j)
    h, g = scaled_difference(x_j, m, rstd), shifted_gradient(dy_j, at(weight, j), at(m_wdy, j))
    put(dx, j, input_gradient(g, h, rstd, at(slope, j), at(offset, j)))


@summing
def parameter_gradient_sums(dy, row, m, rstd, mean_h):
    """The sums of dy * x_hat and dy over a run of a row."""
    sum_dy_x_hat = sum_dy = row.dtype.type(0)
    for j in range(row.size):
        sum_dy_x_hat += dy[j] * normalize(row[j], m[j], rstd[j], mean_h[j])
        sum_dy += dy[j]
    return sum_dy_x_hat, sum_dy
