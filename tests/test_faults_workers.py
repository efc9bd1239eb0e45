"""The package's own threads as the system sees them, and the end of a process."""

import pytest

from numbanorm.cpu.engine import engines
from tests.faults import ENGINES, python

parked = pytest.mark.skipif(engines.engine_name() != "parked", reason="this system has no parked threads")

WORKERS = """
import os
from pathlib import Path

def workers():
    '''The status of each, as the system tells it.'''
    statuses = [(task / "status").read_text() for task in Path("/proc/self/task").iterdir()]
    return [status for status in statuses if status.startswith("Name:\\tnumbanorm\\n")]

at_fork = []
os.register_at_fork(before=lambda: at_fork.append(len(os.listdir("/proc/self/task"))))  # called after the package's own

from tests import faults
"""


@parked
def test_workers_are_no_threads_of_python():
    """They have a name in the system's lists, and take no signal that tells of no fault of their own."""
    script = """
import signal, threading, time

TAKEN = [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT]
LEFT = [signal.Signals["SIG" + name] for name in "TERM INT HUP QUIT ALRM PROF CHLD USR1 USR2 PIPE RTMIN".split()]

def blocked(status, numbers):
    mask = int(status.partition("SigBlk:")[2].split()[0], 16)
    return [number for number in numbers if mask >> (number - 1) & 1]

mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
faults.learn()
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
assert threading.enumerate() == [threading.main_thread()]
end = time.monotonic() + 10
while any(blocked(status, TAKEN) for status in workers()) and time.monotonic() < end:
    time.sleep(0.001)  # a thread begins with all signals blocked
assert len(workers()) == 2
for status in workers():
    assert blocked(status, LEFT) == LEFT
    assert blocked(status, TAKEN) == []
faults.verify()
"""
    python(WORKERS + script)


@parked
def test_workers_end_when_one_thread_is_asked_for():
    script = """
import numbanorm
from numbanorm.cpu.engine import engines

engines.thread_count = lambda asked: asked or 3
for _ in range(3):
    numbanorm.set_num_threads(None)
    faults.assert_contract(faults.results(faults.LARGE[0]), faults.LARGE[0])
    assert len(workers()) == 2
    numbanorm.set_num_threads(1)
    assert numbanorm.get_num_threads() == 1
    assert not workers()
    faults.assert_contract(faults.results(faults.LARGE[0]), faults.LARGE[0])
"""
    python(WORKERS + script)


@parked
def test_workers_follow_the_process_to_other_processors():
    """As a job scheduler may move it: where the limits are read again, though as many threads are there as before."""
    script = """
import numbanorm

every = os.sched_getaffinity(0)
faults.learn(3)
for allowed in ({min(every)}, {max(every)}, every):
    os.sched_setaffinity(0, allowed)
    numbanorm.set_num_threads(None)
    faults.verify(faults.LARGE[:1])
    assert len(workers()) == 2
    for status in workers():
        mask = int(status.partition("Cpus_allowed:")[2].split()[0].replace(",", ""), 16)
        assert {number for number in range(mask.bit_length()) if mask >> number & 1} == allowed
"""
    python(WORKERS + script)


@parked
def test_the_system_grants_fewer_threads_than_asked_for():
    """As where a container limits them: calls go on with those that there are."""
    script = """
import resource
import numbanorm
from numbanorm.cpu.engine import engines

faults.learn(1)
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + (100 << 20), hard))  # for some stacks
engines.thread_count = lambda asked: 200
numbanorm.set_num_threads(None)
count = numbanorm.get_num_threads()
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert 1 <= count < 200
faults.verify()
faults.in_fork(faults.verify)
faults.verify()
"""
    python(WORKERS + script)


@parked
def test_workers_end_before_a_fork():
    """The process has one thread then, so Python 3.12 and later have nothing to warn of; parent and child go on."""
    script = """
def child():
    assert not workers()
    faults.verify()
    assert len(workers()) == 2

faults.learn()
faults.verify()
for _ in range(20):
    assert len(workers()) == 2
    faults.in_fork(child)
    assert len(workers()) == 2
    faults.verify(faults.LARGE[:1])
assert at_fork == [1] * 20, at_fork
"""
    python(WORKERS + script, OPENBLAS_NUM_THREADS="1")


@parked
def test_workers_end_before_the_process():
    """While Python is still whole; calls after that are served without them."""
    script = """
import atexit

def check():
    assert not workers()
    faults.verify()
    assert not workers()

atexit.register(check)
from tests import faults
faults.learn()
faults.verify()
assert len(workers()) == 2
"""
    python(WORKERS.replace("from tests import faults\n", "") + script)


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_at_exit(engine):
    """By handlers that run before and after the package's own."""
    script = """
        import atexit
        atexit.register(lambda: faults.verify())
        from tests import faults
        faults.learn()
        atexit.register(faults.verify)
    """
    python(script, NUMBANORM_ENGINE=engine)


def test_a_first_call_at_exit():
    script = """
        import atexit
        from tests import faults
        atexit.register(faults.start_and_verify)
    """
    python(script)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_daemon_thread_calls_while_the_process_ends(engine):
    script = """
        import threading, time
        from tests import faults

        def call():
            while True:
                faults.verify(faults.LARGE)

        faults.learn()
        for _ in range(3):
            threading.Thread(target=call, daemon=True).start()
        time.sleep(0.1)
        faults.verify()
    """
    for _ in range(2 if engine == "parked" else 1):
        python(script, NUMBANORM_ENGINE=engine)
