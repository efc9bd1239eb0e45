"""The same bits for any number of threads, on every repeat, and by the serial way."""

import hashlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from inspect import signature
from itertools import combinations, pairwise

import numba
import numpy as np
import pytest
from numba import types

import numbanorm
from numbanorm import layernorm
from numbanorm._operations import OPERATIONS
from numbanorm.cpu.engine import engines, machine, parallel
from numbanorm.cpu.engine.control import control, set_control
from numbanorm.cpu.kernels.rows import layer_norm_rows_forward, rows_forward
from tests import reference
from tests.cases import assert_gradients, assert_normalized, series, values
from tests.examples import unmasked

ENGINES = sorted({"prange", engines.engine_name()})  # those of this system

SHAPES = {  # of each way that kernels go
    "axis": {
        "rows": ((700, 768), -1),
        "narrow rows": ((5003, 37), -1),
        "short rows": ((1003, 100), -1),
        "panels of long rows": ((100, 3001), -1),
        "pieces of long rows": ((3, 300000), -1),
        "middle axis": ((5, 96, 1000), 1),
    },
    "channel_axis": {
        "tiles of rows": ((20011, 64), 1),
        "tiles of wide rows": ((700, 1100), 1),
        "short channels": ((300, 256, 49), 1),
        "whole long channels": ((8, 40, 1000), 1),
        "tiles of long channels": ((6, 3, 300000), 1),
    },
}
CASES = [
    (operation, name, switch)
    for operation in OPERATIONS.values()
    for name in SHAPES[operation.axis_name]
    for switch in (None, *operation.switches)
]


@cache
def given(operation, name, switch):
    """Its arguments on a shape, with a switch turned on or none."""
    shape, axis = SHAPES[operation.axis_name][name]
    arguments = unmasked(operation, values(shape, offset=3), axis, series(2))
    return arguments | ({switch: True} if switch else {})


def run(operation, name, switch):
    """What it returns, and the arrays that it updates, which are copies."""
    arguments = given(operation, name, switch)
    updated = {key: arguments[key].copy() for key in operation.updated}
    return operation.function(**arguments | updated), updated.values()


def fingerprint(cases=CASES):
    """A hash of every result."""
    digest = hashlib.sha256()
    for case in cases:
        result, updated = run(*case)
        for a in (*(result if isinstance(result, tuple) else (result,)), *updated):
            digest.update(np.ascontiguousarray(a))
    return digest.hexdigest()


@pytest.fixture(scope="module")
def expected():
    yield fingerprint()
    given.cache_clear()


def assert_contract(cases):
    """Results of a forward or backward pass, streamed or not, within the accuracy contract."""
    for operation, name, switch in cases:
        if operation.name.endswith("ward"):
            exact = getattr(reference, f"{operation.name}_{switch}" if switch else operation.name)
            arguments, axis = given(operation, name, switch), SHAPES[operation.axis_name][name][1]
            names = [key for key in signature(exact).parameters if key in operation.given + operation.optional]
            expected = exact(*(arguments[key] for key in names if key in arguments), axis)
            result, _ = run(operation, name, switch)
            if "dx" in operation.results:
                assert_gradients(result, expected)
            else:
                along = [-1 if i == axis % arguments["x"].ndim else 1 for i in range(arguments["x"].ndim)]
                assert_normalized(result.y, expected.y, expected.x_hat, arguments["weight"].reshape(along))


@pytest.mark.parametrize(
    ("cpu", "names"),
    [
        pytest.param("generic", ["rows"], marks=pytest.mark.slow, id="generic, rows"),
        pytest.param("haswell", ["short channels"], marks=pytest.mark.slow, id="haswell, channels"),
        *(
            pytest.param(cpu, [name for names in SHAPES.values() for name in names], marks=pytest.mark.nightly, id=id)
            for cpu, id in (("generic", "generic, all"), ("haswell", "haswell, all"))
        ),
    ],
)
def test_processors_without_wide_vectors(cpu, names):
    """What this processor computes is held against the same contract in the tests of each norm."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("their names are those of x86 processors")
    command = (
        "from tests.test_parallel import CASES, assert_contract, fingerprint, numbanorm\n"
        f"cases = [case for case in CASES if case[1] in {names}]\n"
        "assert_contract(cases)\n"
        "expected = fingerprint(cases)\n"
        "numbanorm.cpu.engine.machine.streams = lambda nbytes: True\n"
        "assert fingerprint(cases) == expected"
    )
    features = {"generic": "", "haswell": "+avx2,+fma"}[cpu]
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    subprocess.run([sys.executable, "-W", "error", "-c", command], env=environment, timeout=600, check=True)


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_no_argument_equals_another(operation):
    """So the contract shows if a kernel takes one for another."""
    arguments = unmasked(operation, values((7, 5), offset=3), 1, series(2))
    arrays = [a for a in arguments.values() if isinstance(a, np.ndarray)]
    assert not any(np.array_equal(a, b) for a, b in combinations(arrays, 2))


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
    for family in {operation.family for operation in OPERATIONS.values()}:
        monkeypatch.setattr(f"numbanorm.cpu.{family}.engine", lambda: parallel.SERIAL)
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
    x, normalised = values(shape, dtype), {"axis": axis, "channel_axis": 1}
    memory = np.full(x.size + 32, np.nan, dtype)
    first = -memory.ctypes.data % 64 // x.itemsize + start
    out = memory[first : first + x.size].reshape(shape)
    calls = [
        partial(one.function, **unmasked(one, x, normalised[one.axis_name], series(2)), **switched)
        for one in OPERATIONS.values()
        if one.takes_out
        for switched in ({}, *({switch: True} for switch in one.switches))
    ]

    def y_or_dx(call):
        result = call()
        return result[0] if isinstance(result, tuple) else result

    plain = [y_or_dx(call) for call in calls]
    monkeypatch.setattr(machine, "streams", lambda nbytes: True)
    for call, expected in zip(calls, plain, strict=True):
        np.testing.assert_array_equal(y_or_dx(call), expected)
        call(out=out)
        np.testing.assert_array_equal(out, expected)
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
