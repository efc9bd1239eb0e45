"""A batch in parts: how often reductions are called, what is refused by its name, what waits and what stays."""

import copy
import itertools

import numpy as np
import pytest

from numbanorm import BatchNorm, Moments, no_grad
from numbanorm.batchnorm_halves import GradientSums
from tests import reference
from tests.cases import assert_gradients, assert_normalized, values
from tests.test_layers import gradients, set_parameters

C = 3


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
        ("channel_axis", "last", TypeError, "channel_axis: 'last', must be an int"),
        ("training", "no", TypeError, "training: 'no', must be True or False"),
        ("skip_nonfinite", 1, TypeError, "skip_nonfinite: 1, must be True or False"),
    ],
)
def test_attributes_that_are_set_later_are_checked(name, value, error, message):
    layer = BatchNorm(C)
    before = getattr(layer, name)
    with pytest.raises(error, match=message):
        setattr(layer, name, value)
    assert getattr(layer, name) is before


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
    dx = np.concatenate(layer.backward(tuple(xs), saved))
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
