"""Results in recycled memory: never while anything refers to it, never more than allowed, from any thread."""

import copy
import ctypes
import gc
import os
import pickle
import threading
from itertools import chain

import numpy as np
import pytest

import numbanorm
from numbanorm._call import recycling
from numbanorm.cpu.engine import allocator
from tests import reference
from tests.cases import assert_gradients, assert_normalized, values
from tests.faults import python

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


def word(start, i):
    return ctypes.c_ssize_t.from_address(start + i * ctypes.sizeof(ctypes.c_ssize_t)).value


def lent(y):
    """Which block of memory a result has. Where in it the result begins depends on x."""
    return word(address(y) - allocator.LINE, allocator.BLOCK)


def held():
    """How many bytes wait, as the pool counts them."""
    return recycling._pool().words[allocator.HELD]


def waiting():
    """The blocks that wait, by size."""
    words, found = recycling._pool().words.tolist(), {}
    for i in range(allocator.SIZES):
        size, block = words[allocator.SIZE + i], words[allocator.FIRST + i]
        assert (size == 0) == (block == 0)
        while block:
            found.setdefault(size, []).append(block)
            block = word(block, allocator.NEXT)
    return found


def new(rows):
    """A result's memory."""
    return recycling.empty((rows, 1000), FLOAT32, np.empty(0))


def test_the_memory_of_a_dead_result_is_used_again():
    x = values(SHAPE)
    y = numbanorm.layer_norm(x)
    first = lent(y)
    assert waiting() == {}
    del y
    assert list(waiting().values()) == [[first]]
    y = numbanorm.layer_norm(x)
    assert lent(y) == first
    assert waiting() == {}


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
    memory = lent(y)
    kept = view(y)
    del y
    gc.collect()
    others = [numbanorm.layer_norm(values(SHAPE, seed=k)) for k in range(1, 4)]
    assert memory not in [lent(other) for other in others]
    assert waiting() == {}
    del kept
    gc.collect()
    assert list(waiting().values()) == [[memory]]
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
    """What came back last waits, of as many sizes as fit."""
    limit = 5 << 20
    numbanorm.recycle_memory(limit)
    results = [new(n * 100) for n in range(1, 8)]
    assert held() == 0
    blocks = [lent(y) for y in results]
    while results:
        results.pop()
        found = waiting()
        assert sum(size * len(blocks) for size, blocks in found.items()) == held() <= limit
        assert blocks[len(results)] in [*chain(*found.values())]
    assert len(found) == 4  # of 0.4, 0.8, 1.2, 1.6 MB


def test_more_sizes_than_there_are_places_for():
    """The oldest goes, with all its memory."""
    numbanorm.recycle_memory(1 << 40)
    results = [new(40), *(new(40 + 2 * n) for n in range(allocator.SIZES)), new(1000)]
    blocks = [lent(y) for y in results]
    for i in range(len(results) - 1):
        results[i] = None
    assert {*chain(*waiting().values())} == {*blocks[:-1]}
    results.clear()
    assert {*chain(*waiting().values())} == {*blocks[2:]}
    assert sum(size * len(found) for size, found in waiting().items()) == held()
    assert lent(new(42)) == blocks[2]


def test_it_can_be_switched_off():
    x = values(SHAPE)
    numbanorm.layer_norm(x)
    assert held() >= x.nbytes
    numbanorm.recycle_memory(0)
    assert held() == 0
    numbanorm.layer_norm(x)
    assert held() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [0, 1, 5, 500])
def test_large_results_lie_well(dtype, shift):
    """They begin a cache line, about half a page from x, modulo pages."""
    x = np.empty(10**6, dtype)[shift : shift + 500000].reshape(500, 1000)
    y = recycling.empty(x.shape, x.dtype, x)
    assert address(y) % 64 == 0
    assert abs((address(y) - address(x)) % 4096 - 2048) <= 64
    assert y.flags.carray
    y.fill(0)


def test_threads_do_not_share_memory():
    """Each finds in its results what it put there, though all take and give back at once."""
    wrong = []

    def work(number):
        for _ in range(300):
            y = new(40)
            y.fill(number)
            z = y[3:]
            del y
            other = new(40)
            other.fill(-1)
            if not (z == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own():
    """Parent and child may both use what waited."""
    new(700)
    child = os.fork()
    if child == 0:
        y = new(700)
        y.fill(1)
        os._exit(0 if (y == 1).all() else 1)
    y = new(700)
    y.fill(2)
    assert os.waitpid(child, 0)[1] == 0
    assert (y == 2).all()


@pytest.mark.parametrize(("limit", "error"), [(-1, ValueError), (1.5, TypeError), (None, TypeError), (True, TypeError)])
def test_a_wrong_limit_is_refused(limit, error):
    with pytest.raises(error, match="limit: "):
        numbanorm.recycle_memory(limit)


def result(rows):
    """A small one, or a large one."""
    return numbanorm.layer_norm(values((rows, 256)))


@pytest.mark.parametrize("rows", [100, 500])
class TestAResultIsAnArrayAsNumPyMakesThem:
    def test_it_owns_its_memory(self, rows):
        y = result(rows)
        assert y.base is None
        assert y.flags == np.empty(y.shape, y.dtype).flags

    def test_of_any_layout(self, rows):
        y = numbanorm.batch_norm(np.ones((rows, 16, 16), np.float32).transpose(0, 2, 1), np.ones(16), np.ones(16))
        assert type(y.base) is np.ndarray
        assert y.base.flags.owndata

    def test_it_can_be_made_writable_again(self, rows):
        y = result(rows)
        y.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            y[0] = 1
        y.flags.writeable = True
        y[0] = 1
        assert (y[0] == 1).all()

    @pytest.mark.parametrize("more", [0, 1, 50, 10000, -50])
    def test_it_can_be_resized(self, rows, more):
        y = result(rows)
        expected = np.resize(y.copy(), (rows + more, 256))
        expected[rows:] = 0
        y.resize((rows + more, 256))
        np.testing.assert_array_equal(y, expected)
        y.fill(1)
        del y
        assert_whole_pool()

    @pytest.mark.parametrize(
        "way", [copy.copy, copy.deepcopy, lambda y: pickle.loads(pickle.dumps(y)), lambda y: copy.copy(y[:].base)]
    )
    def test_a_copy_has_memory_of_its_own(self, rows, way):
        y = result(rows)
        expected = y.copy()
        for _ in range(2):
            other = way(y)
            np.testing.assert_array_equal(other, expected)
            other[:] = 7
            del other
            result(rows)[:] = 8
            np.testing.assert_array_equal(y, expected)


def assert_whole_pool():
    """What the pool counts is what waits, each block once."""
    found = waiting()
    blocks = [*chain(*found.values())]
    assert len(blocks) == len({*blocks})
    assert sum(size * len(blocks) for size, blocks in found.items()) == held()


def test_memory_is_given_back_at_the_very_end():
    """Of results that outlive the module that made them."""
    python("""
        import builtins, ctypes, gc, sys, numba
        from tests.test_memory import result

        gc.disable()
        leaked = result(500)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(leaked))
        builtins.kept = numba.kept = sys.modules["kept"] = [result(500) for _ in range(3)]
        kept.append(kept)
        ring = [result(500)]
        ring.append(ring)
    """)
