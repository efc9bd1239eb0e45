"""A batch with an infinity or a NaN in training: who is told, and what becomes of the running statistics."""

import linecache
import warnings

import numpy as np
import pytest

from numbanorm import BatchNorm, no_grad
from tests import reference
from tests.cases import assert_gradients, assert_normalized, assert_within, values
from tests.processes import in_processes
from tests.test_layers import set_parameters

C = 4
CALLS = {
    "layer(x)": lambda layer, x: layer(x),
    "forward": lambda layer, x: layer.forward(x),
    "forward_saved": lambda layer, x: layer.forward_saved(x)[0],
    "forward_parts": lambda layer, x: np.concatenate(layer.forward_parts([x[:2], x[2:]])[0]),
    "no_grad": lambda layer, x: under_no_grad(layer, x),
    "all_reduce": lambda layer, x: with_a_reduction(layer, x),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def under_no_grad(layer, x):
    with no_grad():
        return layer(x)


def with_a_reduction(layer, x):
    layer.all_reduce = lambda value: value
    return layer(x)


def spoiled(bad, channels, seed=0):
    x = values((6, C), seed=seed)
    x[2, channels] = bad
    return x


def told(call, layer, x):
    """What the RuntimeWarnings of a call say."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(layer, x)
    assert all(warning.category is RuntimeWarning for warning in caught)
    return [str(warning.message).replace(f" of {layer!r} at {id(layer):#x}", "") for warning in caught]


def names(channels):
    advice = "skip_nonfinite=True leaves such batches out, reset_running_stats() begins anew"
    text = f"inf or NaN in the channels {channels}, whose running statistics are not finite from now on"
    return [f"x: {text}; {advice}"]


@each_call
def test_each_channel_is_named_once(call):
    layer = BatchNorm(C)
    assert told(call, layer, values((6, C))) == []
    assert told(call, layer, spoiled(np.inf, [1, 3])) == names([1, 3])
    assert told(call, layer, spoiled(np.nan, [3])) == []
    assert told(call, layer, values((6, C))) == []  # which makes nothing finite again
    assert told(call, layer, spoiled(-np.inf, [0, 1])) == names([0])


def test_python_shows_the_warnings_of_several_layers():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for layer in [BatchNorm(C) for _ in range(3)]:
            layer(spoiled(np.nan, 2))
    assert len(caught) == 3


@each_call
def test_a_warning_is_of_the_callers_line(call):
    with pytest.warns(RuntimeWarning, match=r"channels \[2\]") as caught:
        call(BatchNorm(C), spoiled(np.nan, 2))
    assert [warning.filename for warning in caught] == [__file__]
    assert "layer" in linecache.getline(__file__, caught[0].lineno)


def reset(layer, state):
    layer.reset_running_stats()


def calibrate(layer, state):
    layer.calibrate(values((6, C)))


def load(layer, state):
    layer.load_state_dict(state)


def assign(layer, state):
    layer.running_mean, layer.running_var = state["running_mean"], state["running_var"]


@pytest.mark.parametrize("renew", [reset, calibrate, load, assign])
def test_statistics_that_are_set_anew_are_named_again(renew):
    layer = BatchNorm(C)
    state = layer.state_dict()
    assert told(BatchNorm.forward, layer, spoiled(np.nan, [1, 2])) == names([1, 2])
    renew(layer, state)
    assert np.isfinite(layer.running_mean).all()
    assert told(BatchNorm.forward, layer, spoiled(np.nan, [2])) == names([2])


@pytest.mark.parametrize("renew", [load, assign])
@pytest.mark.parametrize("skip", [False, True])
def test_channels_that_were_lost_before_are_not_named(renew, skip):
    """As those of a state that was saved after such a batch: x is finite there."""
    layer = BatchNorm(C, skip_nonfinite=skip)
    renew(layer, layer.state_dict() | {"running_var": np.array([1, 1, np.nan, 1])})
    assert told(BatchNorm.forward, layer, values((6, C))) == []
    assert told(BatchNorm.forward, layer, spoiled(np.nan, 0)) == ([] if skip else names([0]))
    assert np.isfinite(layer.running_var).tolist() == [skip, True, False, True]


@each_call
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_other_channels_are_as_ever(call, bad):
    """The statistics of the channel are lost for ever, as PyTorch's are; y of the others is right, too."""
    layer = BatchNorm(C)
    set_parameters(layer)
    x, good = spoiled(bad, 1), values((6, C), seed=1)
    with pytest.warns(RuntimeWarning, match=r"channels \[1\]"):
        y = call(layer, x)
    call(layer, good)
    assert np.isnan([*y[:, 1], layer.running_mean[1], layer.running_var[1]]).all()
    assert layer.num_batches_tracked == 2
    others = [0, 2, 3]
    first, second = (reference.batch_norm_forward(a[:, others], None, None, 1) for a in (x, good))
    expected = first.x_hat * layer.weight[others] + layer.bias[others]
    assert_normalized(y[:, others], expected, first.x_hat, layer.weight[others])
    # Each statistic of a batch errs by a few 1e-8 of its standard deviation or of itself.
    mean = 0.09 * first.mean.ravel() + 0.1 * second.mean.ravel()
    var = 0.81 + (0.09 * first.var.ravel() + 0.1 * second.var.ravel()) * 6 / 5
    assert_within(layer.running_mean[others], mean, 1e-7)
    assert_within(layer.running_var[others], var, 2e-7)


def test_running_statistics_are_not_finite_where_those_of_pytorch_are_not():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    layer, module = BatchNorm(C), torch.nn.BatchNorm1d(C)
    for x in (values((6, C)), spoiled(np.inf, 1, 1), spoiled(np.nan, 2, 2), values((6, C), seed=3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            layer(x)
        module(torch.from_numpy(x))
    for key, value in layer.state_dict().items():
        other = module.state_dict()[key].numpy()
        np.testing.assert_array_equal(np.isfinite(value), np.isfinite(other))
        finite = np.isfinite(value)
        np.testing.assert_allclose(value[finite], other[finite], rtol=1e-6, atol=1e-6)  # PyTorch's are float32


@each_call
@pytest.mark.parametrize("momentum", [0.1, None])
def test_such_a_batch_can_be_left_out(call, momentum):
    """Bit for bit; the next one counts as if there had been none."""
    layer, other = (BatchNorm(C, momentum=momentum, skip_nonfinite=True) for _ in range(2))
    good, bad = [values((6, C), seed=seed) for seed in (1, 2)], spoiled(np.inf, 1)
    for x in (good[0], bad, good[1], bad):
        assert told(call, layer, x) == []
    for x in good:
        call(other, x)
    assert other.num_batches_tracked == 2
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[key])


def test_gradients_of_a_batch_that_is_left_out():
    """As those of any other: right in the channels that are finite, NaN in the one that is not."""
    layer, x, dy = BatchNorm(C, skip_nonfinite=True), spoiled(np.nan, 1), values((6, C), seed=2)
    layer(x)
    dx = layer.backward(dy)
    others = [0, 2, 3]
    assert np.isnan([*dx[:, 1], layer.grads["weight"][1]]).all()
    expected = reference.batch_norm_backward(dy[:, others], x[:, others], None, 1)
    own = {f"d{name}": gradient[others] for name, gradient in layer.grads.items()}
    assert_gradients(expected._replace(dx=dx[:, others], **own), expected)


@each_call
def test_a_variance_beyond_float64_is_not_finite_either(call):
    x = np.array([[1e200, 1], [-1e200, 2], [3e200, 4]])
    layer, skipping = (BatchNorm(2, dtype=np.float64, skip_nonfinite=skip) for skip in (False, True))
    assert told(call, layer, x) == names([0])
    assert told(call, skipping, x) == []
    np.testing.assert_array_equal(skipping.running_var, [1, 1])


@each_call
def test_a_layer_without_running_statistics_says_nothing(call):
    assert told(call, BatchNorm(C, track_running_stats=False), spoiled(np.nan, 1)) == []


def test_evaluation_says_nothing():
    layer = BatchNorm(C).eval()
    before = layer.state_dict()
    assert told(BatchNorm.forward, layer, spoiled(np.nan, 1)) == []
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_where_the_mask_is_false_nothing_counts():
    layer, x = BatchNorm(C), spoiled(np.nan, 1)
    assert told(lambda layer, x: layer(x, np.arange(6) != 2), layer, x) == []
    assert np.isfinite(layer.running_mean).all()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("skip", [False, True])
def test_all_processes_decide_the_same(skip):
    """Though but one has the NaN, and another has no row."""

    def work(all_reduce, part):
        layer, messages = BatchNorm(C, skip_nonfinite=skip, all_reduce=all_reduce), []
        for x in part:
            messages.append(told(BatchNorm.forward, layer, x))
            layer.backward(np.zeros_like(x))
        return messages, layer.state_dict()

    good, bad = values((9, C)), np.concatenate([spoiled(np.nan, 1), values((3, C))])
    parts = [[good[:6], bad[:6]], [good[6:], bad[6:]], [good[:0], bad[:0]]]
    found = in_processes(work, parts)
    expected = BatchNorm(C)
    expected.forward_parts([good[:6], good[6:]])
    for messages, state in found:
        assert messages == [[], [] if skip else names([1])]
        for key, value in state.items():
            np.testing.assert_array_equal(value, found[0][1][key])
            if skip:
                np.testing.assert_array_equal(value, expected.state_dict()[key])


def test_a_warning_that_is_an_error_comes_after_the_statistics():
    """As under ``python -W error``: the batch has been counted, its y is lost, and no pass waits."""
    layer = BatchNorm(C)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=r"channels \[1\]"):
            layer(spoiled(np.nan, 1))
    assert layer.num_batches_tracked == 1
    with pytest.raises(RuntimeError, match="no forward pass waits"):
        layer.backward(values((6, C)))
