"""Results in recycled memory: never while anything refers to it, never more than allowed, from any thread."""

import gc
import os
import threading
import weakref

import numpy as np
import pytest

import numbanorm
from numbanorm import _memory
from tests import reference
from tests.cases import assert_gradients, assert_normalized, values

SHAPE = (700, 768)  # large enough to be recycled
FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_waits():
    """Before and after each test."""
    before = numbanorm.recycle_memory(0)
    numbanorm.recycle_memory(before)
    yield
    numbanorm.recycle_memory(0)
    numbanorm.recycle_memory(before)


def address(a):
    return a.__array_interface__["data"][0]


def lent(y):
    """Which memory a result has. Where in it the result begins depends on x."""
    return y.base.memory.address


def test_the_memory_of_a_dead_result_is_used_again():
    x = values(SHAPE)
    first = lent(numbanorm.layer_norm(x))
    assert lent(numbanorm.layer_norm(x)) == first


@pytest.mark.parametrize(
    "view",
    [
        lambda y: y[3:5],
        lambda y: y.T,
        lambda y: y.view(np.uint8).reshape(-1)[7:],
        memoryview,
        np.from_dlpack,
        lambda y: np.asarray(memoryview(y))[1],
        lambda y: y.flat,
        iter,
    ],
)
def test_no_memory_is_used_again_while_a_view_is_alive(view):
    y = numbanorm.layer_norm(values(SHAPE))
    memory, loan = lent(y), weakref.ref(y.base)
    kept = view(y)
    del y
    gc.collect()
    others = [numbanorm.layer_norm(values(SHAPE, seed=k)) for k in range(1, 4)]
    assert memory not in [lent(other) for other in others]
    assert loan() is not None
    del kept
    gc.collect()
    assert loan() is None
    assert lent(numbanorm.layer_norm(values(SHAPE))) == memory


def test_results_of_every_operation_are_right_in_recycled_memory():
    """Whatever the memory held before."""
    for seed in range(4):
        x, dy = values(SHAPE, seed=seed), values(SHAPE, seed=seed + 9)
        y, mean, rstd = numbanorm.layer_norm_forward(x)
        expected = reference.layer_norm_forward(x, None, None, -1)
        assert_normalized(y, expected.y, expected.x_hat)
        y[...] = np.nan
        del y
        gradients = numbanorm.layer_norm_backward(dy, x, mean, rstd)
        assert_gradients(gradients, reference.layer_norm_backward(dy, x, None, -1))
        gradients.dx[...] = np.nan


def test_no_more_waits_than_the_limit_allows():
    limit = 5 << 20
    numbanorm.recycle_memory(limit)
    results = [_memory.empty((n, 100000), FLOAT32, np.empty(0)) for n in range(1, 8)]
    assert _memory._pool.held == 0
    while results:
        results.pop()
        assert _memory._pool.held <= limit
        waiting = sum(a.nbytes for memories in _memory._pool.waiting.values() for a in memories)
        assert waiting == _memory._pool.held > 0


def test_it_can_be_switched_off():
    x = values(SHAPE)
    numbanorm.layer_norm(x)
    assert _memory._pool.held >= x.nbytes
    numbanorm.recycle_memory(0)
    assert _memory._pool.held == 0
    numbanorm.layer_norm(x)
    assert _memory._pool.held == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1, 5, 500])
def test_large_results_lie_well(dtype, shift):
    """They begin a cache line, about half a page from x, modulo pages."""
    x = np.empty(10**6, dtype)[shift : shift + 500000].reshape(500, 1000)
    y = _memory.empty(x.shape, x.dtype, x)
    assert address(y) % 64 == 0
    assert abs((address(y) - address(x)) % 4096 - 2048) <= 64
    assert y.flags.carray
    y.fill(0)


def test_threads_do_not_share_memory():
    """Each finds in its results what it put there, though all take and give back at once."""
    wrong = []

    def work(number):
        for _ in range(300):
            y = _memory.empty((40, 1000), FLOAT32, np.empty(0))
            y.fill(number)
            z = y[3:]
            del y
            other = _memory.empty((40, 1000), FLOAT32, np.empty(0))
            other.fill(-1)
            if not (z == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("step", ["get", "pop"])
def test_memory_may_come_back_within_the_pool(step, monkeypatch):
    """As when garbage is collected there, between any two steps."""
    dead = [numbanorm.layer_norm(values(SHAPE)) for _ in range(3)]

    class Waiting(dict):
        def get(self, *args):
            return self.step("get", *args)

        def pop(self, *args):
            return self.step("pop", *args)

        def step(self, name, *args):
            if name == step and dead:
                dead.pop()
            return getattr(super(), name)(*args)

    monkeypatch.setattr(_memory._pool, "waiting", Waiting())
    monkeypatch.setattr(_memory._pool, "held", 0)
    expected = reference.layer_norm_forward(values(SHAPE), None, None, -1)
    for _ in range(5):
        assert_normalized(numbanorm.layer_norm(values(SHAPE)), expected.y, expected.x_hat)
    assert not dead
    numbanorm.recycle_memory(numbanorm.recycle_memory(0))
    assert _memory._pool.held == 0
    assert not _memory._pool.waiting


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own():
    """Parent and child may both use what waited."""
    held = _memory.empty(SHAPE, FLOAT32, np.empty(0))
    del held
    child = os.fork()
    if child == 0:
        y = _memory.empty(SHAPE, FLOAT32, np.empty(0))
        y.fill(1)
        os._exit(0 if (y == 1).all() else 1)
    y = _memory.empty(SHAPE, FLOAT32, np.empty(0))
    y.fill(2)
    assert os.waitpid(child, 0)[1] == 0
    assert (y == 2).all()


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)])
def test_a_wrong_limit_is_refused(limit, error):
    with pytest.raises(error, match="limit: "):
        numbanorm.recycle_memory(limit)
