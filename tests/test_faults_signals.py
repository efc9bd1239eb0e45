"""Signals during calls, handled by Python code: right results."""

import pytest

from tests.faults import ENGINES, python


@pytest.mark.parametrize("engine", ENGINES)
def test_signals_come_all_the_time(engine):
    """2000 a second, handled by Python code that does nothing."""
    script = """
        import signal
        from tests import faults

        faults.learn()
        taken = []
        signal.signal(signal.SIGALRM, lambda *_: taken.append(True))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        while len(taken) < 1000:
            faults.verify()
        signal.setitimer(signal.ITIMER_REAL, 0)
    """
    python(script, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_signals_come_while_a_launch_waits_for_the_last_worker(engine):
    """Its sleep is interrupted each time."""
    script = """
        import signal
        import numba
        import numpy as np
        from numba import types
        from numbanorm.cpu.engine import parallel
        from tests import faults

        usleep = types.ExternalFunction("usleep", types.int32(types.uint32))

        @numba.njit(nogil=True)
        def record(lo, hi, times):  # a signal cuts short the caller's sleep, too, but no worker's
            for i in range(lo, hi):
                usleep(5000)
                times[i] += 1

        launch = parallel.parallel_for(record)

        @numba.njit(nogil=True)
        def run(engine, times):
            launch(engine, times.size, 1, (times,))

        faults.use_threads(2)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for _ in range(50):
            times = np.zeros(5)
            run(parallel.engine(), times)
            np.testing.assert_array_equal(times, 1)
        signal.setitimer(signal.ITIMER_REAL, 0)
    """
    python(script, NUMBANORM_ENGINE=engine)
