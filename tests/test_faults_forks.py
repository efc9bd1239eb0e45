"""Forked children and other processes: right results in each within seconds, whatever the parent was at."""

import os
import sys

import pytest

from tests import faults
from tests.faults import ENGINES, LAYERS, python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@pytest.mark.parametrize("engine", ENGINES)
def test_fork_after_a_first_call(engine):
    """Children, grandchildren and the parent; with Numba's threads, which do not survive it, serially.

    GNU OpenMP sends SIGTERM to a child that uses it, which then computes nothing, if it has a handler.
    """
    script = f"""
        import signal
        import numbanorm
        from tests import faults

        def child():
            faults.verify()
            assert numbanorm.get_num_threads() == {1 if engine == "prange" else 3}

        def parent_of_a_grandchild():
            child()
            faults.in_fork(child)
            child()

        def child_that_handles_sigterm():
            taken = []
            signal.signal(signal.SIGTERM, lambda *_: taken.append(True))
            child()
            assert not taken

        faults.learn()
        for _ in range(5):
            for function in (child, parent_of_a_grandchild, child_that_handles_sigterm):
                faults.in_fork(function)
            faults.verify()
        assert numbanorm.get_num_threads() == 3
    """
    python(script, NUMBANORM_ENGINE=engine)


@pytest.mark.skipif(sys.platform != "linux", reason="functions of the C library are found otherwise")
def test_a_fork_that_is_not_pythons():
    """As that of a program that embeds it: nobody asked this package to get ready."""
    script = """
        import ctypes, os
        from tests import faults

        def child():
            faults.verify()
            faults.use_threads(1)
            faults.use_threads(2)
            faults.verify()
            os.fork = of_python
            faults.in_fork(faults.verify)

        faults.learn()
        faults.verify()
        of_python, os.fork = os.fork, ctypes.PyDLL(None).fork
        faults.in_fork(child)
        faults.verify()
    """
    python(script)


@pytest.mark.skipif(sys.platform != "linux", reason="functions of the C library are found otherwise")
@pytest.mark.parametrize("others", ["", "hold locks"])
def test_a_fork_of_which_python_learns_afterwards(others):
    """As uWSGI's with `--py-call-osafterfork`: no lock was taken before, and none is left to threads that are gone."""
    script = f"""
        import ctypes, os
        from threading import Event, Thread
        import numba
        from numba.core.compiler_lock import global_compiler_lock
        from numbanorm.cpu.engine import engines
        from tests import faults

        def fork():
            child = of_the_system()
            if child == 0:
                ctypes.pythonapi.PyOS_AfterFork_Child()
            return child

        def child():
            faults.verify()
            assert numba.njit(lambda x: x + 1)(1) == 2
            os.fork = of_python
            faults.in_fork(faults.verify)

        def hold():
            with global_compiler_lock, engines._guard:
                held.set()
                done.wait(30)

        faults.learn()
        of_python, of_the_system, os.fork = os.fork, ctypes.PyDLL(None).fork, fork
        held, done, other = Event(), Event(), Thread(target=hold)
        if "{others}":
            other.start()
            held.wait()
        faults.in_fork(child)
        done.set()
        faults.verify()
    """
    python(script)


def test_fork_before_a_first_call():
    script = """
        from tests import faults

        faults.in_fork(faults.start_and_verify)
        faults.start_and_verify()
    """
    python(script)


@pytest.mark.parametrize(("engine", "layer"), [(ENGINES[0], "omp"), *(("prange", layer) for layer in LAYERS)])
def test_fork_after_a_foreign_parallel_kernel(engine, layer):
    """Numba's threads were started, but not for this package."""
    script = f"""
        from tests import faults
        faults.need_layer("{layer}")

        import numba
        import numpy as np

        @numba.njit(parallel=True)
        def foreign(x):
            for i in numba.prange(x.size):
                x[i] += 1

        x = np.zeros(1000)
        foreign(x)
        assert x.all() and numba.threading_layer() == "{layer}"
        faults.in_fork(faults.start_and_verify)
    """
    python(script, NUMBANORM_ENGINE=engine, NUMBA_THREADING_LAYER=layer, **faults.libraries())


@pytest.mark.parametrize("engine", ENGINES)
def test_fork_while_another_thread_is_inside_a_kernel(engine):
    """The child begins at many moments of the parent's launches."""
    script = """
        from threading import Event, Thread
        from tests import faults

        def call():
            while not stop.is_set():
                faults.verify(faults.LARGE)

        faults.learn()
        stop = Event()
        others = [Thread(target=call) for _ in range(2)]
        for other in others:
            other.start()
        try:
            for _ in range(10):
                faults.in_fork(faults.verify)
        finally:
            stop.set()
        for other in others:
            other.join()
        faults.verify()
    """
    python(script, NUMBANORM_ENGINE=engine)


def test_fork_from_many_threads_at_once():
    """Each child begins with the locks of its own fork, and each fork leaves those of the others alone."""
    script = """
        from concurrent.futures import ThreadPoolExecutor
        from tests import faults

        faults.learn()
        with ThreadPoolExecutor(6) as threads:
            children = [faults.verify] * 6 + [lambda: None] * 300
            for call in [threads.submit(faults.in_fork, child) for child in children]:
                call.result(20)
        faults.verify()
    """
    python(script)


def test_fork_while_another_thread_calls_with_a_lock_that_the_fork_waits_for():
    """As libraries' own locks are, that are held across forks: no call waits for the fork then."""
    script = """
        import os, time
        from threading import Event, RLock, Thread

        lock = RLock()
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock._at_fork_reinit)
        import numbanorm  # what it does before a fork is done earlier
        from tests import faults

        def call():
            with lock:
                entered.set()
                time.sleep(0.2)  # the fork has begun
                for number in (1, 2, None):
                    numbanorm.set_num_threads(number)
                    faults.verify()
                    assert numbanorm.get_num_threads() in (1, number or 3)

        faults.learn()
        entered = Event()
        other = Thread(target=call)
        other.start()
        entered.wait()
        faults.in_fork(faults.verify)
        other.join()
        faults.verify()
        assert numbanorm.get_num_threads() == 3
    """
    python(script)


def test_a_child_of_a_signal_handler_goes_on_with_what_was_interrupted():
    """Also within what was compiled then: it gives back the lock that it has taken."""
    script = """
        import os, signal
        from numba.core.compiler_lock import global_compiler_lock
        from tests import faults

        faults.learn()
        children = []
        signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
        with global_compiler_lock:
            signal.raise_signal(signal.SIGALRM)
        faults.verify()
        if children[0] == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
    """
    python(script)


@pytest.mark.slow
def test_a_child_that_a_signal_handler_forks_during_a_first_call(tmp_path):
    """It goes on with that call, as its parent does."""
    script = """
        import os, signal
        import numbanorm
        from tests import reference
        from tests.cases import assert_normalized, values

        children = []
        x = values((300, 400), offset=3)
        expected = reference.layer_norm_forward(x, None, None, -1)
        signal.signal(signal.SIGALRM, lambda *_: children.append(os.fork()))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        y = numbanorm.layer_norm(x)
        assert_normalized(y, expected.y, expected.x_hat)
        if children[0] == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
    """
    python(script, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("what", ["forks", "calls"])
def test_a_signal_handler_forks_or_calls_within_a_compilation(what):
    """Another thread's first call has begun, and waits for that compilation: nobody waits for it."""
    script = f"""
        import os, signal, time
        from threading import Thread
        from numba.core.compiler_lock import global_compiler_lock
        from tests import faults

        def handle(*_):
            other.start()
            time.sleep(0.5)
            faults.in_fork(lambda: None) if "{what}" == "forks" else faults.results(faults.SMALL[0])
            handled.append(True)

        handled, other = [], Thread(target=lambda: faults.results(faults.SMALL[0]))
        signal.signal(signal.SIGALRM, handle)
        with global_compiler_lock:
            signal.raise_signal(signal.SIGALRM)
        other.join()
        assert handled
        faults.start_and_verify()
    """
    python(script)


def test_fork_while_another_thread_starts_numbas_threads():
    """As anyone may who asks how many there are; a child that uses them waits for no lock that its parent held."""
    script = """
        import time
        from threading import Event, Thread
        import numba
        from numba.np.ufunc import parallel
        from tests import faults

        def slow():
            entered.set()
            time.sleep(0.5)
            return check()

        check, parallel._check_tbb_version_compatible = parallel._check_tbb_version_compatible, slow
        entered = Event()
        other = Thread(target=numba.get_num_threads)
        other.start()
        entered.wait(10)
        assert entered.is_set()
        faults.in_fork(faults.start_and_verify, limit=20)
        other.join()
        faults.start_and_verify()
    """
    python(script, NUMBANORM_ENGINE="prange")


def test_fork_while_another_thread_compiles():
    """The child compiles, too: the compiler's lock is free there."""
    script = """
        import time
        from threading import Event, Thread
        import numba
        from tests import faults

        source = "def f(x):\\n" + "".join(f"    x = x * {k} + x ** {k % 5}\\n" for k in range(40)) + "    return x"

        def compile_all_the_time():
            while not stop.is_set():
                space = {}
                exec(source, space)
                numba.njit(space["f"])(0.5)
                compiled.append(True)

        def child():
            faults.verify()
            assert numba.njit(lambda x: x + 1)(1) == 2

        faults.learn()
        compiled, stop = [], Event()
        other = Thread(target=compile_all_the_time)
        other.start()
        try:
            for number in range(4):
                time.sleep(0.05 * number)
                faults.in_fork(child)
        finally:
            stop.set()
        other.join()
        assert compiled
    """
    python(script)


@pytest.mark.parametrize("pause", [0.2, 0.7])
def test_fork_during_a_first_call_that_compiles(pause, tmp_path):
    """No cache: the child has what the parent has compiled, and compiles the rest."""
    script = f"""
        import time
        from threading import Thread
        import numbanorm
        from tests import faults, reference
        from tests.cases import assert_normalized, values

        def call():
            assert_normalized(numbanorm.layer_norm(x), expected.y, expected.x_hat)
            done.append(True)

        x = values((300, 400), offset=3)
        expected = reference.layer_norm_forward(x, None, None, -1)
        done = []
        other = Thread(target=call)
        other.start()
        time.sleep({pause})
        assert not done
        faults.in_fork(call, limit=280)  # both compile: 5 s alone, 25 beside eight that compile as well
        other.join()
        assert done
    """
    python(script, limit=300, NUMBA_CACHE_DIR=str(tmp_path))


def test_pools_of_forked_processes():
    """Forked by a thread of the pool's, too, as each worker ends after a task."""
    script = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from tests import faults

        context = multiprocessing.get_context("fork")
        faults.learn()
        with context.Pool(2) as pool:
            pool.starmap_async(faults.verify, [()] * 6).get(20)
        with context.Pool(2, maxtasksperchild=1) as pool:
            results = [pool.apply_async(faults.verify) for _ in range(6)]
            for result in results:
                faults.verify()
                result.get(10)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            for call in [pool.submit(faults.verify) for _ in range(6)]:
                call.result(10)
        faults.verify()
    """
    python(script)


def test_pools_of_other_processes():
    script = """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from tests import faults

        faults.learn()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            assert pool.submit(faults.start_and_verify).result(20) == 1
        with multiprocessing.get_context("forkserver").Pool(1) as pool:
            assert pool.apply_async(faults.start_and_verify).get(20) == 1
        faults.verify()
    """
    python(script)
