"""Rows on states and copies."""

import copy
import pickle

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm
from tests.beside_torch.both import X, assert_close, assert_same, assert_same_state, set_parameters
from tests.beside_torch.table import topic
from tests.cases import values

row = topic("States and copies")


def used(torch, batches=3):
    """Both with other parameters and statistics than new ones."""
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    set_parameters(module, layer)
    for seed in range(batches):
        module(torch.from_numpy(values(X.shape, seed=seed)))
        layer(values(X.shape, seed=seed))
    return module, layer


@row(
    "`state_dict()`",
    '`m.state_dict(prefix="norm1.")`: the tensors themselves',
    '`layer.state_dict("norm1.")`: copies',
    "the same keys; a state stays as it was when training goes on",
)
def state_dict(torch):
    module, layer = used(torch)
    theirs, ours = module.state_dict(prefix="norm1."), layer.state_dict("norm1.")
    assert [*ours] == [*theirs]
    for key, value in ours.items():
        assert_close(value, theirs[key])
    mean = ours["norm1.running_mean"].copy()
    module(torch.from_numpy(X))
    layer(X)
    assert theirs["norm1.running_mean"] is not module.running_mean
    assert torch.equal(theirs["norm1.running_mean"], module.running_mean)
    np.testing.assert_array_equal(ours["norm1.running_mean"], mean)


@row("load a state", "`m.load_state_dict(state)`", "`layer.load_state_dict(state)`, of PyTorch's tensors, too")
def load_state_dict(torch):
    module, layer = used(torch)
    fresh_module, fresh_layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    fresh_layer.load_state_dict(module.state_dict())
    fresh_module.load_state_dict({key: torch.from_numpy(value) for key, value in layer.state_dict().items()})
    assert_same_state(fresh_module, fresh_layer)
    assert_same_state(module, fresh_layer)
    assert_same(torch, fresh_module, fresh_layer)


@row(
    "one layer of a network's state",
    "the network loads it",
    '`layer.load_state_dict(state, prefix="norm1.")`',
    "an argument; keys of other layers are left alone",
)
def prefix(torch):
    module, _ = used(torch)
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), module, torch.nn.LayerNorm(3))
    batch, rows = BatchNorm(3), LayerNorm(3)
    assert batch.load_state_dict(net.state_dict(), prefix="1.") == ([], [])
    assert rows.load_state_dict(net.state_dict(), prefix="2.") == ([], [])
    assert_same_state(module, batch)
    assert_same_state(net[2], rows)


@row(
    "other keys",
    "`strict=True`: RuntimeError; `strict=False`: `missing_keys`, `unexpected_keys` are returned",
    "`strict=True`: KeyError; `strict=False`: `missing_keys`, `unexpected_keys` are returned",
    "another error",
)
def strict(torch):
    module, layer = used(torch)
    state = torch.nn.BatchNorm1d(3, track_running_stats=False).state_dict()
    state["scale"] = torch.ones(3)
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict(state)
    with pytest.raises(KeyError, match=r"lacks .*'running_mean'.* and has beside them .*'scale'"):
        layer.load_state_dict(state)
    theirs, ours = (made.load_state_dict(state, strict=False) for made in (module, layer))
    assert [*ours] == [*theirs]
    assert ours.missing_keys == theirs.missing_keys == ["running_mean", "running_var", "num_batches_tracked"]
    assert ours.unexpected_keys == theirs.unexpected_keys == ["scale"]
    assert_same_state(module, layer)


@row(
    "an array of another shape",
    "RuntimeError, with `strict=False`, too; what fits has been loaded",
    "ValueError, with `strict=False`, too; nothing has been loaded",
    "all or nothing",
)
def other_shape(torch):
    module, layer = used(torch)
    before = layer.state_dict()
    state = {**before, "weight": np.full(3, 7, np.float32), "bias": np.zeros(4, np.float32)}
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        module.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=False)
    with pytest.raises(ValueError, match=r"state\['bias'\]: shape \(4,\), must be \(3,\)"):
        layer.load_state_dict(state, strict=False)
    assert (module.weight == 7).all()
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


@row(
    "a state of before PyTorch 0.4.1",
    "loads; `num_batches_tracked` stays as it was",
    "loads; `num_batches_tracked` stays as it was",
)
def old_state(torch):
    source, target = used(torch), used(torch, batches=5)
    state = {key: value for key, value in source[0].state_dict().items() if key != "num_batches_tracked"}
    for made in target:
        assert [*made.load_state_dict(state)] == [[], []]
        assert made.num_batches_tracked == 5
    assert_same_state(*target)
    assert_close(target[1].running_mean, source[0].running_mean)


@row("a state of another dtype", "is converted", "is converted")
def other_dtype(torch):
    state = {key: value.double() for key, value in used(torch)[0].state_dict().items() if value.is_floating_point()}
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3)
    module.load_state_dict(state)
    layer.load_state_dict(state)
    assert_same_state(module, layer)
    assert layer.weight.dtype == np.float32


@row("begin the statistics anew", "`m.reset_running_stats()`", "`layer.reset_running_stats()`")
def reset_running_stats(torch):
    module, layer = used(torch)
    assert layer.running_mean.any()
    module.reset_running_stats()
    layer.reset_running_stats()
    assert_same_state(module, layer)
    assert_same(torch, module.eval(), layer.eval())


@row(
    "set the number of batches",
    "`m.num_batches_tracked.zero_()`; `m.num_batches_tracked = 0`: TypeError",
    "`layer.num_batches_tracked = 0`",
    "the number is written into the array",
)
def set_count(torch):
    module, layer = used(torch)
    held = layer.num_batches_tracked
    with pytest.raises(TypeError, match="cannot assign 'int'"):
        module.num_batches_tracked = 0
    module.num_batches_tracked.zero_()
    layer.num_batches_tracked = 0
    assert layer.num_batches_tracked is held
    module.num_batches_tracked += 1
    layer.num_batches_tracked += 1
    assert_same_state(module, layer)
    assert held == 1


@row(
    "`copy.deepcopy`, `pickle`",
    "parameters and statistics, no gradients",
    "parameters and statistics, no gradients",
)
def copies(torch):
    module, layer = used(torch)
    assert_same(torch, module, layer)
    for duplicate in (copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))):
        theirs, ours = duplicate(module), duplicate(layer)
        assert_same_state(theirs, ours)
        assert theirs.weight.grad is None
        assert not ours.grads["weight"].any()
        assert not np.shares_memory(ours.weight, layer.weight)
        assert_same(torch, theirs, ours)
