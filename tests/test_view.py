"""How kernels see x: what its reduced, statistic and parameter axes make of its shape."""

from dataclasses import replace

import numpy as np
import pytest

from numbanorm._call.host import HostCall
from numbanorm._call.kinds import over_channels
from numbanorm._call.view import Axes, View, _statistics, layout_of

SHAPE = (2, 3, 5, 7)
GROUPS = Axes(reduced=(2, 3), statistic=(0, 1), parameter=(1, 2))


def seen(axes, x=None):
    return View.of(layout_of(np.zeros(SHAPE, np.float32) if x is None else x), axes)


@pytest.mark.parametrize(
    ("axes", "planes", "count", "statistic", "kernel", "kernel_statistic"),
    [
        (Axes.over((3,), 4), (30, 7, 1), 7, (2, 3, 5, 1), (30, 7), (30,)),
        (Axes.over((0,), 4), (1, 2, 105), 2, (1, 3, 5, 7), (1, 2, 105), (1, 105)),
        (Axes.over((1, 2), 4), (2, 15, 7), 15, (2, 1, 1, 7), (2, 15, 7), (2, 7)),
        (Axes.over((0, 1, 2, 3), 4), (1, 210, 1), 210, (1, 1, 1, 1), (1, 210), (1,)),
        (Axes.channels(1, 4), (2, 3, 35), 70, (3,), (2, 3, 35), (3,)),
        (Axes.channels(3, 4), (30, 7, 1), 30, (7,), (30, 7, 1), (7,)),
        (Axes.channels(0, 4), (1, 2, 105), 105, (2,), (1, 2, 105), (2,)),
    ],
)
def test_the_three_sets_of_axes_decide(axes, planes, count, statistic, kernel, kernel_statistic):
    view = seen(axes)
    assert (view.planes, view.count, view.statistic_shape) == (planes, count, statistic)
    assert (view.kernel_shape, view.kernel_statistic_shape) == (kernel, kernel_statistic)
    assert view.parameter_shape == tuple(SHAPE[i] for i in axes.parameter)


def test_channels_of_arrays_in_other_orders_are_in_the_middle():
    x = np.moveaxis(np.zeros((2, 5, 7, 3)), -1, 1)  # channels last in memory
    view = seen(Axes.channels(1, 4), x)
    assert (view.order, view.planes, view.count) == ((0, 2, 3, 1), (70, 3, 1), 70)
    assert (view.statistic_order, view.parameter_order) == (None, (0,))


def test_groups_of_channels_are_refused_until_kernels_take_them():
    """Samples, groups, channels of a group, positions: statistics lie along neither all other axes nor one alone."""
    with pytest.raises(ValueError, match=r"^axes: Axes\(reduced=\(2, 3\), .*, the parameter axes must be"):
        seen(GROUPS)


@pytest.mark.parametrize(
    ("axes", "lies"),
    [
        ((1, 2), True),
        ((0, 1), True),
        ((0, 2), False),  # not neighbours
    ],
)
def test_neighbouring_axes_are_seen_without_a_copy(axes, lies):
    x = np.zeros((4, 5, 6))
    for order in ((0, 1, 2), (2, 1, 0)):
        laid = x.transpose(order)
        found = HostCall.of(layout_of(laid), Axes.over(tuple(sorted(order[i] for i in axes)), 3))
        assert found.lies(laid) is lies
        assert np.shares_memory(found.load_x(laid), x) is lies


def test_statistics_lie_as_x_does():
    """Also those of groups of channels, where samples come last in memory."""
    assert _statistics(SHAPE, GROUPS, order=(1, 2, 3, 0)) == ((2, 3), (1, 0))
    rows = seen(Axes.over((1,), 2), np.zeros((4, 6)).T)
    assert (rows.statistic_order, rows.statistic_shape) == ((1, 0), (6, 1))


def in_float16(view):
    """The same view of an x that is stored in float16, for which there are no kernels yet."""
    view.storage = np.dtype(np.float16)
    return view


def test_statistics_have_the_dtype_of_the_arithmetic_whatever_x_is_stored_in():
    call, mean = in_float16(HostCall.of(layout_of(np.zeros(SHAPE, np.float32)), Axes.channels(1, 4))), np.arange(3.0)
    for dtype in (np.float32, np.float64):
        call.check_updated("running_mean", mean.astype(dtype), {})
        assert np.array_equal(call.statistic("mean", mean.astype(dtype)), mean)
        assert np.array_equal(call.exact_statistic("mean", mean.astype(dtype)), mean)
    with pytest.raises(TypeError, match=r"^mean: dtype float16, must be float32 or float64"):
        call.statistic("mean", mean.astype(np.float16))


def test_statistics_on_a_gpu_have_the_dtype_of_the_arithmetic_too(gpu):
    with gpu.running():
        x, mean = gpu.copy_of(np.zeros(SHAPE, np.float32)).array, gpu.copy_of(np.arange(3, dtype=np.float32)).array
        call = over_channels(x, 1)
        call.view = in_float16(replace(call.view))
        call.check_updated("running_mean", mean, {})
        assert call.statistic("mean", mean).dtype == call.exact_statistic("mean", mean).dtype == np.float32
