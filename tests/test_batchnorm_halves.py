"""Batch normalization in halves: over parts of a batch, in one process and in four, against the whole batch."""

import multiprocessing
import pickle
from threading import Thread

import numpy as np
import pytest

from numbanorm import (
    GradientSums,
    Moments,
    batch_norm,
    batch_norm_backward,
    batch_norm_backward_apply,
    batch_norm_backward_reduce,
    batch_norm_forward,
)
from tests import reference
from tests.cases import BATCH_NORM_CASES, assert_within, gradient_bounds, values
from tests.layouts import LAYOUTS, WRITABLE_LAYOUTS

EPS = 1e-5


def statistics(x, channel_axis, mask=None):
    """Moments, and the float64 mean and rstd of them."""
    moments = Moments.of(x, channel_axis=channel_axis, mask=mask)
    return moments, moments.mean, 1 / np.sqrt(moments.var() + EPS)


def check(device, x, dy, channel_axis, weight=None, mask=None, out=None):
    """Both halves, of all values at once."""
    moments, mean, rstd = statistics(x, channel_axis, mask)
    expected = reference.batch_norm_backward(dy, x, weight, channel_axis, EPS, mask)
    how = {"channel_axis": channel_axis, "mask": mask}
    sums = device.batch_norm_backward_reduce(dy, x, mean, rstd, **how)
    assert sums.sum_dy.dtype == sums.sum_dy_xhat.dtype == np.float64
    assert_within(sums.sum_dy, expected.dbias, 1e-14 * expected.dbias_terms)
    rounding = 4 * np.spacing(np.abs(mean)) * rstd  # of the mean, as float64 holds it, in x_hat
    terms = expected.dweight_terms + expected.dbias_terms
    assert_within(sums.sum_dy_xhat, expected.dweight, (1e-14 + rounding) * terms)
    dx = device.batch_norm_backward_apply(dy, x, mean, rstd, weight, *sums, moments.count, **how, out=out)
    assert out is None or dx is out
    assert dx.dtype == x.dtype.newbyteorder("=") or dx is out
    assert_within(dx, expected.dx, gradient_bounds(expected, x.dtype).dx + rounding.max() * expected.dx_terms)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("shape", "channel_axis"), BATCH_NORM_CASES, ids=str)
def test_any_shape_and_offset(device, shape, channel_axis, offset, dtype):
    C = shape[channel_axis]
    x, dy = values(shape, dtype, offset), values(shape, dtype, offset / 1e3, seed=2)
    check(device, x, dy, channel_axis, weight=values(C, dtype, 1.0, seed=3))


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("target", [None, "fresh", "x", "dy"])
def test_any_layout_and_out(device, layout, masked, target):
    x, dy = LAYOUTS[layout](values((17, 5, 9), offset=10.0)), LAYOUTS[layout](values((17, 5, 9), seed=2))
    mask = values((17, 9), seed=4) < 0.5 if masked else None
    moments, mean, rstd = statistics(x, 1, mask)
    expected = reference.batch_norm_backward(dy, x, None, 1, EPS, mask)
    sums = device.batch_norm_backward_reduce(dy, x, mean, rstd, mask=mask)
    out = {None: None, "fresh": np.full_like(x, np.nan), "x": x, "dy": dy}[target]
    dx = device.batch_norm_backward_apply(dy, x, mean, rstd, None, *sums, moments.count, mask=mask, out=out)
    assert out is None or dx is out
    assert_within(dx, expected.dx, gradient_bounds(expected, x.dtype).dx)


def test_statistics_of_float32(device):
    """As `batch_norm_forward` returns them."""
    x, dy = values((500, 6)), values((500, 6), seed=2)
    _, mean, rstd = device.batch_norm_forward(x)
    sums = device.batch_norm_backward_reduce(dy, x, mean, rstd)
    own = [a.astype(np.float32) for a in sums]
    expected = reference.batch_norm_backward(dy, x, None, 1)
    for given in (sums, own):
        dx = device.batch_norm_backward_apply(dy, x, mean, rstd, None, *given, 500)
        assert_within(dx, expected.dx, gradient_bounds(expected, x.dtype).dx)


def test_gradients_far_from_zero(device):
    """The sums are of float64 throughout: a mean of dy a million times its deviation costs dx no digits."""
    x, dy = values((3000, 4), offset=10.0), values((3000, 4), offset=1e6, seed=2)
    moments, mean, rstd = statistics(x, 1)
    sums = device.batch_norm_backward_reduce(dy, x, mean, rstd)
    dx = device.batch_norm_backward_apply(dy, x, mean, rstd, None, *sums, moments.count)
    expected = reference.batch_norm_backward(dy, x, None, 1)
    near = reference.batch_norm_backward(dy.astype(np.float64) - 1e6, x, None, 1)  # dx is the same
    assert_within(dx, expected.dx, gradient_bounds(near, x.dtype).dx)


# --- over parts ---


def step(all_reduce, x, dy, weight, bias, running, mask=None):
    """What docs/layers.md shows: y, dx, dweight, dbias of a part, the running statistics moved by the whole batch."""
    moments = all_reduce(Moments.of(x, mask=mask))
    mean, var = moments.mean, moments.var()
    y = batch_norm(x, mean, var, weight, bias, eps=EPS)
    running[0] += 0.1 * (mean - running[0])
    running[1] += 0.1 * (moments.var(ddof=1) - running[1])
    rstd = 1 / np.sqrt(var + EPS)
    sums = all_reduce(batch_norm_backward_reduce(dy, x, mean, rstd, mask=mask))
    dx = batch_norm_backward_apply(dy, x, mean, rstd, weight, *sums, moments.count, mask=mask)
    return y, dx, sums.sum_dy_xhat, sums.sum_dy, running


def in_processes(method, work, parts):
    """work(all_reduce, *part) of each part in a process of its own; `all_reduce` goes by way of this one."""
    context = multiprocessing.get_context(method)
    ends = [context.Pipe() for _ in parts]
    processes = [
        context.Process(target=_at_end, args=(end, work, part)) for (_, end), part in zip(ends, parts, strict=True)
    ]
    for process in processes:
        process.start()
    connections, results = [own for own, _ in ends], []
    while not results:
        received = [connection.recv() for connection in connections]
        if received[0][0] == "reduce":
            total = sum(value for _, value in received)
            for connection in connections:
                connection.send(total)
        else:
            results = [value for _, value in received]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return results


def _at_end(connection, work, part):
    def all_reduce(value):
        connection.send(("reduce", value))
        return connection.recv()

    connection.send(("result", work(all_reduce, *part)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(("shape", "offset"), [((400, 6), 0.0), ((400, 6), 1e4), ((40, 6, 5, 7), 3.0)])
def test_four_processes_with_batches_of_different_sizes(method, shape, offset):
    """One of them has none."""
    x, dy = values(shape, offset=offset), values(shape, offset=0.5, seed=2)
    weight, bias = values(6, offset=1.0, seed=3), values(6, seed=4)
    ends = [int(len(x) * share) for share in (0.1, 0.1, 0.7)]
    x[ends[1] :] += 2  # the parts differ in what is normalised
    parts = zip(np.split(x, ends), np.split(dy, ends), strict=True)
    given = [(own_x, own_dy, weight, bias, np.array([[1.0] * 6, [2.0] * 6])) for own_x, own_dy in parts]
    assert [len(part[0]) for part in given].count(0) == 1
    found = in_processes(method, step, given)

    running = np.ones(6), np.full(6, 2.0)
    y, mean, rstd = batch_norm_forward(x, weight, bias, *running, eps=EPS)
    gradients = batch_norm_backward(dy, x, mean, rstd, weight)
    assert_close(np.concatenate([part[0] for part in found]), y)
    assert_close(np.concatenate([part[1] for part in found]), gradients.dx)
    for part in found:
        assert_close(part[2], gradients.dweight, np.abs(dy).sum() / 6)
        assert_close(part[3], gradients.dbias, np.abs(dy).sum() / 6)
        assert_close(part[4][0], running[0])
        assert_close(part[4][1], running[1])


def assert_close(actual, expected, scale=None):
    """To 1e-6 of the largest value, or for sums of that of the magnitudes of their terms."""
    assert_within(actual, expected, 1e-6 * (np.abs(expected).max() if scale is None else scale))


def test_masked_micro_batches(device):
    """Gradients accumulated over parts of a batch of padded sequences, in one process."""
    x, dy, mask = values((30, 4, 11)), values((30, 4, 11), seed=2), values((30, 11), seed=3) < 0.4
    mask[10:20] = False  # a part of padding alone
    parts = [slice(0, 10), slice(10, 20), slice(20, 30)]
    moments = sum(Moments.of(x[part], mask=mask[part]) for part in parts)
    own = moments.mean, 1 / np.sqrt(moments.var() + EPS)
    sums = sum(device.batch_norm_backward_reduce(dy[part], x[part], *own, mask=mask[part]) for part in parts)
    expected = reference.batch_norm_backward(dy, x, None, 1, EPS, mask)
    for part in parts:
        given = dy[part], x[part], *own, None, *sums, moments.count
        dx = device.batch_norm_backward_apply(*given, mask=mask[part])
        assert_within(dx, expected.dx[part], gradient_bounds(expected, x.dtype).dx)
    assert_within(sums.sum_dy_xhat, expected.dweight, 1e-13 * expected.dweight_terms)


def test_no_values(device):
    x, one = np.empty((0, 3), np.float32), np.ones(3)
    sums = device.batch_norm_backward_reduce(x, x, one, one)
    assert (sums.sum_dy == 0).all()
    assert (sums.sum_dy_xhat == 0).all()
    for count in (5, Moments.of(x).count):
        assert device.batch_norm_backward_apply(x, x, one, one, None, one, one, count).shape == (0, 3)


def test_sums_add_up():
    a, b = GradientSums(np.ones(2), np.full(2, 2.0)), GradientSums(np.ones(2), np.full(2, 3.0))
    for total in (a + b, sum([a, b]), pickle.loads(pickle.dumps(a)) + b):
        np.testing.assert_array_equal(total, [[2, 2], [5, 5]])
    with pytest.raises(TypeError, match="unsupported operand"):
        a + 1


def test_many_threads_at_once():
    x, dy = values((20_000, 8)), values((20_000, 8), seed=2)
    _, mean, rstd = statistics(x, 1)
    expected, found = batch_norm_backward_reduce(dy, x, mean, rstd), []
    threads = [Thread(target=lambda: found.append(batch_norm_backward_reduce(dy, x, mean, rstd))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for sums in found:
        np.testing.assert_array_equal(sums, expected)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("dy", np.ones((3, 3), np.float32), ValueError, r"shape \(3, 3\), must be \(4, 3\), the shape of x"),
        ("dy", np.ones((4, 3)), TypeError, "dtype float64, must be float32"),
        ("mean", np.ones(2), ValueError, r"shape \(2,\), must be \(3,\)"),
        ("rstd", np.ones(3, int), TypeError, "dtype int64, must be float32 or float64"),
        ("weight", np.ones(3), TypeError, "dtype float64, must be float32"),
        ("sum_dy", np.ones(2), ValueError, r"shape \(2,\), must be \(3,\)"),
        ("sum_dy_xhat", None, TypeError, "NoneType, must be a numpy.ndarray"),
        ("count", 0, ValueError, "0, must be positive"),
        ("count", -1, ValueError, "-1, must be finite and not negative"),
        ("count", "4", TypeError, "'4', must be a number"),
        ("count", np.ones(2), ValueError, r"shape \(2,\), must be a number or of shape \(3,\)"),
        ("count", np.arange(3), ValueError, "must be the same for all channels"),
        ("count", np.full(3, np.nan), ValueError, "nan, must be finite"),
        ("count", np.full(3, "a"), TypeError, "dtype <U1, must be of real numbers"),
        ("mask", np.ones(3, bool), ValueError, r"shape \(3,\), must be \(4,\)"),
        ("out", np.ones((4, 3)), TypeError, "dtype float64, must be float32"),
    ],
)
def test_wrong_arguments(name, value, error, message):
    x, own = np.ones((4, 3), np.float32), np.ones(3)
    given = {"dy": x.copy(), "x": x, "mean": own, "rstd": own}
    more = {"weight": None, "sum_dy": own, "sum_dy_xhat": own, "count": 4, "out": np.full_like(x, 7.0)}
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        batch_norm_backward_apply(**(given | more | {name: value}))
    assert (more["out"] == 7).all()
    if name in (*given, "mask"):
        with pytest.raises(error, match=f"^{name}: .*{message}"):
            batch_norm_backward_reduce(**(given | {name: value}))


def test_out_that_overlaps():
    whole, own = np.ones((5, 3), np.float32), np.ones(3)
    with pytest.raises(ValueError, match=r"^out: overlaps x"):
        batch_norm_backward_apply(whole[:4].copy(), whole[:4], own, own, None, own, own, 4, out=whole[1:])
