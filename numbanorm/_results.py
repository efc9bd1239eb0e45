"""What the functions return."""

from typing import NamedTuple

import numpy as np


class Forward(NamedTuple):
    """The normalised array and the statistics that the backward pass needs."""

    y: np.ndarray
    mean: np.ndarray
    rstd: np.ndarray


class Gradients(NamedTuple):
    """The gradients with respect to x, weight and bias."""

    dx: np.ndarray
    dweight: np.ndarray
    dbias: np.ndarray
