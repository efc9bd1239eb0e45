"""The elementwise and gradient loops that both norms share, over one row of values.

An operand that is one number for the row and one that varies along it (weight in layer normalization, the statistics of
columns) go through the same loop: `at` reads either.
"""

import numpy as np
from numba import types
from numba.extending import overload

from numbanorm._math import affine, input_gradient, normalize
from numbanorm.cpu.jit import inlined, loop, summing
from numbanorm.cpu.moments import RUN, TERMS, add_run, difference


def at(operand, j):
    """operand[j], or operand itself when it is a number."""


def run_of(operand, run):
    """operand[run], or operand itself when it is a number."""


@overload(at)
def _at(operand, j):
    if isinstance(operand, types.Array):
        return lambda operand, j: operand[j]
    return lambda operand, j: operand


@overload(run_of)
def _run_of(operand, run):
    if isinstance(operand, types.Array):
        return lambda operand, run: operand[run]
    return lambda operand, run: operand


@loop
def normalize_row(row, m, delta, rstd, y):
    for j in range(row.size):
        y[j] = normalize(row[j], at(m, j), at(delta, j), at(rstd, j))


@loop
def normalize_affine_row(row, m, delta, rstd, weight, bias, y):
    for j in range(row.size):
        x_hat = normalize(row[j], at(m, j), at(delta, j), at(rstd, j))
        y[j] = affine(x_hat, at(weight, j), at(bias, j))


@summing
def _run_gradient_sums(dy, row, weight, m):
    sum_d = sum_wdy = sum_wdy_d = row.dtype.type(0)
    for j in range(row.size):
        d = difference(row[j], m)
        wdy = dy[j] * at(weight, j)
        sum_d += d
        sum_wdy += wdy
        sum_wdy_d += wdy * d
    return sum_d, sum_wdy, sum_wdy_d


@inlined
def row_gradient_sums(dy, row, weight, m):
    """The sums of d, wdy and wdy * d over a row, d = row - m, wdy = dy * weight."""
    sum_d = sum_wdy = sum_wdy_d = 0.0
    for start in range(0, row.size, RUN):
        run = slice(start, start + RUN)
        run_d, run_wdy, run_wdy_d = _run_gradient_sums(dy[run], row[run], run_of(weight, run), m)
        sum_d += run_d
        sum_wdy += run_wdy
        sum_wdy_d += run_wdy_d
    return sum_d, sum_wdy, sum_wdy_d


@summing
def add_gradient_row(dy, row, weight, m, sum_d, sum_wdy, sum_wdy_d):
    for j in range(row.size):
        d = difference(row[j], m[j])
        wdy = dy[j] * weight
        sum_d[j] += d
        sum_wdy[j] += wdy
        sum_wdy_d[j] += wdy * d


@loop
def add_column_gradient_sums(dy, x, rows, columns, weight, m, sums):
    """Add to sums (three float64 arrays) the column sums of d, wdy and wdy * d over x[rows, columns]."""
    r0, r1 = rows
    c0, c1 = columns
    run = np.zeros((3, c1 - c0), x.dtype)
    for start in range(r0, r1, TERMS):
        run[:] = 0
        for r in range(start, min(start + TERMS, r1)):
            add_gradient_row(dy[r][c0:c1], x[r][c0:c1], at(weight, r), m, run[0], run[1], run[2])
        add_run(run, sums)


@loop
def input_gradient_row(dy, row, m, delta, rstd, weight, mean_wdy, mean_wdy_x_hat, dx):
    for j in range(row.size):
        x_hat = normalize(row[j], at(m, j), at(delta, j), at(rstd, j))
        wdy = dy[j] * at(weight, j)
        dx[j] = input_gradient(wdy, x_hat, at(mean_wdy, j), at(mean_wdy_x_hat, j), at(rstd, j))


@loop
def gradients_row(dy, row, m, delta, rstd, weight, mean_wdy, mean_wdy_x_hat, dx, dweight, dbias):
    """`input_gradient_row`, and dy * x_hat and dy added to dweight and dbias on the way."""
    for j in range(row.size):
        dy_j = dy[j]
        x_hat = normalize(row[j], m, delta, rstd)
        dweight[j] += dy_j * x_hat
        dbias[j] += dy_j
        dx[j] = input_gradient(dy_j * weight[j], x_hat, mean_wdy, mean_wdy_x_hat, rstd)


@summing
def parameter_gradient_sums(dy, row, m, delta, rstd):
    """The sums of dy * x_hat and dy over a run of a row."""
    sum_dy_x_hat = sum_dy = row.dtype.type(0)
    for j in range(row.size):
        sum_dy_x_hat += dy[j] * normalize(row[j], at(m, j), at(delta, j), at(rstd, j))
        sum_dy += dy[j]
    return sum_dy_x_hat, sum_dy
