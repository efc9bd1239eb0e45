"""Name the norms over axes, and the device functions in which they differ.

RMS normalization is layer normalization of values whose mean is taken for 0, without a bias. Its kernels get no mean,
bias and dbias: each is a pointer to address 0. Where their functions return the number 0, the compiler leaves out what
it adds.
"""

from typing import Any, NamedTuple

from numbanorm._math import input_gradient_of_means, normalize, scaled_difference
from numbanorm.cuda.compiling import device
from numbanorm.cuda.kernels.held_rows import moments_of_row, slope_of_row, squares_of_row, terms_of_row
from numbanorm.cuda.kernels.runs import summed_gradients, summed_moments, summed_products, summed_squares
from numbanorm.cuda.kernels.squares import PRODUCTS, SQUARES, finished_squares, terms_of_products
from numbanorm.cuda.kernels.states import GRADIENT_SUMS, MOMENTS, Kind, finished
from numbanorm.cuda.vectors.memory import load
from numbanorm.cuda.vectors.units import halved, whole


class Norm(NamedTuple):
    """Hold the device functions of a norm, or functions that make them."""

    name: str
    parameters: int  # that have gradients: dweight, and dbias if there is a bias
    of_mean: Any  # (function): the device function, or `nothing` where the mean is taken for 0
    of_bias: Any  # (function): the device function, or `nothing` where there is no bias
    moments_of_row: Any  # (lanes, steps, threads): see `held_rows`
    kind: Kind  # of the states of values
    summed: Any  # (lanes, terms, source): see `runs`
    finished: Any  # (state, eps): m, delta, var and scale
    normalize: Any  # (x, m, rstd, mean_h): x_hat
    halved: Any  # (m, rstd): scale, m and rstd for h = (x * scale - m) * rstd
    terms_of_row: Any  # (threads): see `held_rows`
    gradient_kind: Kind  # of the states of pairs (h, g)
    summed_gradients: Any  # (lanes, terms, source, factor): see `runs`
    terms: Any  # (state, rstd): m_wdy, slope, offset and mean_h
    x_hat_again: Any  # (x, place, mean, rstd, mean_h, row): x_hat, from what the passes have stored


@device
def nothing(*arguments):
    """Return 0 in place of a mean or a bias that is not there."""
    return 0.0


def _itself(function):
    return function


def _left_out(function):
    return nothing


@device
def terms_of_gradient_sums(state, rstd):
    """Return m_wdy, slope, offset and mean_h."""
    mean_g_x_hat = (state.c + state.c_low) / state.count
    slope, offset = input_gradient_of_means(state.mean_h, state.low, mean_g_x_hat, rstd)
    return state.mean_g, slope, offset, state.mean_h


@device
def _x_hat_again(x, place, mean, rstd, mean_h, row):
    # half of h, since the difference may be beyond the range
    value, m = load(x, place, 1) * 0.5, load(mean, row, 1) * 0.5
    return 2.0 * scaled_difference(value, m, load(rstd, row, 1)) - load(mean_h, row, 1)


@device
def _normalize_about_0(x, m, rstd, mean_h):
    return normalize(x, 0.0, rstd, 0.0)


@device
def _x_hat_about_0_again(x, place, mean, rstd, mean_h, row):
    return normalize(load(x, place, 1), 0.0, load(rstd, row, 1), 0.0)


LAYER_NORM = Norm(
    name="layer_norm",
    parameters=2,
    of_mean=_itself,
    of_bias=_itself,
    moments_of_row=moments_of_row,
    kind=MOMENTS,
    summed=summed_moments,
    finished=finished,
    normalize=normalize,
    halved=halved,
    terms_of_row=terms_of_row,
    gradient_kind=GRADIENT_SUMS,
    summed_gradients=summed_gradients,
    terms=terms_of_gradient_sums,
    x_hat_again=_x_hat_again,
)

RMS_NORM = Norm(
    name="rms_norm",
    parameters=1,
    of_mean=_left_out,
    of_bias=_left_out,
    moments_of_row=squares_of_row,
    kind=SQUARES,
    summed=summed_squares,
    finished=finished_squares,
    normalize=_normalize_about_0,
    halved=whole,
    terms_of_row=slope_of_row,
    gradient_kind=PRODUCTS,
    summed_gradients=summed_products,
    terms=terms_of_products,
    x_hat_again=_x_hat_about_0_again,
)
