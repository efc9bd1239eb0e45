"""Rows on parameters and gradients."""

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm
from tests.beside_torch.both import (
    DY,
    X,
    assert_close,
    assert_same,
    assert_same_gradients,
    assert_same_state,
    run_ours,
    run_theirs,
    set_parameters,
)
from tests.beside_torch.table import topic

row = topic("Parameters and gradients")


@row("parameters", "`m.parameters()`, `m.named_parameters()`", "`layer.parameters()`, `layer.named_parameters()`")
def named_parameters(torch):
    for module, layer in ((torch.nn.LayerNorm((3, 5)), LayerNorm((3, 5))), (torch.nn.BatchNorm1d(3), BatchNorm(3))):
        set_parameters(module, layer)
        named = dict(module.named_parameters())
        assert [name for name, _ in layer.named_parameters()] == [*named]
        for (name, parameter), also in zip(layer.named_parameters(), layer.parameters(), strict=True):
            assert parameter is also is getattr(layer, name)
            assert_close(parameter, named[name])


@row(
    "gradients, `grad` and `grads`",
    "`p.grad`, None at first",
    "`layer.grads[name]`, zeros at first; `for name, p, g in layer.named_gradients()`",
    "the same numbers; the same arrays from step to step",
)
def named_gradients(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    assert module.weight.grad is None
    assert not layer.grads["weight"].any()
    assert_same(torch, module, layer)
    for name, parameter, gradient in layer.named_gradients():
        assert parameter is getattr(layer, name)
        assert gradient is layer.grads[name]
        assert_close(gradient, getattr(module, name).grad)


@row("gradients of several passes", "add up", "add up")
def gradients_add_up(torch):
    for module, layer in ((torch.nn.LayerNorm(5), LayerNorm(5)), (torch.nn.BatchNorm1d(3), BatchNorm(3))):
        assert_same(torch, module, layer)
        once = layer.grads["bias"].copy()
        assert_same(torch, module, layer)
        np.testing.assert_array_equal(layer.grads["bias"], 2 * once)


@row(
    "`zero_grad()`",
    "`p.grad` is None again",
    "gradients are zero, in the same memory",
    "an optimiser can hold the arrays",
)
def zero_grad(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    held = layer.grads["weight"]
    assert_same(torch, module, layer)
    assert held.any()
    module.zero_grad()
    layer.zero_grad()
    assert module.weight.grad is None
    assert layer.grads["weight"] is held
    assert not held.any()
    assert_same(torch, module, layer)


@row(
    "`zero_grad()` forgotten after an update",
    "gradients of the old parameters stay in the sum",
    "`backward` raises RuntimeError",
    "an error",
)
def zero_grad_forgotten(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    assert_same(torch, module, layer)
    old = module.bias.grad.clone()
    with torch.no_grad():
        module.weight -= module.weight.grad
    layer.weight[...] -= layer.grads["weight"]
    run_theirs(torch, module)
    assert torch.equal(module.bias.grad, 2 * old)
    layer(X)
    with pytest.raises(RuntimeError, match="call zero_grad"):
        layer.backward(DY)
    assert_close(layer.grads["bias"], old)


@row(
    "an update",
    "`for p in m.parameters(): p -= 0.1 * p.grad`, under `torch.no_grad()`",
    "`for name, p, g in layer.named_gradients(): p -= 0.1 * g`",
    "no optimiser of its own; the same numbers",
)
def update(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    for _ in range(3):
        run_theirs(torch, module)
        run_ours(layer)
        assert_same_gradients(module, layer)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.1 * parameter.grad
        module.zero_grad()
        for _, parameter, gradient in layer.named_gradients():
            parameter -= 0.1 * gradient
        layer.zero_grad()
    assert_same_state(module, layer)


@row(
    "put another parameter in place",
    "`m.weight = nn.Parameter(t)`, of any shape",
    "`layer.weight = a`",
    "the array itself, so that it can be shared; of the same shape and dtype, or an error",
)
def assignment(torch):
    module, layer = torch.nn.LayerNorm(5), LayerNorm(5)
    module.weight = torch.nn.Parameter(torch.ones(4))
    assert module.weight.shape == (4,)
    with pytest.raises(ValueError, match=r"weight: shape \(4,\), must be \(5,\)"):
        layer.weight = np.ones(4, np.float32)
    given = np.arange(5, dtype=np.float32)
    module.weight, layer.weight = torch.nn.Parameter(torch.from_numpy(given.copy())), given
    assert layer.weight is given
    assert_close(layer(X), module(torch.from_numpy(X)))


@row(
    "tied parameters",
    "`b.weight = a.weight`: one gradient, the sum of both",
    '`b.weight = a.weight`; `b.grads["weight"] = a.grads["weight"]` for one sum, too',
    "each layer has gradients of its own unless these are shared",
)
def tied(torch):
    first, second, a, b = torch.nn.LayerNorm(5), torch.nn.LayerNorm(5), LayerNorm(5), LayerNorm(5)
    first.weight, a.weight = second.weight, b.weight
    run_theirs(torch, second, run_theirs(torch, first)[0].detach().numpy())
    run_ours(b, run_ours(a)[0])
    assert_close(a.grads["weight"] + b.grads["weight"], first.weight.grad)
    for layer in (a, b):
        layer.zero_grad()
    b.grads["weight"] = a.grads["weight"]
    run_ours(b, run_ours(a)[0])
    assert b.grads["weight"] is a.grads["weight"]
    assert_close(a.grads["weight"], first.weight.grad)
