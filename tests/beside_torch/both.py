"""A module of PyTorch and a layer, given the same parameters, arrays and gradients."""

import numpy as np

from tests.cases import values

X, DY = values((6, 3, 5)), values((6, 3, 5), seed=2)  # channels on axis 1; or rows of 5

# Both sides work in float32 here, on values of size 1 and sums of 30 of them: some units in the last place of those.
TOLERANCE = {"rtol": 5e-6, "atol": 5e-6}


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs.detach().numpy(), **TOLERANCE)


def assert_same_state(module, layer):
    theirs, ours = module.state_dict(), layer.state_dict()
    assert [*ours] == [*theirs]
    for key, value in ours.items():
        assert_close(value, theirs[key])


def set_parameters(module, layer):
    for seed, (name, parameter) in enumerate(layer.named_parameters()):
        parameter[...] = values(parameter.shape, parameter.dtype.type, seed=10 + seed)
        getattr(module, name).data.copy_(getattr(module, name).new_tensor(parameter))


def run_theirs(torch, module, x=X, dy=DY):
    """y and dx."""
    x = torch.tensor(x, requires_grad=True)
    y = module(x)
    y.backward(torch.tensor(dy))
    return y, x.grad


def run_ours(layer, x=X, dy=DY):
    """y and dx."""
    y = layer(x)
    return y, layer.backward(dy)


def assert_same(torch, module, layer, x=X, dy=DY):
    """y, dx, the gradients with respect to all parameters, and the state afterwards."""
    set_parameters(module, layer)
    for ours, theirs in zip(run_ours(layer, x, dy), run_theirs(torch, module, x, dy), strict=True):
        assert_close(ours, theirs)
    assert_same_gradients(module, layer)
    assert_same_state(module, layer)


def assert_same_gradients(module, layer):
    named = dict(module.named_parameters())
    assert [*layer.grads] == [*named]
    for name, gradient in layer.grads.items():
        assert_close(gradient, named[name].grad)


def flat(a):
    """As rows of channels: (6, 3, 5) as (30, 3)."""
    return np.moveaxis(a, 1, -1).reshape(-1, a.shape[1])
