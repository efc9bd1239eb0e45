"""Rows on forward passes in training and in evaluation."""

import warnings

import numpy as np
import pytest

import numbanorm
from numbanorm import BatchNorm, LayerNorm
from tests.beside_torch.both import DY, X, assert_close, assert_same, flat, run_theirs, set_parameters
from tests.beside_torch.table import topic
from tests.cases import values

row = topic("Training and evaluation")


@row("modes", "`m.train()`, `m.eval()`, `m.training`", "`layer.train()`, `layer.eval()`, `layer.training`")
def modes(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    assert module.training is layer.training is True
    assert module.eval() is module
    assert layer.eval() is layer
    assert_same(torch, module, layer)
    assert module.train(True).training is layer.train(True).training is True
    assert_same(torch, module.train(), layer.train())


@row("evaluation", "takes the running statistics", "takes the running statistics")
def evaluation(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    for seed in range(3):
        module(torch.from_numpy(values(X.shape, offset=2, seed=seed)))
        layer(values(X.shape, offset=2, seed=seed))
    assert_same(torch, module.eval(), layer.eval())


@row("variance of the batch", "y: divided by n; `running_var`: by n - 1", "y: divided by n; `running_var`: by n - 1")
def variance(torch):
    module, layer, x = torch.nn.BatchNorm1d(1, momentum=1), BatchNorm(1, momentum=1), np.array([[1], [3]], np.float32)
    for y in (module(torch.from_numpy(x)).detach(), layer(x)):
        np.testing.assert_allclose(np.ravel(y), [-1, 1], rtol=1e-5)  # by eps
    assert module.running_var == layer.running_var == 2


@row("number of batches", "`m.num_batches_tracked`, in training", "`layer.num_batches_tracked`, in training")
def num_batches_tracked(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    for training, expected in ((True, 1), (True, 2), (False, 2), (True, 3)):
        module.train(training)(torch.from_numpy(X))
        layer.train(training)(X)
        assert module.num_batches_tracked == layer.num_batches_tracked == expected
    assert (layer.num_batches_tracked.shape, layer.num_batches_tracked.dtype) == ((), np.int64)


@row("one value per channel, in training", "ValueError", "ValueError")
def one_value(torch):
    module, layer, x = torch.nn.BatchNorm1d(3), BatchNorm(3), np.ones((1, 3), np.float32)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module(torch.from_numpy(x))
    with pytest.raises(ValueError, match="one value per channel, must have at least two"):
        layer(x)
    assert_close(layer.eval()(x), module.eval()(torch.from_numpy(x)))


@row(
    "an empty batch",
    "counts in `num_batches_tracked`, and so in a cumulative average",
    "does not count",
    "it leaves the running statistics as they are, with `momentum=None`, too",
)
def empty_batch(torch):
    module, layer = torch.nn.BatchNorm1d(3, momentum=None), BatchNorm(3, momentum=None)
    for x in (X[:0], X):
        assert module(torch.from_numpy(x)).shape == layer(x).shape == x.shape
    assert (module.num_batches_tracked, layer.num_batches_tracked) == (2, 1)
    mean = flat(X).mean(0, dtype=np.float64)
    np.testing.assert_allclose(module.running_mean, mean / 2, rtol=0, atol=1e-6)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=0, atol=1e-6)


@row(
    "inf or NaN in a batch",
    "y is NaN in its channel, whose running statistics are lost",
    "the same, and a RuntimeWarning that names the channel, once",
    "`skip_nonfinite=True` leaves such batches out",
)
def not_finite(torch):
    module, layer, x = torch.nn.BatchNorm1d(3), BatchNorm(3), X.copy()
    x[0, 1, 0] = np.inf
    with pytest.warns(RuntimeWarning, match=r"x: inf or NaN in the channels \[1\]"):
        y = layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    theirs = module(torch.from_numpy(x)).detach()
    np.testing.assert_array_equal(np.isfinite(y), theirs.isfinite().numpy())
    assert not np.isfinite(y[:, 1]).any()
    assert module.running_var.isfinite().tolist() == np.isfinite(layer.running_var).tolist() == [True, False, True]


@row(
    "padding: `mask`",
    "none; `m(x[mask])`, with the channels last",
    "`layer(x, mask)`",
    "where mask is False, x does not count, y and dx are 0",
)
def mask(torch):
    module, layer, keep = torch.nn.BatchNorm1d(3), BatchNorm(3), np.random.default_rng(0).random((6, 5)) < 0.6
    set_parameters(module, layer)
    kept = keep.ravel()
    theirs = run_theirs(torch, module, flat(X)[kept], flat(DY)[kept])
    ours = layer(X, keep)
    for array, expected in zip((ours, layer.backward(DY)), theirs, strict=True):
        assert_close(flat(array)[kept], expected)
        assert not flat(array)[~kept].any()
    assert_close(layer.grads["weight"], module.weight.grad)
    assert_close(layer.running_var, module.running_var)


@row(
    "memory of the result: `out`",
    "none",
    "`layer(x, out=y)`, `layer.backward(dy, out=dx)`",
    "an option; it may be dy, and x under `no_grad()` or with `copy=True`",
)
def out(torch):
    module, layer, y, dx = torch.nn.LayerNorm(5), LayerNorm(5), np.empty_like(X), np.empty_like(X)
    theirs = run_theirs(torch, module)
    assert layer(X, out=y) is y
    assert layer.backward(DY, out=dx) is dx
    x, dy = X.copy(), DY.copy()
    assert layer(x, out=x, copy=True) is x
    assert layer.backward(dy, out=dy) is dy
    for ours in ((y, dx), (x, dy)):
        for array, expected in zip(ours, theirs, strict=True):
            assert_close(array, expected)


@row("keep nothing for backward", "`with torch.no_grad():`", "`with numbanorm.no_grad():`")
def no_grad(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    with torch.no_grad(), numbanorm.no_grad():
        theirs, ours = module(torch.from_numpy(X)), layer(X)
    assert_close(ours, theirs)
    assert_close(layer.running_var, module.running_var)
    with pytest.raises(RuntimeError, match="does not require grad"):
        theirs.backward(torch.from_numpy(DY))
    with pytest.raises(RuntimeError, match="no forward pass waits"):
        layer.backward(DY)


@row(
    "statistics of a data set",
    "`torch.optim.swa_utils.update_bn(batches, m)`",
    "`layer.calibrate(batches)`",
    "those of all values together; PyTorch's, the mean of the batches' own, with `momentum=None`",
)
def calibrate(torch):
    batches = [values((n, 3, 5), offset=n, seed=n) for n in (4, 9, 2)]
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3, momentum=None)
    torch.optim.swa_utils.update_bn([torch.from_numpy(x) for x in batches], module)
    for x in batches:
        layer(x)
    np.testing.assert_allclose(layer.running_mean, module.running_mean, rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, module.running_var, rtol=1e-5)
    every = flat(np.concatenate(batches)).astype(np.float64)
    layer.calibrate(batches)
    np.testing.assert_allclose(layer.running_mean, every.mean(0), rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, every.var(0, ddof=1), rtol=1e-12)


@row(
    "change `momentum` or `eps` of an existing layer",
    "`m.momentum = 0.5`, `m.eps = 0.1`",
    "`layer.momentum = 0.5`, `layer.eps = 0.1`",
)
def changed(torch):
    for module, layer in ((torch.nn.BatchNorm1d(3), BatchNorm(3)), (torch.nn.LayerNorm(5), LayerNorm(5))):
        for name, value in (("momentum", 0.5), ("eps", 0.1)):
            if hasattr(module, name):
                assert hasattr(layer, name)
                setattr(module, name, value)
                setattr(layer, name, value)
        assert_same(torch, module, layer)


@row(
    "other methods of a Module",
    "`to`, `double`, `apply`, `children`, `requires_grad_`, hooks",
    "none",
    "a layer holds arrays, and calls the functions",
)
def modules(torch):
    names = ["to", "double", "apply", "children", "requires_grad_", "register_forward_hook"]
    assert all(hasattr(torch.nn.LayerNorm(5), name) for name in names)
    assert not any(hasattr(made, name) for made in (LayerNorm(5), BatchNorm(3)) for name in names)
