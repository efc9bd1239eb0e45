"""Exceptions of signal handlers, and calls from there, at whatever moment: right results, and nothing by halves."""

import os

import pytest

from numbanorm.cpu.engine import engines
from tests.faults import ENGINES, python

INTERRUPTIONS = """
import random, signal, sys, time

class Interruption(Exception):
    pass

def interrupt(*_):
    if armed:
        raise Interruption

def interrupted(call, most):
    '''Call again and again until a signal handler raises an exception; whether it arrived.'''
    global armed
    armed = True
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, most))
        end = time.monotonic() + 2 * most
        while time.monotonic() < end:
            call()
    except Interruption:
        return True
    finally:
        armed = False
    return False

def interrupted_at_each_moment(call):
    '''Call with an exception where the first signal could be handled within the package, the second, up to the last.

    That is as a function begins, and as one of C returns.
    '''
    def handle(frame, event, _):
        nonlocal left
        if event in ("call", "c_return") and "/numbanorm/" in frame.f_code.co_filename:
            left -= 1
            if left < 0:
                raise Interruption

    number, left = 0, -1
    while left < 0:
        left = number
        sys.setprofile(handle)
        try:
            call()
        except Interruption:
            pass
        finally:
            sys.setprofile(None)
        yield number
        number += 1

armed = False
random.seed(0)
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda _: None  # the exceptions that hooks around a fork took

import numpy as np
import numbanorm
from tests import faults, reference
from tests.cases import assert_normalized, values
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_exceptions_of_a_signal_handler(engine):
    """The next calls are right, whatever was interrupted, even if threads were about to start and end."""
    script = """
def change_the_number_of_threads():
    for number in (3, 1, 4, 2):
        faults.use_threads(number)
        faults.verify(faults.SMALL)

sys.unraisablehook = sys.__unraisablehook__
faults.learn()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
count = 0
for number in range(40):
    count += interrupted(faults.verify, 0.03) if number % 2 else interrupted(change_the_number_of_threads, 0.003)
    faults.use_threads(3)
    faults.verify(faults.LARGE[:1] + faults.SMALL)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
assert count == 40
"""
    python(INTERRUPTIONS + script, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_exceptions_at_each_moment(engine):
    """The next calls are right, in every thread."""
    script = """
from concurrent.futures import ThreadPoolExecutor

def call():
    faults.use_threads(random.choice((2, 3)))
    faults.results(faults.LARGE[0])

faults.learn()
with ThreadPoolExecutor(1) as threads:
    for number in interrupted_at_each_moment(call):
        if number % 10 == 0:
            threads.submit(faults.verify, faults.LARGE[:1]).result(10)
            faults.verify(faults.LARGE[:1])
assert number > 100
"""
    python(INTERRUPTIONS + script, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("pause", [0.11, 0.25])
def test_ctrl_c_in_first_calls_that_compile(pause, tmp_path):
    """Again and again, until one is through: Numba is left whole each time, and what was compiled meanwhile counts."""
    script = f"""
import signal
import numbanorm
from tests import reference
from tests.cases import assert_normalized, values

def ended(call):  # without a signal, which may come as the call returns
    while True:
        try:
            signal.setitimer(signal.ITIMER_REAL, {pause})
            found = call()
            signal.setitimer(signal.ITIMER_REAL, 0)
            return found
        except KeyboardInterrupt:
            interruptions.append(True)

interruptions = []
signal.signal(signal.SIGALRM, signal.default_int_handler)
for dtype in ("float32", "float64"):
    x = values((300, 64), dtype, offset=3)
    expected = reference.layer_norm_forward(x, None, None, -1)
    assert_normalized(ended(lambda: numbanorm.layer_norm(x)), expected.y, expected.x_hat)
assert len(interruptions) > 3
"""
    python(script, NUMBA_CACHE_DIR=str(tmp_path), limit=120)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_exceptions_while_the_process_forks():
    """No lock stays behind for other threads to wait for, and child and parent compute."""
    script = """
from concurrent.futures import ThreadPoolExecutor
import numba

def in_another_thread():
    faults.verify(faults.LARGE)
    faults.use_threads(3)
    assert numba.njit(lambda x: x + 1)(1) == 2

def right_in_the_child():
    sys.setprofile(None)
    faults.verify()

faults.learn()
faults.verify()
with ThreadPoolExecutor(1) as threads:
    for number in interrupted_at_each_moment(lambda: faults.in_fork(right_in_the_child)):
        threads.submit(in_another_thread).result(10)
        faults.verify()
assert number > 3
"""
    python(INTERRUPTIONS + script)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("interval", [0, 0.02])
def test_exceptions_while_a_fork_waits_for_a_compilation(interval):
    """It goes on waiting, for that of another thread, however often a signal handler raises."""
    script = f"""
import os, select
from threading import Event, Thread
import numba
from numba.core.compiler_lock import global_compiler_lock

def compile_for_a_while():
    with global_compiler_lock:
        compiling.append(True)
        entered.set()
        time.sleep(0.3)
        compiling.clear()

def is_right():  # nobody compiles, and another thread can
    found = [len(compiling)]
    other = Thread(target=lambda: found.append(numba.njit(lambda x: x + 1)(1)), daemon=True)
    other.start()
    other.join(5)
    faults.verify()
    return found == [0, 2]

def interrupt(*_):
    interruptions.append(True)
    raise Interruption

faults.learn()
mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
compiling, entered, interruptions = [], Event(), []
ends, end = os.pipe()
other = Thread(target=compile_for_a_while)
other.start()
entered.wait()
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.1, {interval})  # which a child does not inherit
try:
    if os.fork() == 0:
        os.write(end, b"right" if is_right() else b"wrong")
        os._exit(0)
except Interruption:
    pass
while True:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        break
    except Interruption:
        pass
assert interruptions
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
assert select.select([ends], [], [], 10)[0], "no result from a forked child after 10 s"
assert os.read(ends, 5) == b"right"
os.wait()
other.join()
assert is_right()
"""
    python(INTERRUPTIONS + script)


@pytest.mark.skipif(engines.engine_name() != "parked", reason="this system has no parked threads")
def test_workers_are_back_after_exceptions_while_the_process_forks():
    """If not at once, then in the next call."""
    script = """
faults.learn()
faults.verify()
for number in interrupted_at_each_moment(lambda: faults.in_fork(lambda: sys.setprofile(None))):
    faults.verify(faults.LARGE[:1])
    assert faults.tasks().count("numbanorm") == 2, f"calls are serial after an exception at moment {number} of a fork"
"""
    python(INTERRUPTIONS + script)


def test_running_statistics_are_updated_together_or_not_at_all():
    """Each update takes both nearer to the batch's by one factor, so what is left of both stays the same."""
    script = """
def update():
    running_mean[:], running_var[:] = batch_mean - 1, batch_var - 1
    numbanorm.batch_norm_forward(x, running_mean=running_mean, running_var=running_var, momentum=0.5)

def assert_whole():
    left_of_mean, left_of_var = batch_mean - running_mean, batch_var - running_var
    message = f"one of running_mean and running_var alone was updated, in {running_mean.dtype}"
    np.testing.assert_allclose(left_of_mean, left_of_var, rtol=0, atol=1e-5, err_msg=message)

x = values((20, 30), offset=3)
expected = reference.batch_norm_forward(x, None, None, 1)
batch_mean, batch_var = expected.mean.ravel(), expected.var.ravel() * 20 / 19
ways = (lambda: np.empty(30), lambda: np.empty(30, ">f8"), lambda: np.empty((30, 2))[:, 0])
for running_mean, running_var in [(way(), other()) for way in ways for other in ways]:
    update()
    for _ in interrupted_at_each_moment(update):
        assert_whole()
    np.testing.assert_allclose(batch_mean - running_mean, 0.5, atol=1e-5)
"""
    python(INTERRUPTIONS + script)


def test_a_layer_counts_the_batches_that_moved_its_statistics():
    script = """
def update():
    count[...] = 0
    mean[:] = 0
    layer(x)

x = values((20, 30), offset=3)
for dtype in ("<f8", ">f8"):
    layer = numbanorm.BatchNorm(30)
    layer.running_mean = layer.running_mean.astype(dtype)
    count, mean = layer.num_batches_tracked, layer.running_mean
    update()
    for _ in interrupted_at_each_moment(update):
        assert (count > 0) == bool(mean.any())
    assert count == 1
"""
    python(INTERRUPTIONS + script)


def test_gradients_are_added_together_with_their_passs_end():
    """Or not at all; then the pass waits still."""
    script = """
def step():
    for gradient in gradients:
        gradient[:] = 0
    handles[:] = layer.forward_saved(x)[1:]
    try:
        layer.backward(x, *handles)
    finally:
        added.append(all(gradient.any() for gradient in gradients))
        assert added[-1] == any(gradient.any() for gradient in gradients)

x, handles, added = values((20, 30), offset=3), [], []
layer = numbanorm.LayerNorm(30)
gradients = [*layer.grads.data.values()]
step()
for _ in interrupted_at_each_moment(step):
    if added[-1]:
        try:
            layer.backward(x, *handles)
            raise AssertionError("a second time")
        except RuntimeError:
            pass
assert {*added} == {True, False}
"""
    python(INTERRUPTIONS + script)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_signal_handler_calls(engine):
    """At each moment of a call that starts threads, and of one that ends them."""
    script = """
def change_the_number_of_threads():
    numbanorm.set_num_threads(random.choice((1, 2, 3)))
    numbanorm.layer_norm(x)

def called_at_each_moment(call):
    def handle(frame, event, _):
        nonlocal left
        if event in ("call", "c_return") and "/numbanorm/" in frame.f_code.co_filename:
            left -= 1
            if left == -1:
                sys.setprofile(None)
                change_the_number_of_threads()

    number, left = 0, -1
    while left < 0:
        left = number
        sys.setprofile(handle)
        call()
        sys.setprofile(None)
        yield number
        number += 1

faults.learn()
x = values(faults.LARGE[1])
for number in called_at_each_moment(change_the_number_of_threads):
    if number % 10 == 0:
        faults.verify(faults.LARGE[:1])
for number in called_at_each_moment(lambda: faults.in_fork(lambda: sys.setprofile(None))):
    faults.verify(faults.LARGE[:1])
assert number > 3
"""
    python(INTERRUPTIONS + script, NUMBANORM_ENGINE=engine)


@pytest.mark.parametrize("shape", [(100, 256), (512, 256)], ids=["small results", "recycled results"])
def test_exceptions_of_a_signal_handler_arrive(shape):
    """Each of them, and nothing else is said."""
    script = f"""
sys.unraisablehook = sys.__unraisablehook__
x = values({shape})
expected = reference.layer_norm_forward(x, None, None, -1)
call = lambda: numbanorm.layer_norm(x)
call()
for _ in range(1000):
    assert interrupted(call, 0.001)
y = call()
assert_normalized(y, expected.y, expected.x_hat)
"""
    python(INTERRUPTIONS + script)


def test_memory_is_recycled_after_exceptions_too():
    """That of a dead result serves the next one."""
    script = """
from tests.test_memory import lent

def block():
    y = numbanorm.layer_norm(x)
    assert_normalized(y, expected.y, expected.x_hat)
    return lent(y)

x = values(faults.LARGE[1])
expected = reference.layer_norm_forward(x, None, None, -1)
block()
for number in interrupted_at_each_moment(lambda: numbanorm.layer_norm(x)):
    assert block() == block(), f"no memory is recycled any more after an exception at moment {number} of a call"
"""
    python(INTERRUPTIONS + script)
