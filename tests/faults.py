"""What the tests of faults share: scripts in processes of their own, and what these compute and check there."""

import functools
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import numpy as np

import numbanorm
from numbanorm.cpu.engine import engines, threads
from tests import reference
from tests.cases import assert_gradients, assert_normalized, assert_statistics, tolerance, values

ENGINES = sorted({"prange", engines.engine_name()})  # those of this system
LAYERS = ["omp", "tbb", "workqueue"]  # of Numba's, some of which a system may lack
LARGE = [(8, 32, 600), (5000, 64)]  # the functions of `results` share out their work on these
SMALL = [(5, 7), (40, 300)]  # and do it at once on these
RUNNING = 0.5, 2.0  # running mean and variance before

_OWN = ("NUMBANORM_", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER", "OMP_", "GOMP_", "KMP_")
_ABSENT = "absent: "


def python(script, *, limit=60, **environment):
    """Run a script in a process of its own, which must end in so many seconds, well and without a word.

    No limit on threads is in its environment but those given here.
    """
    import pytest  # here: scripts import this file, and importing it takes them as long as their kernels

    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", dedent(script)],
        env=kept | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # Python tells where each thread was
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        _end_with_children(process)
        pytest.fail(f"not at an end after {limit} s:\n{process.communicate()[0]}", pytrace=False)
    finally:
        _end_with_children(process)
    if output.startswith(_ABSENT):
        pytest.skip(output.removeprefix(_ABSENT).strip())
    assert process.returncode == 0, f"exit code {process.returncode}:\n{output}"
    assert not output, output


def _end_with_children(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def libraries():
    """An environment in which Numba finds the TBB that pip installs."""
    before = os.environ.get("LD_LIBRARY_PATH")
    own = str(Path(sys.prefix) / "lib")
    return {"LD_LIBRARY_PATH": f"{own}:{before}" if before else own}


def need_layer(name):
    """In a script: let its test be skipped where Numba has no such threading layer."""
    try:
        __import__("numba.np.ufunc." + {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}[name])
    except ImportError as error:
        print(f"{_ABSENT}Numba's threading layer {name}: {error}")
        sys.exit()


@functools.cache
def arguments(shape):
    """x and dy; weight and bias for layer normalization and for batch normalization."""
    parameters = (values((2, shape[axis]), seed=1) for axis in (-1, 1))
    return values(shape, offset=3), values(shape, seed=2), *parameters


def results(shape):
    """What these functions give, by name; layer normalization is over the last axis, channels are the second.

    The others launch by the same engine. They would only let each of many processes load more kernels.
    """
    x, dy, (weight, bias), channels = arguments(shape)
    found = {"layer_norm": numbanorm.layer_norm(x, weight, bias)}
    y, mean, rstd = numbanorm.layer_norm_forward(x, weight, bias)
    found |= {"y": y, "mean": mean, "rstd": rstd}
    gradients = numbanorm.layer_norm_backward(dy, x, mean, rstd, weight)
    found |= {"dx": gradients.dx, "dweight": gradients.dweight, "dbias": gradients.dbias}
    weight, bias = channels
    running_mean, running_var = (np.full(shape[1], value) for value in RUNNING)
    y, mean, rstd = numbanorm.batch_norm_forward(x, weight, bias, running_mean, running_var)
    found |= {"channel y": y, "channel mean": mean, "channel rstd": rstd}
    found |= {"running_mean": running_mean, "running_var": running_var}
    gradients = numbanorm.batch_norm_backward(dy, x, mean, rstd, weight)
    found |= {"channel dx": gradients.dx, "channel dweight": gradients.dweight, "channel dbias": gradients.dbias}
    return found | {"batch_norm": numbanorm.batch_norm(x, *(np.full(shape[1], v) for v in RUNNING), weight, bias)}


def assert_contract(found, shape):
    """Hold results against the reference."""
    x, dy, (weight, bias), channels = arguments(shape)
    expected = reference.layer_norm_forward(x, weight, bias, -1)
    assert_normalized(found["layer_norm"], expected.y, expected.x_hat, weight)
    assert_normalized(found["y"], expected.y, expected.x_hat, weight)
    assert_statistics(found["mean"], found["rstd"], expected)
    gradients = numbanorm.Gradients(found["dx"], found["dweight"], found["dbias"])
    assert_gradients(gradients, reference.layer_norm_backward(dy, x, weight, -1))

    weight, bias = channels
    along = weight.reshape([-1 if axis == 1 else 1 for axis in range(len(shape))])
    expected = reference.batch_norm_forward(x, weight, bias, 1)
    assert_normalized(found["channel y"], expected.y, expected.x_hat, along)
    assert_statistics(found["channel mean"], found["channel rstd"], expected)
    count = x.size // shape[1]
    for name, before, batch in zip(
        ("running_mean", "running_var"), RUNNING, (expected.mean, expected.var * count / (count - 1)), strict=True
    ):
        after = 0.9 * before + 0.1 * batch.ravel()
        np.testing.assert_allclose(found[name], after, rtol=tolerance(np.float32), err_msg=name)
    gradients = numbanorm.Gradients(found["channel dx"], found["channel dweight"], found["channel dbias"])
    assert_gradients(gradients, reference.batch_norm_backward(dy, x, weight, 1))
    y, x_hat = reference.batch_norm(x, *(np.full(shape[1], value) for value in RUNNING), weight, bias, 1)
    assert_normalized(found["batch_norm"], y, x_hat, along)


_learnt = {}


def learn(count=3):
    """In a script: note what one thread computes, which is held against the reference; then use so many threads.

    Python's own threads take turns often from now on, so that they meet at more moments.
    """
    use_threads(1)
    for shape in LARGE + SMALL:
        _learnt[shape] = results(shape)
        assert_contract(_learnt[shape], shape)
    use_threads(count)
    assert count in (numbanorm.get_num_threads(), None)
    sys.setswitchinterval(1e-5)


def use_threads(count):
    """In a script and its forked children: whatever the machine has. With None as many as the package finds."""
    engines.thread_count = threads.thread_count if count is None else lambda asked: count
    numbanorm.set_num_threads(None)


def verify(shapes=(*LARGE, *SMALL)):
    """Compute all results once more: they must be, to the bit, what one thread got."""
    for shape in shapes:
        for name, found in results(shape).items():
            np.testing.assert_array_equal(found, _learnt[shape][name], f"{name} {shape}")


def start_and_verify():
    """In a process that has not inherited what was learnt: all results are right. How many threads it has of itself."""
    count = numbanorm.get_num_threads()
    learn(None)
    use_threads(3)
    verify()
    use_threads(None)
    return count


def in_fork(function, limit=10):
    """Call a function in a forked child: it must end well in so many seconds, and so must the fork."""
    end = time.monotonic() + limit
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < end:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended, f"no result from a forked child after {limit} s"
    assert status == 0, f"a forked child ended with {os.waitstatus_to_exitcode(status)}"


def tasks():
    """The threads that the system knows of in this process: their names."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
