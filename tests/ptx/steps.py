"""From a NumPy function and slots to a step: what an instruction does to the lanes that execute it."""

import numpy as np


def flushed(a):
    """Subnormal numbers as zeros."""
    tiny = np.finfo(a.dtype).tiny
    return np.where(np.abs(a) < tiny, np.copysign(np.zeros(1, a.dtype), a), a)


def flushing(function):
    """The function with subnormal operands and results taken as zeros."""
    return lambda *operands: flushed(function(*map(flushed, operands)))


def saturating(function):
    """The function with results held between 0 and 1; NaN becomes 0."""
    return lambda *operands: np.fmin(np.fmax(function(*operands), 0), 1)


def step(function, target, *sources):
    """Target = function(*sources). A ufunc writes to its target where that needs no copy."""
    if isinstance(function, np.ufunc):
        return {1: _ufunc_of_one, 2: _ufunc_of_two}[len(sources)](function, target, *sources)
    if len(sources) == 1:
        return _of_one(function, target, *sources)

    def run(wave, lanes):
        views, index = wave.views, lanes.index
        views[target][index] = function(*[views[source][index] for source in sources])

    return run


def copy(target, source):
    def run(wave, lanes):
        views, index = wave.views, lanes.index
        views[target][index] = views[source][index]

    return run


def _of_one(function, target, source):
    def run(wave, lanes):
        views, index = wave.views, lanes.index
        views[target][index] = function(views[source][index])

    return run


def _ufunc_of_one(function, target, source):
    def run(wave, lanes):
        views, index = wave.views, lanes.index
        if lanes.sliced:
            function(views[source][index], out=views[target][index])
        else:
            views[target][index] = function(views[source][index])

    return run


def _ufunc_of_two(function, target, first, second):
    def run(wave, lanes):
        views, index = wave.views, lanes.index
        if lanes.sliced:
            function(views[first][index], views[second][index], out=views[target][index])
        else:
            views[target][index] = function(views[first][index], views[second][index])

    return run
