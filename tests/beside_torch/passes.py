"""Rows on backward passes."""

import numpy as np
import pytest

import numbanorm
from numbanorm import BatchNorm, LayerNorm
from tests.beside_torch.both import (
    DY,
    X,
    assert_close,
    assert_same,
    assert_same_gradients,
    run_ours,
    run_theirs,
    set_parameters,
)
from tests.beside_torch.table import topic
from tests.cases import values

row = topic("Backward passes")


def started(torch, module, x=X):
    """A tensor with a gradient to come, and y of it."""
    x = torch.tensor(x, requires_grad=True)
    return x, module(x)


@row("gradient with respect to x", "`y = m(x); y.backward(dy); x.grad`", "`y = layer(x); dx = layer.backward(dy)`")
def backward(torch):
    assert_same(torch, torch.nn.LayerNorm(5), LayerNorm(5))
    assert_same(torch, torch.nn.BatchNorm1d(3), BatchNorm(3))


@row("backward of evaluation", "the running statistics are constants", "the running statistics are constants")
def backward_of_evaluation(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    module(torch.from_numpy(X))
    layer(X)
    assert_same(torch, module.eval(), layer.eval())
    expected = DY * np.reshape(layer.weight / np.sqrt(layer.running_var + 1e-5), (3, 1))
    np.testing.assert_allclose(run_ours(layer)[1], expected, rtol=1e-6)


@row("gradients without a bias", "that with respect to weight, as ever", "that with respect to weight, as ever")
def no_bias(torch):
    module, layer = torch.nn.LayerNorm(5, bias=False), LayerNorm(5, bias=False)
    assert_same(torch, module, layer)
    assert [*layer.grads] == ["weight"]
    assert module.bias is layer.bias is None


@row(
    "backward twice",
    "RuntimeError, but with `retain_graph=True`",
    "RuntimeError",
    "what was kept is used up",
)
def twice(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    _, theirs = started(torch, module)
    theirs.backward(torch.from_numpy(DY))
    with pytest.raises(RuntimeError, match="a second time"):
        theirs.backward(torch.from_numpy(DY))
    run_ours(layer)
    with pytest.raises(RuntimeError, match="no forward pass waits"):
        layer.backward(DY)
    assert_same_gradients(module, layer)


@row(
    "several forward passes, then their backward passes in any order",
    "in the order of the calls to `y.backward(dy)`",
    "`y, saved = layer.forward_saved(x)`, `layer.backward(dy, saved)`",
    "a method; after `layer(x)` the last pass alone has a backward",
)
def several(torch):
    for module, layer in ((torch.nn.LayerNorm(5), LayerNorm(5)), (torch.nn.BatchNorm1d(3), BatchNorm(3))):
        set_parameters(module, layer)
        xs = [values(X.shape, seed=seed) for seed in range(3)]
        theirs = [started(torch, module, x) for x in xs]
        ours = [layer.forward_saved(x) for x in xs]
        for i in (1, 2, 0):
            theirs[i][1].backward(torch.from_numpy(DY))
            assert_close(layer.backward(DY, ours[i][1]), theirs[i][0].grad)
        assert_same_gradients(module, layer)
        layer(xs[0])
        layer(xs[1])
        assert_close(layer.backward(DY), theirs[1][0].grad)
        with pytest.raises(RuntimeError, match="no forward pass waits"):
            layer.backward(DY)


@row(
    "x changed in place before backward",
    "RuntimeError, by a version counter",
    "RuntimeError, by 256 values; by all after `numbanorm.set_debug(True)`",
    "`layer(x, copy=True)` allows it",
)
def x_changed(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    x, dx = torch.tensor(X), run_theirs(torch, module)[1]
    y = module(x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(torch.from_numpy(DY))
    x = X.copy()
    layer(x)
    x += 1
    with pytest.raises(RuntimeError, match="x: changed since the forward pass"):
        layer.backward(DY)
    x = X.copy()
    layer(x, copy=True)
    x += 1
    assert_close(layer.backward(DY), dx)
    assert not one_value_is_noticed(layer)
    before = numbanorm.set_debug(True)
    try:
        assert one_value_is_noticed(layer)
    finally:
        numbanorm.set_debug(before)


def one_value_is_noticed(layer):
    """Of 20480, at a position that is not among the 256."""
    x = values((4096, 5))
    y = layer(x)
    x[1, 0] += 1
    try:
        layer.backward(y)
    except RuntimeError:
        return True
    return False


@row(
    "weight changed in place before backward",
    "RuntimeError",
    "RuntimeError",
    "the same; `layer(x, copy=True)` allows it",
)
def weight_changed(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    dx, (_, y) = run_theirs(torch, module)[1], started(torch, module)
    with torch.no_grad():
        module.weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(torch.from_numpy(DY))
    layer(X)
    layer.weight += 1
    with pytest.raises(RuntimeError, match="weight: changed since the forward pass"):
        layer.backward(DY)
    layer.weight -= 1
    layer(X, copy=True)
    layer.weight += 1
    assert_close(layer.backward(DY), dx)


@row(
    "`train()` or `eval()` between forward and backward",
    "backward belongs to the forward pass",
    "RuntimeError if the mode changes; after `forward_saved` as PyTorch",
    "what `layer(x)` kept is dropped, so that evaluation holds no batch",
)
def mode_changed(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    x, y = started(torch, module)
    module.eval()
    y.backward(torch.from_numpy(DY))
    _, saved = layer.forward_saved(X)
    layer.eval()
    assert_close(layer.backward(DY, saved), x.grad)
    layer.train()(X)
    layer.eval()
    with pytest.raises(RuntimeError, match=r"no forward pass waits: train\(\) or eval\(\) has changed the mode since"):
        layer.backward(DY)


@row("dy of another shape", "RuntimeError", "ValueError", "nothing is written, and the pass still waits")
def other_dy(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    x, y = started(torch, module)
    with pytest.raises(RuntimeError, match="Mismatch in shape"):
        y.backward(torch.ones(6, 3, 4))
    y.backward(torch.from_numpy(DY))
    layer(X)
    with pytest.raises(ValueError, match=r"dy: shape \(6, 3, 4\), must be \(6, 3, 5\)"):
        layer.backward(np.ones((6, 3, 4), np.float32))
    assert_close(layer.backward(DY), x.grad)
    assert_same_gradients(module, layer)


@row("second derivatives", "`torch.autograd.grad(y, x, dy, create_graph=True)`", "none", "first derivatives alone")
def second_derivatives(torch):
    layer, (x, y) = LayerNorm(5), started(torch, torch.nn.LayerNorm(5))
    (dx,) = torch.autograd.grad(y, x, torch.from_numpy(DY), create_graph=True)
    assert_close(run_ours(layer)[1], dx)
    assert torch.autograd.grad(dx.square().sum(), x)[0].abs().max() > 0.1
    layer(X)
    with pytest.raises(TypeError, match="unexpected keyword argument 'create_graph'"):
        layer.backward(DY, create_graph=True)
