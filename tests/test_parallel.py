"""The same bits for any number of threads, on every repeat, and by the serial way."""

import hashlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numba
import numpy as np
import pytest
from numba import types

import numbanorm
from numbanorm import Gradients, layernorm
from numbanorm.cpu.engine import engines, machine, parallel
from numbanorm.cpu.engine.control import control, set_control
from numbanorm.cpu.kernels.rows import layer_norm_rows_forward, rows_forward
from tests import reference
from tests.cases import assert_gradients, assert_normalized, values

ENGINES = sorted({"prange", engines.engine_name()})  # those of this system

SHAPES = {  # of each way that kernels go
    "layer_norm rows": ((700, 768), -1),
    "layer_norm narrow rows": ((5003, 37), -1),
    "layer_norm short rows": ((1003, 100), -1),
    "layer_norm panels of long rows": ((100, 3001), -1),
    "layer_norm pieces of long rows": ((3, 300000), -1),
    "layer_norm middle axis": ((5, 96, 1000), 1),
    "batch_norm tiles of rows": ((20011, 64), 1),
    "batch_norm tiles of wide rows": ((700, 1100), 1),
    "batch_norm short channels": ((300, 256, 49), 1),
    "batch_norm whole long channels": ((8, 40, 1000), 1),
    "batch_norm tiles of long channels": ((6, 3, 300000), 1),
}


def every_result(shape, axis, batch):
    """The arrays that forward and backward give."""
    x, dy = values(shape, offset=3), values(shape, seed=2)
    weight, bias = values((2, shape[axis]), seed=1)
    if batch:
        y, mean, rstd = numbanorm.batch_norm_forward(x, weight, bias, channel_axis=axis)
        gradients = numbanorm.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis=axis)
        frozen = numbanorm.batch_norm_backward(dy, x, mean, rstd, weight, channel_axis=axis, frozen=True)
        inference = numbanorm.batch_norm(x, mean, rstd, weight, bias, channel_axis=axis)
        return y, mean, rstd, *gradients, *frozen, inference
    y, mean, rstd = numbanorm.layer_norm_forward(x, weight, bias, axis=axis)
    return y, mean, rstd, *numbanorm.layer_norm_backward(dy, x, mean, rstd, weight, axis=axis)


def fingerprint(shapes=SHAPES):
    """A hash of every result."""
    digest = hashlib.sha256()
    for name, (shape, axis) in shapes.items():
        for result in every_result(shape, axis, name.startswith("batch_norm")):
            digest.update(np.ascontiguousarray(result))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def expected():
    return fingerprint()


def assert_contract(shapes):
    """Every result, streamed or not, within what the accuracy contract allows."""
    for name, (shape, axis) in shapes.items():
        x, dy, (weight, bias) = values(shape, offset=3), values(shape, seed=2), values((2, shape[axis]), seed=1)
        y, _, _, *gradients = every_result(shape, axis, name.startswith("batch_norm"))
        stem = name.partition(" ")[0]
        expected = getattr(reference, f"{stem}_forward")(x, weight, bias, axis)
        along = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
        assert_normalized(y, expected.y, expected.x_hat, weight.reshape(along))
        assert_gradients(Gradients(*gradients[:3]), getattr(reference, f"{stem}_backward")(dy, x, weight, axis))


@pytest.mark.parametrize(
    ("cpu", "names"),
    [
        pytest.param("generic", ["layer_norm rows"], marks=pytest.mark.slow, id="generic, rows"),
        pytest.param("haswell", ["batch_norm short channels"], marks=pytest.mark.slow, id="haswell, channels"),
        *(pytest.param(cpu, [*SHAPES], marks=pytest.mark.nightly, id=f"{cpu}, all") for cpu in ("generic", "haswell")),
    ],
)
def test_processors_without_wide_vectors(cpu, names):
    """What this processor computes is held against the same contract in the tests of each norm."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("their names are those of x86 processors")
    command = (
        "from tests.test_parallel import SHAPES, assert_contract, fingerprint, numbanorm\n"
        f"shapes = {{name: SHAPES[name] for name in {names}}}\n"
        "assert_contract(shapes)\n"
        "expected = fingerprint(shapes)\n"
        "numbanorm.cpu.engine.machine.streams = lambda nbytes: True\n"
        "assert fingerprint(shapes) == expected"
    )
    features = {"generic": "", "haswell": "+avx2,+fma"}[cpu]
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    subprocess.run([sys.executable, "-W", "error", "-c", command], env=environment, timeout=600, check=True)


def test_repeats_agree(expected):
    assert fingerprint() == expected


@pytest.fixture
def use(monkeypatch):
    """use(name, threads): let calls be served so; the engine's address."""

    def use(name, threads):
        monkeypatch.setenv("NUMBANORM_ENGINE", name)
        monkeypatch.setattr(engines, "thread_count", lambda asked: threads)
        numbanorm.set_num_threads(None)
        return engines.engine()

    yield use
    numbanorm.set_num_threads(None)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ENGINES)
def test_any_number_of_threads_agrees(name, threads, expected, use):
    """More of them than processors, too."""
    use(name, threads)
    assert numbanorm.get_num_threads() == threads
    assert fingerprint() == expected


@numba.njit
def setting():
    return control()


@numba.njit
def change_setting(value):
    set_control(value)


@pytest.mark.parametrize("name", ENGINES)
def test_all_threads_compute_as_the_caller_is_set_to(name, use):
    """Some take the smallest numbers for zero; the threads, which began without that, do so for that call."""
    flushing = {"x86_64": 0x8040, "amd64": 0x8040, "aarch64": 1 << 24, "arm64": 1 << 24}.get(platform.machine().lower())
    if flushing is None:
        pytest.skip("a processor whose settings are not known")
    x, weight = values((5000, 64)), np.full(64, 2e-38, np.float32)
    use(name, 3)
    usual, before = numbanorm.layer_norm(x, weight), setting()
    change_setting(before | flushing)
    try:
        found = [numbanorm.layer_norm(x, weight) for _ in range(50)]
        use(name, 1)
        expected = numbanorm.layer_norm(x, weight)
        assert setting() == before | flushing
    finally:
        change_setting(before)
    smallest = np.finfo(np.float32).smallest_normal
    assert not np.any((expected != 0) & (np.abs(expected) < smallest))
    assert np.any((usual != 0) & (np.abs(usual) < smallest))
    for y in found:
        np.testing.assert_array_equal(y, expected)
    use(name, 3)
    for _ in range(50):
        np.testing.assert_array_equal(numbanorm.layer_norm(x, weight), usual)


def test_the_serial_way_agrees(expected, monkeypatch):
    for module in (numbanorm.cpu.layernorm, numbanorm.cpu.batchnorm):
        monkeypatch.setattr(module, "engine", lambda: parallel.SERIAL)
    assert fingerprint() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cols", [1, 7, 16, 33, 64, 100, 700, 2500])
def test_any_range_of_rows_agrees(cols, dtype):
    """The public range kernel: streamed or not, whatever rows are normalised together."""
    rows = 43
    x, (weight, bias) = values((rows, cols), dtype, offset=3), values((2, cols), dtype, seed=1)
    results = []
    for streams in (False, True):
        for cuts in ([0, rows], [0, 1, 2, 19, 32, rows]):
            y, (mean, rstd) = np.zeros_like(x), np.zeros((2, rows), dtype)
            for lo, hi in pairwise(cuts):
                rows_forward(lo, hi, streams, x, weight, bias, 1e-5, y, mean, rstd)
            results.append((y, mean, rstd))
    y, mean, rstd = numbanorm.layer_norm_forward(x, weight, bias)
    expected = y, mean.ravel(), rstd.ravel()
    for result in results:
        for own, public in zip(result, expected, strict=True):
            np.testing.assert_array_equal(own, public)


def test_streaming_changes_no_bit(expected, monkeypatch):
    monkeypatch.setattr(machine, "streams", lambda nbytes: True)
    assert fingerprint() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", [0, 1, 3, 5, 15])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((300, 515), -1),
        ((600, 64), -1),
        ((2500, 33), -1),
        ((9000, 7), -1),
        ((2, 20001), -1),
        ((30, 2500), -1),
        ((2, 280000), -1),
        ((3, 20, 730), 1),
        ((90, 9, 49), 1),
    ],
)
def test_streams_write_their_own_memory_only(shape, axis, start, dtype, monkeypatch):
    """Wherever it begins, and with rows that are no whole number of cache lines."""
    x, dy = values(shape, dtype), values(shape, dtype, seed=2)
    memory = np.full(x.size + 32, np.nan, dtype)
    first = -memory.ctypes.data % 64 // x.itemsize + start
    out = memory[first : first + x.size].reshape(shape)

    def both():
        normalized = numbanorm.layer_norm_forward(x, axis=axis)
        yield normalized.y, numbanorm.layer_norm(x, axis=axis, out=out)
        yield numbanorm.layer_norm_backward(dy, x, *normalized[1:], axis=axis).dx, None
        numbanorm.layer_norm_backward(dy, x, *normalized[1:], axis=axis, out=out)
        yield None, out
        normalized = numbanorm.batch_norm_forward(x)
        yield normalized.y, numbanorm.batch_norm_forward(x, out=out).y
        yield numbanorm.batch_norm_backward(dy, x, *normalized[1:]).dx, None
        yield None, numbanorm.batch_norm_backward(dy, x, *normalized[1:], out=out).dx

    plain = [(a if b is None else b).copy() for a, b in both()]
    monkeypatch.setattr(machine, "streams", lambda nbytes: True)
    for expected, (fresh, given) in zip(plain, both(), strict=True):
        for result in (fresh, given):
            if result is not None:
                np.testing.assert_array_equal(result, expected)
    assert np.isnan(memory[:first]).all()
    assert np.isnan(memory[first + x.size :]).all()


def test_calls_from_several_threads_at_once(expected):
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: fingerprint(), range(4))) == {expected}


def test_a_lack_of_memory_in_a_kernel_reaches_the_caller():
    @numba.njit(nogil=True)
    def lack(lo, hi, times):
        for i in range(lo, hi):
            if i == 7:
                raise MemoryError
            times[i] += 1

    launch = parallel.parallel_for(lack)

    @numba.njit
    def run(engine, times):
        launch(engine, times.size, 3, (times,))

    for engine in (parallel.SERIAL, parallel.engine()):
        with pytest.raises(MemoryError, match="a kernel found no memory"):
            run(engine, np.zeros(100))
        times = np.zeros(7)
        run(engine, times)
        np.testing.assert_array_equal(times, 1)


@pytest.mark.parametrize("name", ENGINES)
def test_work_is_spread_over_threads(name, use):
    """What the agreement above would not show: each item is done once, by more than one thread where there are some."""
    pthread_self = types.ExternalFunction("pthread_self", types.intp())
    usleep = types.ExternalFunction("usleep", types.int32(types.uint32))

    @numba.njit(nogil=True)
    def record(lo, hi, threads, times):
        for i in range(lo, hi):
            usleep(1000)
            threads[i] = pthread_self()
            times[i] += 1

    launch = parallel.parallel_for(record)

    @numba.njit
    def run(engine, grain, threads, times):
        launch(engine, threads.size, grain, (threads, times))

    own = use(name, 2)
    for engine, grain, several in ((own, 3, True), (own, 100, False), (parallel.SERIAL, 3, False)):
        threads, times = np.zeros(100, int), np.zeros(100, int)
        run(engine, grain, threads, times)
        np.testing.assert_array_equal(times, 1)
        assert len(np.unique(threads)) == (2 if several else 1)


def test_kernels_are_callable_from_compiled_code():
    """A user's own function: the whole, with an engine or serially, and one range of rows; and Python itself."""

    @numba.njit
    def by_rows(engine, x, weight, bias, y, mean, rstd):
        half = x.shape[0] // 2
        rows_forward(0, half, False, x, weight, bias, 1e-5, y, mean, rstd)
        rows_forward(half, x.shape[0], False, x, weight, bias, 1e-5, y, mean, rstd)

    @numba.njit
    def whole(engine, x, weight, bias, y, mean, rstd):
        layer_norm_rows_forward(engine, False, x, weight, bias, 1e-5, y, mean, rstd)

    x, (weight, bias) = values((200, 768)), values((2, 768), seed=1)
    expected = layernorm.layer_norm(x, weight, bias)
    for function in (by_rows, whole, by_rows.py_func, whole.py_func):
        for engine in (parallel.SERIAL, parallel.engine()):
            y, mean, rstd = np.empty_like(x), *np.empty((2, 200), np.float32)
            function(engine, x, weight, bias, y, mean, rstd)
            np.testing.assert_array_equal(y, expected)
