"""On a real GPU, with arrays of Numba, CuPy and PyTorch: ``pytest -m gpu``.

What only hardware shows: streams, devices, graphs, waiting, time. Tests that take the fixture `device` or `gpu` run
there as well.
"""

import time
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

import numbanorm
from numbanorm._operations import OPERATIONS
from numbanorm.cuda import cuda
from tests import reference
from tests.calls import assert_updated
from tests.cases import assert_forward, assert_gradients, assert_normalized, assert_within, gradient_bounds, values
from tests.devices import REAL
from tests.gpu_arrays import fill_late, to_device

pytestmark = pytest.mark.gpu

SHAPES = [(64, 768), (257, 1001), (3, 70001), (5000, 6)]
REPEATS = 20
CALLS = 1000


class Running(NamedTuple):
    mean: object
    var: object


@pytest.fixture(scope="module", params=REAL, ids=lambda gpu: gpu.name)
def library(request):
    if reason := request.param.lacking():
        pytest.skip(reason)
    return request.param.library


def some(shape):
    """x, dy, weight, bias, running_mean and running_var, whose channels are the columns."""
    cols = shape[1]
    x, dy = values(shape, offset=3), values(shape, seed=2)
    weight, bias, running_mean = values((3, cols), seed=1)
    return x, dy, weight, bias, running_mean, values(cols, offset=9, seed=4)


def everything(x, dy, weight, bias, running_mean, running_var):
    """Every function's result."""
    rows = numbanorm.layer_norm_forward(x, weight, bias)
    squares = numbanorm.rms_norm_forward(x, weight)
    columns = numbanorm.batch_norm_forward(x, weight, bias, running_mean, running_var)
    sums = numbanorm.batch_norm_backward_reduce(dy, x, columns.mean, columns.rstd)
    given = dy, x, columns.mean, columns.rstd, weight
    return {
        "layer_norm": numbanorm.layer_norm(x, weight, bias),
        "layer_norm_forward": rows,
        "layer_norm_backward": numbanorm.layer_norm_backward(dy, x, rows.mean, rows.rstd, weight),
        "rms_norm": numbanorm.rms_norm(x, weight),
        "rms_norm_forward": squares,
        "rms_norm_backward": numbanorm.rms_norm_backward(dy, x, squares.rstd, weight),
        "batch_norm_forward": columns,
        "batch_norm_backward": numbanorm.batch_norm_backward(*given),
        "frozen": numbanorm.batch_norm_backward(*given, frozen=True),
        "batch_norm_backward_reduce": sums,
        "batch_norm_backward_apply": numbanorm.batch_norm_backward_apply(*given, *sums, x.shape[0]),
        "batch_norm": numbanorm.batch_norm(x, columns.mean, running_var, weight, bias),
        "running": Running(running_mean, running_var),
    }


def to_host(library, results):
    return {name: _of_each(library.to_host, result) for name, result in results.items()}


def _of_each(function, result):
    return type(result)(*map(function, result)) if isinstance(result, tuple) else function(result)


def check(results, x, dy, weight, bias, running_mean, running_var):
    """Everything against the reference: each operation of the table, and more."""
    assert results.keys() >= OPERATIONS.keys()
    rows = reference.layer_norm_forward(x, weight, bias, -1)
    assert_normalized(results["layer_norm"], rows.y, rows.x_hat, weight)
    squares = reference.rms_norm_forward(x, weight, -1)
    assert_normalized(results["rms_norm"], squares.y, squares.x_hat, weight)
    assert_forward(results["rms_norm_forward"], squares, weight)
    assert_gradients(results["rms_norm_backward"], reference.rms_norm_backward(dy, x, weight, -1))
    columns = reference.batch_norm_forward(x, weight, bias, 1)
    for name, expected in (("layer_norm_forward", rows), ("batch_norm_forward", columns)):
        assert_forward(results[name], expected, weight)
    assert_gradients(results["layer_norm_backward"], reference.layer_norm_backward(dy, x, weight, -1))
    expected = reference.batch_norm_backward(dy, x, weight, 1)
    assert_gradients(results["batch_norm_backward"], expected)
    _, mean, rstd = results["batch_norm_forward"]
    sums, dx = results["batch_norm_backward_reduce"], results["batch_norm_backward_apply"]
    check_halves(sums, dx, expected, mean, rstd)
    assert_gradients(results["frozen"], reference.batch_norm_backward_frozen(dy, x, mean, rstd, weight, 1))
    assert_updated(results["running"], (running_mean, running_var), 0.1, columns, x)
    expected, x_hat = reference.batch_norm(x, mean, results["running"].var, weight, bias, 1)
    assert_normalized(results["batch_norm"], expected, x_hat, weight)


def check_halves(sums, dx, expected, mean, rstd):
    """They take a float32 mean for exact: its error is in each x_hat. The whole backward pass takes it out."""
    bounds, error = gradient_bounds(expected, mean.dtype), 4 * np.spacing(np.abs(mean)) * rstd
    assert_within(sums.sum_dy, expected.dbias, bounds.dbias)
    assert_within(sums.sum_dy_xhat, expected.dweight, bounds.dweight + error * expected.dbias_terms)
    assert_within(dx, expected.dx, bounds.dx + error * expected.dx_terms)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits_on_every_repeat(library, shape):
    host, first = some(shape), None
    for _ in range(REPEATS):
        results = to_host(library, everything(*(to_device(library, a) for a in host)))
        if first is None:
            check(results, *host)
        first = first or results
        for name, result in results.items():
            for again, before in zip(_arrays(result), _arrays(first[name]), strict=True):
                np.testing.assert_array_equal(again, before, err_msg=name)


def _arrays(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_callers_stream_is_used(library, shape):
    """What another stream read before x has come would be NaN, as would be what was read of results too early."""
    host = some(shape)
    nothing = np.full_like(host[0], np.nan)
    with library.side_stream() as stream:
        late, source, missing = (to_device(library, a) for a in (nothing, host[0], nothing))
        fill_late(late, missing, stream)
        others, like_others = ([to_device(library, a) for a in host[1:]] for _ in range(2))
        everything(late, *like_others)  # compiles, and takes memory for the stream
        cuda.synchronize()
        done = fill_late(late, source, stream)
        assert not done.query()
        results = everything(late, *others)
        if type(library).__name__ != "Numba":  # which frees memory in calls, and so waits
            assert not done.query(), "the calls waited for the device"
        check(to_host(library, results), *host)


def test_arrays_of_several_streams(library):
    """Each of Numba's arrays may be bound to a stream of its own, and a call comes after all of them."""
    if type(library).__name__ != "Numba":
        pytest.skip("only Numba's arrays have streams of their own")
    host = some(SHAPES[0])
    nothing = np.full_like(host[2], np.nan)
    everything(*(to_device(library, a) for a in host))
    with library.side_stream() as stream:
        weight, source = to_device(library, nothing), to_device(library, host[2])
    with library.side_stream():
        x, dy, _, *others = (to_device(library, a) for a in host)
        cuda.synchronize()
        fill_late(weight, source, stream)
        check(to_host(library, everything(x, dy, weight, *others)), *host)


def test_a_device_that_is_not_the_current_one(library):
    if len(cuda.gpus) < 2:
        pytest.skip("one GPU")
    host = some(SHAPES[0])
    with library.on_device(1):
        arrays = [to_device(library, a) for a in host]
    results = everything(*arrays)
    for result in results.values():
        assert {library.device_of(a) for a in _arrays(result)} == {1}
    with library.on_device(1):
        check(to_host(library, results), *host)
    with library.on_device(0):
        weight = to_device(library, host[2])
    with pytest.raises(ValueError, match="weight: on device 0, must be on device 1"):
        numbanorm.layer_norm(arrays[0], weight)


def test_calls_captured_in_a_graph(library):
    if type(library).__name__ != "PyTorch":
        pytest.skip("only PyTorch's graphs are tried")
    torch, host = library.torch, some(SHAPES[0])
    x, *others = (to_device(library, np.ones_like(a)) for a in host)
    everything(x, *others)  # compiles
    for array, a in zip(others, host[1:], strict=True):
        array.copy_(torch.from_numpy(a))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = everything(x, *others)
    x.copy_(torch.from_numpy(host[0]))
    graph.replay()
    check(to_host(library, results), *host)


def test_nothing_is_copied_to_the_host(library):
    host = some(SHAPES[0])
    arrays = [to_device(library, a) for a in host]
    everything(*(to_device(library, a) for a in host))  # compiles
    cuda.synchronize()
    with library.no_copies():
        results = everything(*arrays)
    check(to_host(library, results), *host)


def test_host_time_of_a_call(library, capsys):
    """Printed, for the one who runs it: how long it may be depends on the machine."""
    host = values((1, 768))
    x = to_device(library, host)
    for _ in range(10):
        y = numbanorm.layer_norm(x)
    cuda.synchronize()
    start = time.perf_counter()
    for _ in range(CALLS):
        y = numbanorm.layer_norm(x)
    stop = time.perf_counter()
    with capsys.disabled():
        print(f"\nlayer_norm, 1 x 768, {type(library).__name__}: {(stop - start) / CALLS * 1e6:.1f} us of the host")
    expected = reference.layer_norm_forward(host, None, None, -1)
    assert_normalized(library.to_host(y), expected.y, expected.x_hat)
