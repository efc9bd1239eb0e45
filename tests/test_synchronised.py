"""A batch in parts, of several processes, of threads or of one process: what the whole batch gives in one.

The oracle is the reference on the whole batch.
"""

import copy
import itertools
import threading
from typing import NamedTuple

import numpy as np
import pytest

from numbanorm import BatchNorm, Moments, no_grad
from numbanorm.phases import GradientSums
from tests import reference
from tests.calls import assert_updated
from tests.cases import assert_gradients, assert_normalized, values
from tests.processes import in_processes
from tests.test_layers import gradients, set_parameters

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
    for state, count in zip(layers, (2, 1), strict=True):
        np.testing.assert_allclose(state["running_mean"], x.astype(np.float64).mean(0), rtol=1e-15)
        np.testing.assert_allclose(state["running_var"], x.astype(np.float64).var(0, ddof=1), rtol=1e-11)
        assert state["num_batches_tracked"] == count


def test_a_reduction_is_called_in_training_alone():
    calls = []
    layer = BatchNorm(C, all_reduce=lambda value: (calls.append(type(value)), value)[1])
    x, dy = values((6, C)), values((6, C), seed=1)
    layer(x)
    assert calls == [Moments]
    layer.backward(dy)
    assert calls == [Moments, GradientSums]
    with no_grad():
        layer(x)
    assert calls == [Moments, GradientSums, Moments]
    layer.eval()(x)
    layer.backward(dy)
    assert len(calls) == 3


def test_a_reduction_in_place_leaves_the_gradients_of_the_part():
    def double(value):
        if isinstance(value, Moments):
            return value + value
        for a in value:
            a *= 2
        return value

    x, dy = values((6, C)), values((6, C), seed=1)
    layer = BatchNorm(C, all_reduce=double)
    layer(x)
    expected = reference.batch_norm_backward(dy, x, layer.weight, 1)  # the other process has the same
    assert_gradients(gradients(layer, layer.backward(dy), expected), expected)


BAD_MOMENTS = {
    "NoneType, must return the sum of the Moments": lambda _: None,
    "tuple, must return the sum of the Moments": lambda _: (1, 2),
    "Moments of 5 channels, must be of 3": lambda _: Moments(3, np.zeros(5), 1),
}


@pytest.mark.parametrize("message", BAD_MOMENTS)
def test_a_reduction_of_moments_that_returns_something_else(message):
    layer = BatchNorm(C, all_reduce=BAD_MOMENTS[message])
    before = layer.state_dict()
    with pytest.raises((TypeError, ValueError), match=f"^all_reduce: returned {message}"):
        layer(values((6, C)))
    with pytest.raises(RuntimeError, match="no forward pass"):
        layer.backward(values((6, C)))
    assert_state(layer, before)


@pytest.mark.parametrize("found", [None, 3, (np.zeros(C), np.zeros(C)), Moments(2, np.zeros(C), 1)])
def test_a_reduction_of_gradients_that_returns_something_else(found):
    """The pass still waits."""
    x, dy, answers = values((6, C)), values((6, C), seed=1), [found]
    layer = BatchNorm(C, all_reduce=lambda value: value if isinstance(value, Moments) or not answers else answers.pop())
    layer(x)
    kind = type(found).__qualname__
    with pytest.raises(TypeError, match=f"^all_reduce: returned {kind}, must return the sum of the GradientSums"):
        layer.backward(dy)
    assert_waits(layer, x, dy)


def test_calibrate_with_a_reduction_that_returns_something_else():
    layer = BatchNorm(C, all_reduce=lambda _: None)
    before = layer.state_dict()
    with pytest.raises(TypeError, match=r"^all_reduce: returned NoneType, must return the sum of the Moments"):
        layer.calibrate(values((6, C)))
    assert_state(layer, before)


def test_a_reduction_that_raises_leaves_the_layer_as_it_was():
    """As Ctrl-C does in a process that waits for another."""
    x, dy = values((6, C)), values((6, C), seed=1)
    layer = BatchNorm(C)
    layer(x)
    before = layer.state_dict()
    layer.all_reduce = interrupted
    with pytest.raises(Interrupt):
        layer(2 * x)
    assert_state(layer, before)
    assert_waits(layer, x, dy)  # the pass before

    layer = BatchNorm(C, all_reduce=lambda value: value)
    layer(x)
    before, saved = layer.state_dict(), layer._last
    saved.how["all_reduce"] = interrupted
    with pytest.raises(Interrupt):
        layer.backward(dy, out=dy.copy())
    assert_state(layer, before)
    saved.how["all_reduce"] = layer.all_reduce
    assert_waits(layer, x, dy)


class Interrupt(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def interrupted(_):
    raise Interrupt


def assert_state(layer, before):
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def assert_waits(layer, x, dy):
    """Its pass, and no gradient has come yet."""
    assert not any(gradient.any() for gradient in layer.grads.values())
    expected = reference.batch_norm_backward(dy, x, layer.weight, 1)
    assert_gradients(gradients(layer, layer.backward(dy), expected), expected)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("all_reduce", 3, TypeError, "all_reduce: int, must be callable or None"),
        ("momentum", 2, ValueError, r"momentum: 2, must be in \[0, 1\]"),
        ("eps", -1.0, ValueError, "eps: -1.0, must be finite and not negative"),
    ],
)
def test_attributes_that_are_set_later_are_checked(name, value, error, message):
    layer = BatchNorm(C, all_reduce=interrupted)
    setattr(layer, name, value)
    with pytest.raises(error, match=message):
        layer(values((6, C)))


def test_arguments_are_checked_before_the_reduction():
    layer = BatchNorm(C, all_reduce=interrupted)
    x, mask = values((6, C)), np.ones(6, bool)
    for arguments, message in (
        ({"mask": mask[1:]}, r"mask: shape \(5,\), must be \(6,\)"),
        ({"mask": [True] * 6}, "mask: builtins.list, must be a numpy.ndarray"),
        ({"out": x[1:].copy()}, r"out: shape \(5, 3\), must be \(6, 3\)"),
        ({"out": x[::-1], "copy": True}, "out: overlaps x"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            layer(x, **arguments)
    layer.all_reduce = lambda value: value if isinstance(value, Moments) else interrupted(value)
    layer(x)
    for dy, out, message in (
        (x[1:].copy(), None, r"dy: shape \(5, 3\), must be \(6, 3\)"),
        (x, x[1:].copy(), r"out: shape \(5, 3\), must be \(6, 3\)"),
        (x.copy(), layer.weight[None], "out: shape"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            layer.backward(dy, out=out)


def test_results_of_one_part_go_where_they_shall():
    """Over x itself where a copy is kept, with a mask, and over dy."""
    layer, mask = BatchNorm(C, all_reduce=lambda value: value), np.arange(6) != 2
    x, dy = values((6, C)), values((6, C), seed=1)
    expected, gradient = (
        reference.batch_norm_forward(x, None, None, 1, mask=mask),
        reference.batch_norm_backward(dy, x, None, 1, mask=mask),
    )
    assert layer(x, mask, copy=True, out=x) is x
    assert_normalized(x, expected.y, expected.x_hat)
    assert layer.backward(dy, out=dy) is dy
    assert_gradients(gradients(layer, dy, gradient), gradient)


@pytest.mark.parametrize("all_reduce", [None, lambda value: value])
def test_backward_takes_the_channels_as_forward_did(all_reduce):
    layer, x, dy = BatchNorm(C, all_reduce=all_reduce), values((C, C)), values((C, C), seed=1)
    layer(x)
    layer.channel_axis = 0
    assert_waits(layer, x, dy)


def test_no_values_in_any_part():
    """y and dx of the shape of x, and all else as it was; also where masks leave nothing."""
    layer = BatchNorm(C)
    before = layer.state_dict()
    none, masked = np.zeros((0, C), np.float32), values((4, C))
    for xs, masks in (([none, none], None), ([none, masked], [None, np.zeros(4, bool)])):
        ys, saved = layer.forward_parts(xs, masks)
        for results in (ys, layer.backward([x.copy() for x in xs], saved)):
            for result, x in zip(results, xs, strict=True):
                np.testing.assert_array_equal(result, np.zeros_like(x))
    assert_state(layer, before)
    assert not any(gradient.any() for gradient in layer.grads.values())


@pytest.mark.parametrize("bad", [np.inf, np.nan, 0.0])
def test_what_is_not_finite_stays_in_its_channel(bad):
    """x with neither variance nor eps, or dy with an infinity or a NaN; NumPy does not warn of it."""
    layer, x, dy = BatchNorm(C, eps=0), values((6, C)), values((6, C), seed=1)
    if bad:
        dy[2, 1] = bad
    else:
        x[:, 1] = 3
    ys, saved = layer.forward_parts([x[:2], x[2:]])
    dx, others = np.concatenate(layer.backward([dy[:2], dy[2:]], saved)), [0, 2]
    assert not np.isfinite(dx[:, 1]).any()
    assert np.isfinite(np.concatenate(ys)[:, 1]).all() == (bad != 0)
    assert not np.isfinite(layer.grads["weight"][1])
    expected = reference.batch_norm_backward(dy[:, others], x[:, others], None, 1, eps=0)
    own = {f"d{name}": gradient[others] for name, gradient in layer.grads.items()}
    assert_gradients(expected._replace(dx=dx[:, others], **own), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_values_give_exactly_the_bias(dtype):
    layer, x = BatchNorm(C, dtype=dtype), np.full((7, C), 0.1, dtype)
    set_parameters(layer)
    ys, _ = layer.forward_parts([x[:3], x[3:]])
    np.testing.assert_array_equal(np.concatenate(ys), np.broadcast_to(layer.bias, x.shape))


def test_one_value_in_all_parts_has_no_variance():
    layer, none = BatchNorm(C), np.zeros((0, C), np.float32)
    with pytest.raises(ValueError, match="x: one value per channel in all parts, must be at least two"):
        layer.forward_parts([none, values((1, C))])
    assert layer.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("xs", "masks", "error", "message"),
    [
        ([], None, ValueError, "xs: no parts, must be at least one"),
        (values((2, 6, C)), None, TypeError, "xs: numpy.ndarray, must be a list"),
        (None, None, TypeError, "xs: builtins.NoneType, must be a list"),
        ([values((6, C)), values((6, 4))], None, ValueError, r"xs\[1\]: shape \(6, 4\) has 4 channels"),
        ([values((6, C)), values((6, C), "f8")], None, TypeError, r"xs\[1\]: dtype float64, must be float32"),
        ([values((6, C))], [], ValueError, "masks: 0 of them, must be 1, one for each of xs"),
        ([values((6, C))], np.ones((1, 6), bool), TypeError, "masks: numpy.ndarray, must be a list"),
        ([values((6, C))] * 2, [None, np.ones(5, bool)], ValueError, r"masks\[1\]: shape \(5,\), must be \(6,\)"),
        ([values((6, C))] * 2, [None, [True] * 6], TypeError, r"masks\[1\]: builtins.list, must be a numpy.ndarray"),
        ([values((6, C))] * 2, [None, np.ones(6)], TypeError, r"masks\[1\]: dtype float64, must be bool"),
    ],
)
def test_parts_are_refused_by_their_name(xs, masks, error, message):
    layer = BatchNorm(C, all_reduce=interrupted)
    with pytest.raises(error, match=f"^{message}"):
        layer.forward_parts(xs, masks)


def test_gradients_of_parts_are_refused_by_their_name():
    """Before any of them is used, or anything is written."""
    xs = [values((4, C)), values((4, C), seed=1)]
    layer = BatchNorm(C)
    _, saved = layer.forward_parts(xs)
    for dys, error, message in (
        (xs[:1], ValueError, "dy: 1 of them, must be 2, one for each of xs"),
        ([*xs, xs[0]], ValueError, "dy: 3 of them, must be 2"),
        (np.stack(xs), TypeError, "dy: numpy.ndarray, must be a list"),
        (None, TypeError, "dy: builtins.NoneType, must be a list"),
        ([xs[0], xs[1][1:]], ValueError, r"dy\[1\]: shape \(3, 3\), must be \(4, 3\)"),
        ([xs[0], xs[1].astype("f8")], TypeError, r"dy\[1\]: dtype float64, must be float32"),
        ([xs[0], None], TypeError, r"dy\[1\]: builtins.NoneType, must be a numpy.ndarray"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            layer.backward(dys, saved)
    with pytest.raises(TypeError, match=r"^out: numpy.ndarray, must be None where a batch came in parts"):
        layer.backward(xs, saved, out=np.empty_like(xs[0]))
    assert not layer.grads["bias"].any()
    expected = reference.batch_norm_backward(np.concatenate(xs), np.concatenate(xs), None, 1)
    dx = np.concatenate(layer.backward(iter(xs), saved))
    assert_gradients(gradients(layer, dx, expected), expected)


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
def test_parts_wait_in_any_order(order):
    layer = BatchNorm(C)
    batches = [[values((n, C), seed=10 * i + n) for n in (4, 3)] for i in range(3)]
    waiting = [layer.forward_parts(batch)[1] for batch in batches]
    for i in order:
        x, dys = np.concatenate(batches[i]), batches[(i + 1) % 3]
        layer.zero_grad()
        dx = np.concatenate(layer.backward(dys, waiting[i]))
        expected = reference.batch_norm_backward(np.concatenate(dys), x, None, 1)
        assert_gradients(gradients(layer, dx, expected), expected)
        with pytest.raises(RuntimeError, match="saved: has had its backward pass"):
            layer.backward(dys, waiting[i])


def test_a_part_that_has_changed_is_named():
    layer, xs = BatchNorm(C), [values((4, C)), values((3, C), seed=1)]
    dys, whole = [np.ones_like(x) for x in xs], np.concatenate(xs)
    _, saved = layer.forward_parts(xs)
    _, kept = layer.forward_parts(xs, copy=True)
    xs[1] += 1
    with pytest.raises(RuntimeError, match=r"^x\[1\]: changed since the forward pass"):
        layer.backward(dys, saved)
    expected = reference.batch_norm_backward(np.concatenate(dys), whole, None, 1)
    dx = np.concatenate(layer.backward(dys, kept))
    assert_gradients(gradients(layer, dx, expected), expected)


def test_masks_may_be_used_again():
    layer, x, mask = BatchNorm(C), values((6, C)), np.arange(6) != 1
    _, saved = layer.forward_parts([x], [reused := mask.copy()])
    reused[:] = True
    expected = reference.batch_norm_backward(2 * x, x, None, 1, mask=mask)
    (dx,) = layer.backward([2 * x], saved)
    assert_gradients(gradients(layer, dx, expected), expected)


def test_parts_are_for_training():
    with pytest.raises(RuntimeError, match="forward_parts: in evaluation parts need nothing of each other"):
        BatchNorm(C).eval().forward_parts([values((4, C))])


def test_a_copy_must_be_given_its_reduction_again():
    """While a pass of the layer waits, which stays its own."""
    x, dy = values((6, C)), values((6, C), seed=1)
    layer = BatchNorm(C, all_reduce=lambda value: value)
    layer(x)
    other = copy.deepcopy(layer)
    with pytest.raises(RuntimeError, match=r"all_reduce: not pickled or copied with the layer, must be set again"):
        other(x)
    np.testing.assert_array_equal(other.eval()(x), layer.eval()(x))
    other.train().all_reduce = lambda value: value
    other(x)
    assert_waits(other, x, dy)
