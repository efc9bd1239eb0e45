"""Calls from many threads, beside and within other people's parallel code, and while a core is busy: right results."""

import importlib.util
import pickle
from textwrap import dedent

import numba
import pytest
from numba import types

import numbanorm
from numbanorm.cpu.compiling import bytecode
from numbanorm.cpu.compiling.jit import Compiled, inner
from numbanorm.cpu.engine.atomic import add, call_kernel
from tests import faults
from tests.faults import ENGINES, LARGE, LAYERS, SMALL, python, results

WITHOUT_OPENMP = "import sys\nfor name in ('omppool', 'tbbpool'): sys.modules['numba.np.ufunc.' + name] = None\n"

MANY_THREADS = """
from concurrent.futures import ThreadPoolExecutor
from tests import faults

faults.learn()
with ThreadPoolExecutor(8) as threads:
    for call in [threads.submit(faults.verify) for _ in range(48)]:
        call.result()
"""


@pytest.mark.parametrize("shapes", [LARGE, SMALL])
def test_large_results_are_shared_out(shapes, monkeypatch):
    """Or else the tests of faults would test little: each function launches, and on small arrays none does."""

    @numba.cfunc(types.void(*[types.intp] * 5))
    def entry(engine, kernel, context, items, grain):
        add(engine, 1, 1)
        call_kernel(kernel, context, 0, items)

    pool = faults.np.array([entry.address, 0])
    for module in (numbanorm.cpu.layernorm, numbanorm.cpu.batchnorm):
        monkeypatch.setattr(module, "engine", lambda: pool.ctypes.data)
    for shape in shapes:
        pool[1] = 0
        faults.assert_contract(results(shape), shape)
        assert pool[1] >= 6 if shapes == LARGE else pool[1] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_call_at_once(engine):
    python(MANY_THREADS, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_call_at_once_without_openmp(engine):
    """As in a slim image: Numba has workqueue alone, which ends a process when two threads use it at once."""
    used = "import numba\nassert numba.threading_layer() == 'workqueue'\n" if engine == "prange" else ""
    python(WITHOUT_OPENMP + MANY_THREADS + used, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_many_threads_make_the_first_call(engine):
    """All of them find no engine yet, and kernels that are still to be loaded."""
    script = """
        from threading import Barrier, Thread
        from tests import faults

        found, together = {}, Barrier(8)

        def call(number):
            together.wait(20)
            found[number] = faults.results(faults.LARGE[0])

        threads = [Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        for own in found.values():
            faults.assert_contract(own, faults.LARGE[0])
    """
    python(script, NUMBANORM_ENGINE=engine)


def test_the_number_of_threads_changes_while_others_call():
    script = """
        from concurrent.futures import ThreadPoolExecutor
        from tests import faults

        faults.learn()
        with ThreadPoolExecutor(4) as threads:
            calls = [threads.submit(faults.verify) for _ in range(40)]
            for number in range(200):
                faults.use_threads(1 + number % 4)
            for call in calls:
                call.result()
    """
    python(script)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_foreign_parallel_kernel_runs_beside(layer):
    script = f"""
        from threading import Event, Thread
        from tests import faults
        faults.need_layer("{layer}")

        import numba
        import numpy as np

        @numba.njit(parallel=True, nogil=True)
        def foreign(x, y):
            for i in numba.prange(x.size):
                y[i] = 3 * x[i] + i

        x = np.arange(200_000.0)
        done, stop = [], Event()

        def run():
            while not stop.is_set():
                y = np.zeros_like(x)
                foreign(x, y)
                done.append(np.array_equal(y, 4 * x))

        faults.learn()
        other = Thread(target=run)
        other.start()
        while len(done) < 20 and other.is_alive():
            faults.verify()
        stop.set()
        other.join()
        assert numba.threading_layer() == "{layer}"
        assert len(done) >= 20
        assert all(done)
    """
    python(script, NUMBA_THREADING_LAYER=layer, **faults.libraries())


@pytest.mark.parametrize("layer", LAYERS)
def test_a_call_from_within_a_users_prange(layer):
    """Each of the user's threads launches; another thread calls beside."""
    script = f"""
        from concurrent.futures import ThreadPoolExecutor
        from tests import faults
        faults.need_layer("{layer}")

        import numba
        import numpy as np
        from numbanorm.cpu.kernels.rows import layer_norm_rows_forward
        from numbanorm.cpu.engine.parallel import engine
        from tests import reference
        from tests.cases import assert_normalized, values

        @numba.njit(parallel=True)
        def by_the_users_threads(engine, x, weight, bias, y, mean, rstd):
            for i in numba.prange(len(x)):
                layer_norm_rows_forward(engine, False, x[i], weight, bias, 1e-5, y[i], mean[i], rstd[i])

        faults.learn()
        x, (weight, bias) = values((24, 60, 768), offset=3), values((2, 768), seed=1)
        expected = reference.layer_norm_forward(x, weight, bias, -1)
        with ThreadPoolExecutor(1) as threads:
            beside = threads.submit(lambda: [faults.verify() for _ in range(20)])
            for repeat in range(30):
                y, (mean, rstd) = np.zeros_like(x), np.zeros((2, 24, 60), x.dtype)
                by_the_users_threads(engine(), x, weight, bias, y, mean, rstd)
                if repeat == 0:
                    assert_normalized(y, expected.y, expected.x_hat, weight)
                    first = y, mean, rstd
                for found, same in zip((y, mean, rstd), first):
                    np.testing.assert_array_equal(found, same)
            beside.result()
        assert numba.threading_layer() == "{layer}"
    """
    python(script, NUMBA_THREADING_LAYER=layer, NUMBANORM_ENGINE=ENGINES[0], **faults.libraries())


@pytest.mark.skipif("parked" not in ENGINES, reason="a system without these workers")
def test_a_launch_waits_for_no_worker_that_has_not_come():
    """One that is counted and called, and never gets a processor, since there is none."""
    script = """
        import numpy as np
        from numbanorm.cpu.engine import engines, workers
        from numbanorm.cpu.kernels.rows import layer_norm_rows_forward
        from tests import reference
        from tests.cases import assert_normalized, values

        engine = engines.Parked()
        engine.pool[[workers.WORKERS, workers.IDLE]] = 1
        x, (weight, bias) = values((300, 400), offset=3), values((2, 400), seed=1)
        y, mean, rstd = np.empty_like(x), np.empty(300, x.dtype), np.empty(300, x.dtype)
        layer_norm_rows_forward(engine.address, False, x, weight, bias, 1e-5, y, mean, rstd)
        assert engine.pool[workers.IDLE] == 0
        expected = reference.layer_norm_forward(x, weight, bias, -1)
        assert_normalized(y, expected.y, expected.x_hat, weight)
    """
    python(script)


@pytest.mark.skipif("parked" not in ENGINES, reason="a system without these workers")
@pytest.mark.parametrize("threads", [2, 4])
def test_a_thread_that_loses_its_core_delays_one_chunk(threads):
    """One is held in its first, until all else is done: by the others, and it is no large part of the work."""
    script = f"""
        import numba
        import numpy as np
        from numba import types
        from numbanorm.cpu.engine.atomic import add, load, pause, replace, store
        from numbanorm.cpu.engine.parallel import engine, parallel_for
        from tests import faults

        ITEMS, THREADS = 2000, {threads}
        CALLER, HELD, DONE, REST = range(4)  # a thread; the items of its chunk; items; 1: the rest is done
        itself = types.ExternalFunction("pthread_self", types.intp())

        @numba.njit(nogil=True)
        def work(lo, hi, words):
            address = words.ctypes.data
            if itself() != load(address, CALLER) and replace(address, HELD, 0, hi - lo):
                for _ in range(500_000_000):  # ten seconds
                    if load(address, DONE) == ITEMS - (hi - lo):
                        store(address, REST, 1)
                        break
                    pause()
            for _ in range(100 * (hi - lo)):
                pause()
            add(address, DONE, hi - lo)

        launch_work = parallel_for(work)

        @numba.njit(nogil=True)
        def launch(engine, words):
            words[CALLER] = itself()
            launch_work(engine, ITEMS, 1, (words,))

        faults.use_threads(THREADS)
        for _ in range(1000):
            words = np.zeros(4, np.intp)
            launch(engine(), words)
            assert words[DONE] == ITEMS
            if words[HELD]:
                break
        assert 0 < words[HELD] <= ITEMS // (2 * THREADS)
        assert words[REST] == 1
    """
    python(script)


def test_a_core_is_busy():
    """Nothing is lost when workers come late or never."""
    script = """
        import subprocess, sys, time
        import numbanorm
        from tests import faults, reference
        from tests.cases import assert_normalized, values
        import numpy as np

        faults.use_threads(2)
        x = values((512, 512), offset=3)
        first = numbanorm.layer_norm(x)
        expected = reference.layer_norm_forward(x, None, None, -1)
        assert_normalized(first, expected.y, expected.x_hat)
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            for _ in range(300):
                time.sleep(0.003)
                np.testing.assert_array_equal(numbanorm.layer_norm(x), first)
            assert busy.poll() is None
        finally:
            busy.kill()
            busy.wait()
    """
    python(script)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend):
    if importlib.util.find_spec("joblib") is None:
        pytest.skip("joblib is not installed")
    script = f"""
        import joblib
        from tests import faults

        faults.learn()
        work = faults.start_and_verify if "{backend}" == "loky" else faults.verify
        found = joblib.Parallel(n_jobs=2, backend="{backend}")(joblib.delayed(work)() for _ in range(3))
        assert set(found) == {{1 if "{backend}" == "loky" else None}}
        faults.verify()
    """
    python(script)


def test_threads_of_small_stacks_compile(tmp_path):
    """A first call needs megabytes of stack, whatever the size that the user sets for threads, which stays."""
    script = """
        import threading
        import numpy as np
        from numbanorm.cpu.kernels.batches import update_running

        def call(dtype):
            running, nothing = np.ones(5, dtype), np.empty(0)
            update_running(0.1, nothing, nothing, np.full(5, 2.0), 3.0, running, np.empty(0, np.int64), False)
            np.testing.assert_allclose(running, 0.9 * 1 + 0.1 * 2 * 3, rtol=1e-6)
            done.append(dtype)

        done = []
        threading.stack_size(64 * 1024)
        call(np.float32)
        assert threading.stack_size(64 * 1024) == 64 * 1024
        thread = threading.Thread(target=call, args=[np.float64])
        thread.start()
        thread.join()
        assert threading.stack_size() == 64 * 1024
        assert done == [np.float32, np.float64]
    """
    python(script, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="joblib is not installed")
def test_a_users_compiled_function_goes_to_another_process(tmp_path):
    """From `__main__`, by value, as joblib sends it; kernels that it calls go by name. Both compile it."""
    script = """
        import joblib
        import numba
        import numpy as np
        from numbanorm.cpu.kernels.rows import layer_norm_rows_forward, rows_forward
        from numbanorm.cpu.engine.parallel import SERIAL
        from tests import reference
        from tests.cases import assert_normalized, values

        @numba.njit
        def normalize(x, weight, bias, y, mean, rstd):
            rows_forward(0, 3, False, x, weight, bias, 1e-5, y, mean, rstd)
            first = y[:3].copy()
            layer_norm_rows_forward(SERIAL, False, x, weight, bias, 1e-5, y, mean, rstd)
            return first

        def work(x):
            y, weight, bias = np.empty_like(x), np.ones(x.shape[1], x.dtype), np.zeros(x.shape[1], x.dtype)
            first = normalize(x, weight, bias, y, *np.empty((2, len(x)), x.dtype))
            return first, y

        x = values((8, 40), offset=3)
        expected = reference.layer_norm_forward(x, None, None, -1)
        found = joblib.Parallel(n_jobs=2, backend="loky")([joblib.delayed(work)(x)])
        for first, y in (*found, work(x)):
            assert_normalized(y, expected.y, expected.x_hat)
            np.testing.assert_array_equal(first, y[:3])
    """
    path = tmp_path / "program.py"  # a script's functions go by value, those of a module by name
    path.write_text(dedent(script))
    python(f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')", limit=120)


def test_functions_of_the_package_are_pickled_by_name():
    found = [
        value
        for name in sorted(bytecode.covered_modules())
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, Compiled) and value.__module__ == name
    ]
    assert len(found) > 100
    for function in found:
        assert pickle.loads(pickle.dumps(function)) is function


def test_another_packages_compiled_function_is_pickled_by_value():
    """Made by the same decorators, say in a script."""
    function = inner()(eval("lambda x: x + 1", {"__name__": "__main__"}))
    again = numba.core.serialize.loads(numba.core.serialize.dumps(function))
    assert numba.njit(lambda x: again(x))(1) == 2
