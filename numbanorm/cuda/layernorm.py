"""Launch the kernels of layer normalization."""

from numbanorm.cuda.kernels.norms import LAYER_NORM
from numbanorm.cuda.rows_and_columns import backward, forward


def layer_norm_forward(call, x, weight, bias, eps, y, mean, rstd):
    """Fill y, mean and rstd, or y alone if both others are none."""
    forward(LAYER_NORM, call, x, weight, bias, eps, y, mean, rstd)


def layer_norm_backward(call, dy, x, mean, rstd, weight, dx, dweight, dbias):
    """Fill dx, dweight and dbias."""
    backward(LAYER_NORM, call, dy, x, mean, rstd, weight, dx, dweight, dbias)
