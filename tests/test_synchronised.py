"""A batch in parts, of several processes, of threads or of one process: what the whole batch gives in one.

The oracle is the reference on the whole batch.
"""

import threading
from typing import NamedTuple

import numpy as np
import pytest

from numbanorm import BatchNorm, Moments
from numbanorm.batchnorm_halves import GradientSums
from tests import reference
from tests.calls import assert_updated
from tests.cases import assert_gradients, assert_normalized, values
from tests.processes import in_processes
from tests.test_layers import set_parameters

forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

C = 3
ROWS = 5, 0, 1, 8  # of each part


class Case(NamedTuple):
    shape: tuple  # of one row, without channels
    channel_axis: int = 1
    masked: bool = False
    offset: float = 0.0
    dtype: type = np.float32
    options: dict = {}  # noqa: RUF012  # never written

    def layer(self, **more):
        layer = BatchNorm(C, channel_axis=self.channel_axis, dtype=self.dtype, **self.options, **more)
        set_parameters(layer)
        return layer

    def batch(self, seed):
        """x, dy and mask of all parts."""
        shape = [sum(ROWS), *self.shape]
        mask = np.random.default_rng(seed).random(shape) < 0.7 if self.masked else None
        shape.insert(self.channel_axis % (len(shape) + 1), C)
        x, dy = values(shape, self.dtype, self.offset, seed), values(shape, self.dtype, seed=100 + seed)
        if mask is not None:
            np.moveaxis(x, self.channel_axis, -1)[~mask] = np.nan  # counts for nothing
        return x, dy, mask


CASES = {
    "channels first": Case((7,)),
    "channels last": Case((7,), -1),
    "no other axes": Case((), options={"momentum": None}),
    "masked": Case((7,), masked=True),
    "masked, last, far from zero": Case((7,), -1, True, 1e4, options={"momentum": None}),
    "far from zero": Case((4, 5), offset=1e4, options={"bias": False}),
    "not affine": Case((7,), options={"affine": False}),
    "not tracked": Case((7,), -1, options={"track_running_stats": False}),
    "float64": Case((7,), dtype=np.float64),
    "float64, far from zero": Case((4, 5), offset=1e4, dtype=np.float64),
    "float64, very far from zero": Case((7,), -1, True, 1e6, np.float64, {"affine": False}),
    "float64, masked": Case((7,), -1, True, dtype=np.float64, options={"momentum": None, "affine": False}),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
STEPS = 2


def parted(a):
    """The parts of an array, or of None."""
    return [None] * len(ROWS) if a is None else np.split(a, np.cumsum(ROWS[:-1]))


class Trained(NamedTuple):
    ys: list
    dxs: list
    grads: list
    state: dict


def train(layer, steps):
    """Of each step x, dy and mask, or lists of those of the parts."""
    ys, dxs, grads = [], [], []
    for x, dy, mask in steps:
        if isinstance(x, list):
            y, saved = layer.forward_parts(x, mask)
            dx = layer.backward(dy, saved)
        else:
            y = layer(x, mask)
            dx = layer.backward(dy)
        ys.append(y)
        dxs.append(dx)
        grads.append({name: a.copy() for name, a in layer.grads.items()})
        layer.zero_grad()
    return Trained(ys, dxs, grads, layer.state_dict())


def assert_as_whole(case, steps, parts):
    """What the parts gave, against the reference of the whole: y and dx side by side, gradients added up."""
    layer = case.layer()
    running = [] if layer.running_mean is None else [layer.running_mean, layer.running_var]
    for i, (x, dy, mask) in enumerate(steps):
        axis, weight = case.channel_axis, layer.weight
        expected = reference.batch_norm_forward(x, weight, layer.bias, axis, mask=mask)
        y, dx = (np.concatenate([part[i] for part in of_all]) for of_all in zip(*(p[:2] for p in parts), strict=True))
        assert_normalized(y, expected.y, expected.x_hat, reference._per_channel(weight, axis, x.ndim, 1))
        gradient = reference.batch_norm_backward(dy, x, weight, axis, mask=mask)
        sums = {f"d{name}": sum(part.grads[i][name] for part in parts) for name in layer.grads}
        assert_gradients(gradient._replace(dx=dx, **sums), gradient)
        count, share = x.size // C if mask is None else mask.sum(), layer.momentum or 1 / (i + 1)
        batch = expected.mean.ravel(), expected.var.ravel() * count / (count - 1)
        before, running = running, [(1 - share) * a + share * b for a, b in zip(running, batch, strict=False)]
    for part in parts if running else ():
        found = [part.state["running_mean"], part.state["running_var"]]
        assert_updated(found, before, share, expected, x, mask)
        assert part.state["num_batches_tracked"] == len(steps)


def steps_of(case):
    """The whole batches, and what each part has of them."""
    steps = [case.batch(seed) for seed in range(STEPS)]
    return steps, list(zip(*(zip(*map(parted, step), strict=True) for step in steps), strict=True))


@forks
@each_case
def test_processes_give_what_the_whole_batch_gives(case):
    """Also where one has no row, and another has one value to a channel."""

    def work(all_reduce, part):
        calls = []
        layer = case.layer(all_reduce=lambda value: (calls.append(type(value)), all_reduce(value))[1])
        result = train(layer, part)
        assert calls == [Moments, GradientSums] * STEPS
        return result

    steps, parts = steps_of(case)
    train(case.layer(), [[*map(parted, step)] for step in steps])  # loads the kernels, once for all children
    assert_as_whole(case, steps, in_processes(work, parts))


@each_case
def test_micro_batches_give_what_the_whole_batch_gives(case):
    steps, _ = steps_of(case)
    found = train(case.layer(), [[*map(parted, step)] for step in steps])
    ys, dxs = ([np.concatenate(of_parts) for of_parts in each] for each in found[:2])
    assert_as_whole(case, steps, [found._replace(ys=ys, dxs=dxs)])


@forks
def test_micro_batches_in_processes():
    case = CASES["masked, last, far from zero"]
    steps, _ = steps_of(case)
    halves = [[[half[part] for half in map(parted, step)] for step in steps] for part in (slice(0, 3), slice(3, 4))]
    found = in_processes(lambda all_reduce, half: train(case.layer(all_reduce=all_reduce), half), halves)
    joined = [
        part._replace(ys=[np.concatenate(ys) for ys in part.ys], dxs=[np.concatenate(dxs) for dxs in part.dxs])
        for part in found
    ]
    assert_as_whole(case, steps, joined)


def test_threads_give_what_the_whole_batch_gives():
    """A layer to each thread, and a barrier between them."""
    case = CASES["channels first"]
    steps, parts = steps_of(case)
    given, results, barrier = [None] * len(parts), [None] * len(parts), threading.Barrier(len(parts), timeout=60)

    def work(i):
        def all_reduce(value):
            given[i] = value
            barrier.wait()
            total = sum(given)
            barrier.wait()
            return total

        results[i] = train(case.layer(all_reduce=all_reduce), parts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_as_whole(case, steps, results)


@forks
def test_processes_calibrate_on_the_values_of_all():
    x = values((30, C), offset=1e4)
    parts = [np.split(x[:10], 2), [x[10:]]]
    layers = in_processes(
        lambda all_reduce, batches: BatchNorm(C, all_reduce=all_reduce).calibrate(batches).state_dict(), parts
    )
    for state in layers:
        np.testing.assert_allclose(state["running_mean"], x.astype(np.float64).mean(0), rtol=1e-15)
        np.testing.assert_allclose(state["running_var"], x.astype(np.float64).var(0, ddof=1), rtol=1e-11)
        assert state["num_batches_tracked"] == 3
