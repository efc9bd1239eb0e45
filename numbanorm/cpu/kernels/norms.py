"""List the functions in which layer normalization and RMS normalization differ. The kernels of both are made of these.

RMS normalization takes the mean for 0, and has no bias. Its kernels are given the number 0.0 in place of the arrays
mean, bias and dbias.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numbanorm._math import unscaled
from numbanorm.cpu.compiling.jit import block, compact, loop
from numbanorm.cpu.kernels import ranges, row_groups
from numbanorm.cpu.kernels.statistics import SHIFT_SAMPLES
from numbanorm.cpu.vectors import elements, rms
from numbanorm.cpu.vectors.simd import pointer, put


class Norm(NamedTuple):
    """Hold a norm's functions. Those of layer normalization say in their docstrings what they take and return."""

    name: str

    row_shift: Callable  # a number near the mean of a row times weight
    row_sums: Callable  # of d and d * d
    sums_of_narrow_rows: Callable
    far_row_moments: Callable  # where sums of x's dtype are not exact
    column_moments: Callable
    normalize_row: Callable  # writes y
    store: Callable  # the statistics that the caller wants, of one row
    store_few: Callable  # of a group of rows

    row_gradient_sums: Callable  # of h, g and g * h
    gradients_row: Callable  # writes dx, and adds up the gradients of parameters
    column_shift: Callable  # numbers near the means of columns times weight
    add_gradient_lines: Callable  # to line_sums runs
    line_sums: int
    gradient_sums_at: Callable  # the sums of h, g and g * h of a column
    input_gradient_row: Callable  # writes dx
    parameter_gradient_sums: Callable
    parameters: int  # how many have a gradient: the weight, and a bias
    write_parameter_gradients: Callable

    def named(self, kernel: str) -> Callable:
        """Name a kernel after the norm: kernels are kept in files by their names."""

        def rename(function):
            function.__qualname__ = function.__name__ = f"{self.name}_{kernel}"
            return function

        return rename


@loop
def _store_mean_rstd(mean, rstd, k, m, delta, exact_rstd, scale):
    """Write the statistics of row k, of values that were multiplied by a scale."""
    if mean.size > 0:
        row_mean, row_rstd = unscaled(m, delta, exact_rstd, scale)
        pointer(mean, k)[0], pointer(rstd, k)[0] = row_mean, row_rstd


@loop
def _store_rstd(mean, rstd, k, m, delta, exact_rstd, scale):
    if rstd.size > 0:
        _, row_rstd = unscaled(m, delta, exact_rstd, scale)
        pointer(rstd, k)[0] = row_rstd


@loop
def _store_few_mean_rstd(mean, rstd, first, j, few_mean, few_rstd):
    """Write the statistics of the rows from `first` on, which are at index j of two vectors."""
    if mean.size > 0:
        put(pointer(mean, first), j, few_mean)
        put(pointer(rstd, first), j, few_rstd)


@loop
def _store_few_rstd(mean, rstd, first, j, few_mean, few_rstd):
    if rstd.size > 0:
        put(pointer(rstd, first), j, few_rstd)


@block
def _column_shift(dy, weight, columns):
    """Return the shift of each column: the mean of its first values times weight."""
    compact()
    l0, l1 = columns
    total = np.zeros(l1 - l0)
    samples = min(dy.shape[0], SHIFT_SAMPLES)
    for k in range(samples):
        for j in range(total.size):
            total[j] += np.float64(dy[k, l0 + j]) * weight[k] / samples
    return total.astype(dy.dtype)


@loop
def _no_column_shift(dy, weight, columns):
    return 0.0


@loop
def _gradient_sums_at(sums, j):
    return sums[0, j], sums[1, j], sums[2, j]


@loop
def _products_at(sums, j):
    return 0.0, 0.0, sums[0, j]


@loop
def _write_dweight_dbias(size, c, sums, dweight, dbias):
    """Write a run of sums to the gradients of the parameters, from column c on."""
    elements.copy_row(size, pointer(dweight, c), sums[0])
    elements.copy_row(size, pointer(dbias, c), sums[1])


@loop
def _write_dweight(size, c, sums, dweight, dbias):
    elements.copy_row(size, pointer(dweight, c), sums[0])


LAYER_NORM = Norm(
    name="layer_norm",
    row_shift=elements.row_shift,
    row_sums=elements.row_sums,
    sums_of_narrow_rows=row_groups.sums_of_narrow_rows,
    far_row_moments=ranges.far_row_moments,
    column_moments=ranges.channel_moments,
    normalize_row=elements.normalize_affine_row,
    store=_store_mean_rstd,
    store_few=_store_few_mean_rstd,
    row_gradient_sums=elements.row_gradient_sums,
    gradients_row=elements.gradients_row,
    column_shift=_column_shift,
    add_gradient_lines=elements.add_gradient_lines,
    line_sums=elements.GRADIENT_SUMS,
    gradient_sums_at=_gradient_sums_at,
    input_gradient_row=elements.input_gradient_row,
    parameter_gradient_sums=elements.parameter_gradient_sums,
    parameters=2,
    write_parameter_gradients=_write_dweight_dbias,
)

RMS_NORM = Norm(
    name="rms_norm",
    row_shift=rms.no_shift,
    row_sums=rms.row_squares,
    sums_of_narrow_rows=row_groups.squares_of_narrow_rows,
    far_row_moments=ranges.far_row_squares,
    column_moments=ranges.channel_squares,
    normalize_row=rms.normalize_scale_row,
    store=_store_rstd,
    store_few=_store_few_rstd,
    row_gradient_sums=rms.row_products,
    gradients_row=rms.rms_gradients_row,
    column_shift=_no_column_shift,
    add_gradient_lines=rms.add_product_lines,
    line_sums=1,
    gradient_sums_at=_products_at,
    input_gradient_row=rms.rms_input_gradient_row,
    parameter_gradient_sums=rms.weight_gradient_sum,
    parameters=1,
    write_parameter_gradients=_write_dweight,
)
