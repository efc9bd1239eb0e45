"""Arrays in files that are mapped more than once: what overlaps in a file is refused, as what overlaps in memory is."""

import mmap
import sys
from multiprocessing import shared_memory

import numpy as np
import pytest

import numbanorm
from tests import reference
from tests.cases import assert_normalized, values
from tests.test_checks import CALLS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell where files are mapped")

ROWS, COLS = 9, 4
X = values((ROWS, COLS), offset=3)
BEFORE = 20000  # bytes


@pytest.fixture
def path(tmp_path):
    """Of a file with X behind other content."""
    return written(tmp_path / "x")


def written(path):
    path.write_bytes(bytes(BEFORE) + X.tobytes())
    return path


def by_memmap(path, mode="r+"):
    """From the page that X begins in."""
    return np.memmap(path, np.float32, mode, BEFORE, X.shape)


def by_view(path):
    return np.asarray(by_memmap(path).T).T


def by_buffer(path):
    """From the beginning."""
    with path.open("r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.float32, offset=BEFORE).reshape(X.shape)


WAYS = [by_memmap, by_view, by_buffer]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("other_way", WAYS)
@pytest.mark.parametrize(("begin", "out_begin"), [(0, 1), (1, 0), (0, 5), (5, 0)])
def test_out_by_another_mapping(path, way, other_way, begin, out_begin):
    x, out = way(path)[begin : begin + 4], other_way(path)[out_begin : out_begin + 4]
    expected = reference.layer_norm_forward(x.copy(), None, None, -1)
    if abs(begin - out_begin) < 4:
        with pytest.raises(ValueError, match=r"^out: overlaps x, must have memory of its own, or be x itself"):
            numbanorm.layer_norm(x, out=out)
        np.testing.assert_array_equal(way(path), X)
    else:
        assert numbanorm.layer_norm(x, out=out) is out
        assert_normalized(way(path)[out_begin : out_begin + 4], expected.y, expected.x_hat)


def test_columns_between_each_other(path):
    x, out = by_memmap(path)[:, ::2], by_memmap(path)[:, 1::2]
    expected = reference.layer_norm_forward(x.copy(), None, None, -1)
    numbanorm.layer_norm(x, out=out)
    assert_normalized(by_memmap(path)[:, 1::2], expected.y, expected.x_hat)
    np.testing.assert_array_equal(x, X[:, ::2])


@pytest.mark.parametrize("name", CALLS)
def test_every_function_refuses_it(path, name):
    function, arguments = CALLS[name]
    mapped = by_memmap(path)[:6]
    for key in {"x", "dy"} & {*arguments}:
        with pytest.raises(ValueError, match=f"^out: overlaps {key}, "):
            function(**{**arguments, key: mapped, "out": by_memmap(path)[1:7]})
    np.testing.assert_array_equal(mapped, X[:6])


@pytest.mark.parametrize("name", CALLS)
def test_x_itself_by_another_mapping(path, name):
    """In place, as with `out=x`."""
    function, arguments = CALLS[name]
    arguments = {key: X[:6] if key in ("x", "dy") else value.copy() for key, value in arguments.items()}
    expected = function(**arguments)
    got = function(**{**arguments, "x": by_memmap(path, "r")[:6], "out": by_memmap(path)[:6]})
    for one, other in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one, other)


def test_running_statistics_by_another_mapping(path):
    weight, running_mean = by_memmap(path).reshape(-1)[:COLS], by_memmap(path).reshape(-1)[1 : COLS + 1]
    with pytest.raises(ValueError, match=r"^running_mean: overlaps weight"):
        numbanorm.batch_norm_forward(X, weight, None, running_mean, np.ones(COLS))
    np.testing.assert_array_equal(weight, X[0])


def test_what_is_written_to_a_private_mapping_reaches_no_other(path):
    x, out = by_memmap(path)[:5], by_memmap(path, "c")[1:6]
    expected = reference.layer_norm_forward(X[:5], None, None, -1)
    assert_normalized(numbanorm.layer_norm(x, out=out), expected.y, expected.x_hat)
    np.testing.assert_array_equal(x, X[:5])


def test_another_file_of_that_name(path):
    x = by_memmap(path)[:5]
    path.unlink()
    written(path)
    expected = reference.layer_norm_forward(X[:5], None, None, -1)
    assert_normalized(numbanorm.layer_norm(x, out=by_memmap(path)[1:6]), expected.y, expected.x_hat)
    np.testing.assert_array_equal(x, X[:5])


def test_shared_memory_that_is_opened_twice():
    first = shared_memory.SharedMemory(create=True, size=X.nbytes)
    second = shared_memory.SharedMemory(first.name)
    try:
        arrays = [np.ndarray(X.shape, np.float32, memory.buf) for memory in (first, second)]
        arrays[0][:] = X
        with pytest.raises(ValueError, match=r"^out: overlaps x"):
            numbanorm.layer_norm(arrays[0][:5], out=arrays[1][1:6])
        np.testing.assert_array_equal(arrays[0], X)
        del arrays
    finally:
        second.close()
        first.close()
        first.unlink()


def test_where_the_system_does_not_tell(path, monkeypatch):
    """The files are not held against each other: the README says so."""
    monkeypatch.setattr("numbanorm._call.overlap._MAPS", path / "nowhere")
    x, out = by_memmap(path)[:4], by_memmap(path)[5:]
    expected = reference.layer_norm_forward(x.copy(), None, None, -1)
    assert_normalized(numbanorm.layer_norm(x, out=out), expected.y, expected.x_hat)
