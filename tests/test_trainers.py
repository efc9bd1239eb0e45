"""A transformer and a CNN, written as the README says: their gradients, micro-batches, and what they learn."""

import numpy as np
import pytest

from bench.network import cross_entropy
from numbanorm import LayerNorm, RMSNorm, no_grad
from tests.cases import assert_within, values
from tests.differences import assert_slopes
from tests.trainers import Adam, Cnn, Transformer

FEATURES, POSITIONS = 8, 4
ROUNDING = 1e-14  # two orders of a sum of a few hundred terms, beside the largest gradient


def layer_norm():
    """One whose gradients those of a new layer, ones and zeros, would not do for."""
    norm = LayerNorm(FEATURES, dtype=np.float64)
    norm.weight[:], norm.bias[:] = 1 + values((2, FEATURES), np.float64, seed=4) / 4
    return norm


def own_norms():
    return {name: layer_norm() for name in ("attention", "mlp", "end")}


def rms_norms():
    norms = {name: RMSNorm(FEATURES, dtype=np.float64) for name in ("attention", "mlp", "end")}
    for norm in norms.values():
        norm.weight[:] = 1 + values(FEATURES, np.float64, seed=4) / 4
    return norms


def one_norm_twice():
    norms = own_norms()
    return norms | {"mlp": norms["attention"]}


def tied_norms():
    """Two layers with one weight, one bias, and one gradient of each."""
    norms = own_norms()
    first, second = norms["attention"], norms["mlp"]
    second.weight, second.bias = first.weight, first.bias
    for name in ("weight", "bias"):
        second.grads[name] = first.grads[name]
    return norms


def sequences(count, seed=0):
    """x in which one position of each is marked, and as the target of every position the value that stands there."""
    rng, rows = np.random.default_rng(seed), np.arange(count)
    x, marked = rng.standard_normal((count, POSITIONS, FEATURES)), rng.integers(POSITIONS, size=count)
    x[..., 0] = 0
    x[rows, marked, 0] = 3
    return x, np.broadcast_to(x[rows, marked, 1][:, None, None], (count, POSITIONS, 1))


def stripes(count, seed=0):
    """Images of stripes, lying (label 0) or upright (1), of any phase, contrast and noise, around 5."""
    rng, at = np.random.default_rng(seed), np.arange(8)
    labels = rng.integers(2, size=count)
    wave = np.sin(2 * np.pi * (at / 4 + rng.random((count, 1)))) * rng.uniform(0.5, 2, (count, 1))
    lying = np.repeat(wave[:, None, :, None], 8, axis=3)
    images = np.where(labels[:, None, None, None] == 0, lying, lying.mT)
    return 5 + images + 0.3 * rng.standard_normal(images.shape), labels


def squared_error(scores, targets, count):
    """Of some of `count` targets: their share of the mean, and its gradient."""
    error = scores - targets
    return float((error**2).sum()) / count, 2 * error / count


def mean_entropy(scores, labels):
    """Over all parts, with the gradient of each."""
    loss, gradient = cross_entropy(np.concatenate(scores), np.concatenate(labels))
    return loss, np.split(gradient, np.cumsum([len(part) for part in labels])[:-1])


def transformer_pass(model, x, targets, count):
    """dx; adds to the gradients."""
    scores, saved = model.forward(x)
    return model.backward(squared_error(scores, targets, count)[1], saved)


def cnn_pass(model, parts, labels):
    """dx of each part; adds to the gradients."""
    scores, saved = model.forward(parts)
    return model.backward(mean_entropy(scores, labels)[1], saved)


# --- gradients ---


@pytest.mark.parametrize(
    ("norms", "parameters"), [(own_norms, 6), (rms_norms, 3), (one_norm_twice, 4), (tied_norms, 4)]
)
def test_gradients_of_a_transformer(norms, parameters):
    model, (x, targets) = Transformer(norms()), sequences(6)
    dx = transformer_pass(model, x, targets, targets.size)
    named = model.named_gradients()
    assert len(named) == 7 + parameters  # those of the model itself are seven
    assert_slopes(lambda: squared_error(model.forward(x)[0], targets, targets.size)[0], [*named.values(), (x, dx)])


def test_a_norm_used_twice_is_two_norms_that_share_their_arrays():
    """To the bit: the two gradients are added in the same order."""
    x, targets = sequences(6)
    found = []
    for norms in (one_norm_twice, tied_norms):
        model = Transformer(norms())
        dx = transformer_pass(model, x, targets, targets.size)
        found.append([dx, *(gradient for _, gradient in model.named_gradients().values())])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sizes", [[6], [1, 0, 2, 3]])
def test_gradients_of_a_cnn(sizes):
    """Of a batch as one array, and in parts, of which one is empty."""
    model, (x, labels) = Cnn(), stripes(6)
    for norm in model.norms.values():
        norm.weight[:], norm.bias[:] = 1 + values((2, norm.num_features), np.float64, seed=4) / 4
    splits = np.cumsum(sizes)[:-1]
    parts, labels = np.split(x, splits), np.split(labels, splits)  # views of x
    dx = np.concatenate(cnn_pass(model, parts, labels))
    named = model.named_gradients()
    assert len(named) == 7
    assert_slopes(lambda: mean_entropy(model.forward(parts)[0], labels)[0], [*named.values(), (x, dx)])


# --- micro-batches ---


def assert_same_gradients(model, other):
    largest = max(np.abs(gradient).max() for _, gradient in other.named_gradients().values())
    for name, (_, gradient) in model.named_gradients().items():
        assert_within(gradient, other.named_gradients()[name][1], ROUNDING * largest)


def test_gradients_of_micro_batches_add_up_to_those_of_the_batch():
    x, targets = sequences(8)
    whole, model = Transformer(one_norm_twice()), Transformer(one_norm_twice())
    dx = transformer_pass(whole, x, targets, targets.size)
    parts = [slice(i, i + 2) for i in range(0, 8, 2)]
    dxs = [transformer_pass(model, x[part], targets[part], targets.size) for part in parts]
    assert_same_gradients(model, whole)
    assert_within(np.concatenate(dxs), dx, ROUNDING * np.abs(dx).max())


def test_micro_batches_may_all_go_forward_first():
    """And back in another order."""
    x, targets = sequences(8)
    whole, model = Transformer(one_norm_twice()), Transformer(one_norm_twice())
    transformer_pass(whole, x, targets, targets.size)
    waiting = [(model.forward(x[i : i + 2]), targets[i : i + 2]) for i in range(0, 8, 2)]
    for i in (2, 0, 3, 1):
        (scores, saved), part = waiting[i]
        model.backward(squared_error(scores, part, targets.size)[1], saved)
    assert_same_gradients(model, whole)


def test_parts_of_a_batch_have_its_gradients_and_statistics():
    x, labels = stripes(8)
    whole, model = Cnn(), Cnn()
    (dx,) = cnn_pass(whole, [x], [labels])
    dxs = cnn_pass(model, np.split(x, 4), np.split(labels, 4))
    assert_same_gradients(model, whole)
    assert_within(np.concatenate(dxs), dx, ROUNDING * np.abs(dx).max())
    for name, norm in model.norms.items():
        assert_within(norm.running_mean, whole.norms[name].running_mean, ROUNDING)
        assert_within(norm.running_var, whole.norms[name].running_var, ROUNDING)
        assert norm.num_batches_tracked == 1


# --- learning ---


def test_a_transformer_learns_to_look_elsewhere():
    """A function of a position alone knows the target of one in four, so three quarters of the variance are left."""
    model, batch = Transformer(one_norm_twice()), 64
    adam = Adam(model, rate=0.03)
    for seed in range(200):
        x, targets = sequences(batch, seed)
        model.zero_grad()
        for part in (slice(0, batch // 2), slice(batch // 2, batch)):
            transformer_pass(model, x[part], targets[part], targets.size)
        adam.step()
    x, targets = sequences(512, seed=1000)
    with no_grad():
        loss, _ = squared_error(model.forward(x)[0], targets, targets.size)
    assert loss < 0.25 * targets.var()


def test_a_cnn_learns_to_tell_stripes():
    """A stripe and its negative are equally likely, so a score that is linear in the pixels stays at log(2)."""
    model, batch = Cnn(), 32
    adam = Adam(model, rate=0.03)
    for seed in range(50):
        x, labels = stripes(batch, seed)
        model.zero_grad()
        cnn_pass(model, [x], [labels])
        adam.step()
    with no_grad():  # 50 more batches leave 0.9**50 of the statistics of older parameters: 0.5 %
        for seed in range(50, 100):
            model.forward([stripes(batch, seed)[0]])
        model.train(False)
        x, labels = stripes(256, seed=1000)
        loss, _ = mean_entropy(model.forward([x])[0], [labels])
    assert loss < 0.1 * np.log(2)


# --- a residual in place ---


class Residual:
    """y + norm(y) @ w, in place or not."""

    def __init__(self, in_place, copy):
        self.in_place, self.copy = in_place, copy
        self.norm, self.w = layer_norm(), values((FEATURES, FEATURES), np.float64, seed=5)

    def forward(self, x):
        y = x.copy()
        self.h = self.norm(y, copy=self.copy)
        if self.in_place:
            y += self.h @ self.w
        else:
            y = y + self.h @ self.w
        return y

    def backward(self, dy):
        self.dw = self.h.T @ dy
        return dy + self.norm.backward(dy @ self.w.T)


@pytest.mark.parametrize(("in_place", "copy"), [(False, False), (True, True)])
def test_gradients_of_a_residual(in_place, copy):
    model, x, dy = Residual(in_place, copy), *values((2, 5, FEATURES), np.float64)
    dy /= dy.size  # of the loss (y * dy).sum()
    model.forward(x)
    dx, grads = model.backward(dy), model.norm.grads
    pairs = [(x, dx), (model.w, model.dw), *((p, grads[name]) for name, p in model.norm.named_parameters())]
    assert_slopes(lambda: float((model.forward(x) * dy).sum()), pairs)


def test_a_residual_in_place_is_an_error_in_backward():
    """And adds nothing to the gradients."""
    model, x, dy = Residual(True, False), *values((2, 5, FEATURES), np.float64)
    model.forward(x)
    with pytest.raises(RuntimeError, match=r"^x: changed since the forward pass, .*write y = y \+ \.\.\."):
        model.backward(dy)
    for gradient in model.norm.grads.values():
        np.testing.assert_array_equal(gradient, np.zeros(FEATURES))
