"""Valid calls of the functions of arrays, drawn by hypothesis, each with a check of its result by the reference."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import partial
from inspect import signature
from math import prod
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from hypothesis import strategies as st

import numbanorm
from numbanorm._operations import OPERATIONS
from numbanorm.cpu.engine import machine
from tests import reference
from tests.arranged import FLOATS, OFFSETS, copied, placed, plain, shapes
from tests.cases import assert_forward, assert_gradients, assert_normalized, assert_within, tolerance


class Call(NamedTuple):
    function: Callable
    arguments: dict[str, Any]
    shapes: dict[str, tuple]  # of all arrays that the function takes
    check: Callable[[Any], None]  # of what it returns


EPS = [("eps", eps) for eps in (1e-5, 1e-3, 1, 2.5e-7, np.float32(1e-5), Fraction(1, 7), np.float64(1e6))]
MOMENTUM = [("momentum", m) for m in (0.1, 0, 1, 0.9, np.float32(0.25), Fraction(1, 3), 1e-300)]


@st.composite
def one_of(draw, arguments):
    """One of (name, value), or none."""
    return dict([draw(st.sampled_from(arguments))]) if draw(st.integers(0, 3)) else {}


@st.composite
def inputs(draw, shape, dtype, backward):
    """x, and dy where there is one; out may be either."""
    target = draw(st.sampled_from([None, "fresh", "x", "dy"] if backward else [None, "fresh", "x"]))
    found = {"x": draw(placed(shape, dtype, target == "x", draw(OFFSETS)))}
    if backward and target != "dy" and draw(st.integers(0, 7)) == 7:
        found["dy"] = found["x"]
    elif backward:
        found["dy"] = draw(placed(shape, dtype, target == "dy", draw(OFFSETS)))
    if target == "fresh":
        found["out"] = draw(placed(shape, dtype, written=True))
    elif target or draw(st.booleans()):
        found["out"] = target and found[target]
    return found


@st.composite
def parameters(draw, names, shape, dtype, written=False):
    """Each an array, None, or left out."""
    chosen = {name: draw(st.integers(0, 5)) for name in names}
    offset = draw(st.sampled_from([0.0, 0.0, -3.0, 100.0]))
    return {name: draw(placed(shape, dtype, written, offset)) if n > 1 else None for name, n in chosen.items() if n}


@st.composite
def statistics(draw, dtype, **exact):
    """Of x's dtype, or float64."""
    return {name: draw(copied(a.astype(draw(st.sampled_from([dtype, np.float64]))))) for name, a in exact.items()}


@st.composite
def calls_over_axes(draw, operation):
    shape, dtype, backward = draw(shapes(1)), draw(FLOATS), "dy" in operation.given
    listed = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True))
    axes = tuple(sorted(listed))
    parameter_shape = tuple(shape[i] for i in axes)
    arguments, sizes = draw(inputs(shape, dtype, backward)), dict.fromkeys(("x", "out"), shape)
    if axes != (len(shape) - 1,) or draw(st.booleans()):
        arguments["axis"] = draw(axis_of([i - draw(st.sampled_from([0, len(shape)])) for i in listed]))
    if backward:
        expected = quietly(_reference(_forward_of(operation)))(plain(arguments["x"]), axes=axes)
        exact = {name: getattr(expected, name) for name in operation.statistics}
        arguments |= draw(statistics(dtype, **exact))
        sizes |= {"dy": shape} | {name: a.shape for name, a in exact.items()}
    arguments |= draw(parameters(operation.optional, parameter_shape, dtype))
    if "eps" in signature(operation.function).parameters:
        arguments |= draw(one_of(EPS))
    sizes |= dict.fromkeys(operation.optional, parameter_shape)
    return Call(operation.function, arguments, sizes, _check_over_axes(operation, arguments, axes))


def _forward_of(operation):
    """That in training, if there is one."""
    return OPERATIONS.get(f"{operation.name.removesuffix('_backward').removesuffix('_forward')}_forward", operation)


def _reference(operation):
    """The function of the same name, which takes no parameters unless they are given, by name."""
    return partial(getattr(reference, operation.name), **dict.fromkeys(operation.optional))


def axis_of(listed):
    """Whatever NumPy takes for these axes."""
    several = st.sampled_from([tuple(listed), listed, np.array(listed, np.int16)])
    return several | st.sampled_from([listed[0], np.int64(listed[0])]) if len(listed) == 1 else several


def _check_over_axes(operation, arguments, axes):
    given = _plain(arguments)
    affine = {name: given.get(name) for name in operation.optional}

    def check_forward(result):
        eps = {"eps": float(given["eps"])} if "eps" in given else {}
        expected = _reference(_forward_of(operation))(given["x"], axes=axes, **affine, **eps)
        over_x = reference._over(affine.get("weight"), axes, given["x"].ndim, 1)
        _assert_forward(result, expected, over_x, arguments)

    def check_backward(result):
        _assert_delivered(result.dx, arguments)
        assert_gradients(result, _reference(operation)(given["dy"], given["x"], axes=axes, **affine))

    return quietly(check_backward if "dy" in given else check_forward)


@st.composite
def channels(draw, backward=False, training=False):
    """What the functions of batch normalization have in common: arguments, the shapes of arrays, and their dtype."""
    shape, dtype = list(draw(shapes(2))), draw(FLOATS)
    axis = draw(st.integers(0, len(shape) - 1))
    if training and prod(shape[:axis] + shape[axis + 1 :]) == 1:
        shape[axis - 1] = 2  # one value has no variance
    arguments = draw(inputs(tuple(shape), dtype, backward))
    if axis != 1 or draw(st.booleans()):
        signed = axis - draw(st.sampled_from([0, len(shape)]))
        arguments["channel_axis"] = draw(st.sampled_from([signed, np.int16(signed)]))
    others, C = tuple(shape[:axis] + shape[axis + 1 :]), (shape[axis],)
    sizes = dict.fromkeys(("x", "out"), tuple(shape)) | {"weight": C}
    if backward or training:
        sizes["mask"] = others
        mask = np.random.default_rng(draw(st.integers(0, 99))).random(others) < draw(st.sampled_from([0.1, 0.5, 1.0]))
        mask.flat[:1] = mask.flat[-1:] = True
        arguments |= draw(one_of([("mask", None), ("mask", draw(copied(mask))), ("mask", draw(copied(mask)))]))
    return arguments | draw(parameters(["weight"] if backward else ["weight", "bias"], C, dtype)), sizes, dtype


def _moments(arguments):
    x, mask = plain(arguments["x"]), arguments.get("mask")
    axis = int(arguments.get("channel_axis", 1))
    found = quietly(reference.normalize)(x, reference._non_channel(x, axis), 1e-5, reference._where(mask, axis))
    return axis, *(a.reshape(-1) for a in found[:3])


@st.composite
def batch_norm_calls(draw):
    arguments, sizes, dtype = draw(channels())
    axis, mean, _, _ = _moments(arguments)
    var = np.random.default_rng(3).random(mean.size) + draw(st.sampled_from([0.5, 0.0, 100.0]))
    arguments |= draw(statistics(dtype, mean=mean + 1 / 3, var=var)) | draw(one_of(EPS))
    sizes |= dict.fromkeys(("mean", "var", "bias"), mean.shape)
    given = {"weight": None, "bias": None, "eps": 1e-5} | _plain(arguments)

    def check(y):
        own = given["mean"], given["var"], given["weight"], given["bias"]
        expected, x_hat = reference.batch_norm(given["x"], *own, axis, float(given["eps"]))
        _assert_delivered(y, arguments)
        assert_normalized(y, expected, x_hat, reference._per_channel(given["weight"], axis, given["x"].ndim, 1))

    return Call(numbanorm.batch_norm, arguments, sizes, quietly(check))


@st.composite
def batch_norm_forward_calls(draw):
    arguments, sizes, dtype = draw(channels(training=True))
    axis, C = int(arguments.get("channel_axis", 1)), sizes["weight"]
    for name in ("running_mean", "running_var"):
        arguments |= draw(parameters([name], C, draw(st.sampled_from([dtype, np.float64])), written=True))
    arguments |= draw(one_of(EPS)) | draw(one_of(MOMENTUM))
    sizes |= dict.fromkeys(("bias", "running_mean", "running_var"), C)
    given = {"weight": None, "bias": None, "eps": 1e-5, "mask": None} | _plain(arguments)

    def check(result):
        x, weight, mask = given["x"], given["weight"], given["mask"]
        expected = reference.batch_norm_forward(x, weight, given["bias"], axis, float(given["eps"]), mask)
        _assert_forward(result, expected, reference._per_channel(weight, axis, x.ndim, 1), arguments)
        running = [[a.get(name) for name in ("running_mean", "running_var")] for a in (arguments, given)]
        assert_updated(*running, float(arguments.get("momentum", 0.1)), expected, x, mask)

    return Call(numbanorm.batch_norm_forward, arguments, sizes, quietly(check))


def assert_updated(running, before, share, expected, x, mask=None):
    """A running mean and variance, or None, to a few units of their terms, and the batch's as precisely as x allows.

    A variance may be off by twice as much of itself as rstd, its root, for which `assert_statistics` allows a quarter.
    """
    if x.size == 0:
        for own, old in zip(running, before, strict=True):
            np.testing.assert_array_equal(own, old)
        return
    mean, var = expected.mean.ravel(), expected.var.ravel()
    count = x.size // mean.size if mask is None else mask.sum()
    unbiased = var * (count / (count - 1))
    for own, old, batch, spread in zip(running, before, (mean, unbiased), (np.sqrt(var), unbiased), strict=True):
        if own is not None:
            kept = (1 - share) * reference.precise(old)
            limit = tolerance(own.dtype) * (np.abs(kept) + share * np.abs(batch)) / 4
            assert_within(own, kept + share * batch, limit + tolerance(x.dtype) * share * spread / 2)


@st.composite
def batch_norm_backward_calls(draw):
    arguments, sizes, dtype = draw(channels(backward=True))
    axis, mean, rstd, _ = _moments(arguments)
    frozen = draw(st.sampled_from([None, False, True, np.True_]))
    arguments |= draw(statistics(dtype, mean=mean + bool(frozen) / 3, rstd=rstd)) | {"frozen": bool(frozen)}
    if frozen is None:
        del arguments["frozen"]
    sizes |= {"dy": sizes["x"], "mean": mean.shape, "rstd": mean.shape}
    given = {"weight": None, "mask": None} | _plain(arguments)

    def check(result):
        dy, x, weight = given["dy"], given["x"], given["weight"]
        _assert_delivered(result.dx, arguments)
        if frozen:
            dy = np.where(reference._where(given["mask"], axis), dy, 0)
            expected = reference.batch_norm_backward_frozen(dy, x, given["mean"], given["rstd"], weight, axis)
        else:
            expected = reference.batch_norm_backward(dy, x, weight, axis, mask=given["mask"])
        assert_gradients(result, expected)

    return Call(numbanorm.batch_norm_backward, arguments, sizes, quietly(check))


CALLS = {
    **{name: calls_over_axes(one) for name, one in OPERATIONS.items() if one.axis_name == "axis"},
    "batch_norm": batch_norm_calls(),
    "batch_norm_forward": batch_norm_forward_calls(),
    "batch_norm_backward": batch_norm_backward_calls(),
}


def _assert_forward(result, expected, over_x, arguments):
    """y and, if there are any, the statistics: NaN where nothing entered them."""
    y = result if isinstance(result, np.ndarray) else result.y
    _assert_delivered(y, arguments)
    if y is result:
        assert_normalized(y, expected.y, expected.x_hat, over_x)
    elif y.size > 0:
        assert_forward(result, expected, over_x)
    else:
        for statistic in result[1:]:
            np.testing.assert_array_equal(statistic, np.full(statistic.shape, np.nan))


def _assert_delivered(result, arguments):
    """In out, or in an array of its own."""
    x, out = arguments["x"], arguments.get("out")
    assert result.shape == x.shape
    if out is not None:
        assert result is out
        return
    assert type(result) is np.ndarray
    assert result.dtype == x.dtype.newbyteorder("=")
    assert not any(np.may_share_memory(result, a) for a in arguments.values() if isinstance(a, np.ndarray))


def _plain(arguments):
    return {name: plain(a) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}


def quietly(function):
    """The reference divides by a count of 0 where there is nothing."""
    return np.errstate(divide="ignore", invalid="ignore")(function)


@contextmanager
def streamed(always):
    """What is large enough to be streamed, streams, whatever the size of the cache."""
    with patch.object(machine, "streams", lambda nbytes: True) if always else nullcontext():
        yield
