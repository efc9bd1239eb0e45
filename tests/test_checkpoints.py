"""Checkpoints of layers: what is written comes back, what does not fit is refused whole, and no batch goes along."""

import copy
import pickle
import re
from collections.abc import Mapping

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm, RMSNorm
from tests.cases import values

SHAPE = (6, 4, 2, 2)
X = values(SHAPE, offset=1)
STATISTICS = ["running_mean", "running_var", "num_batches_tracked"]

LAYERS = {
    "BatchNorm": lambda: BatchNorm(4),
    "BatchNorm without parameters": lambda: BatchNorm(4, affine=False),
    "BatchNorm without statistics": lambda: BatchNorm(4, track_running_stats=False),
    "BatchNorm with an average": lambda: BatchNorm(4, momentum=None, bias=False),
    "LayerNorm": lambda: LayerNorm((2, 2)),
    "LayerNorm without a bias": lambda: LayerNorm((2, 2), bias=False),
    "RMSNorm": lambda: RMSNorm((2, 2)),
}
of_each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


def used(layer, batches=3):
    """With other parameters and statistics than a new one, gradients, and a batch that waits for its backward pass."""
    for seed, parameter in enumerate(layer.parameters()):
        parameter[...] = values(parameter.shape, parameter.dtype.type, seed=10 + seed)
    for seed in range(batches):
        x = values(SHAPE, offset=1, seed=seed)
        layer.backward(layer(x))
    layer(x)
    return layer


def assert_equal_states(layer, state):
    assert [*layer.state_dict()] == [*state]
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, state[key])


def through_npz(state, path):
    np.savez(path / "layer.npz", **state)
    return np.load(path / "layer.npz")


def through_pickle(state, path):
    return pickle.loads(pickle.dumps(state))


def through_safetensors(state, path):
    files = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed: pip install safetensors")
    files.save_file(state, path / "layer.safetensors")
    return files.load_file(path / "layer.safetensors")


def through_torch(state, path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path / "layer.pt")
    return torch.load(path / "layer.pt", weights_only=True)


@of_each_layer
@pytest.mark.parametrize("through", [through_npz, through_pickle, through_safetensors, through_torch])
def test_a_state_goes_round(through, make, tmp_path):
    layer, other = used(make()), make()
    before = dict(other.named_parameters())
    state = layer.state_dict("norm.")
    assert other.load_state_dict(through(state, tmp_path), prefix="norm.") == ([], [])
    assert_equal_states(other, layer.state_dict())
    np.testing.assert_array_equal(other.eval()(X), layer.eval()(X))
    for name, parameter in before.items():
        assert getattr(other, name) is parameter  # an optimiser's references stay good


@of_each_layer
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_of_a_layer_shares_nothing_and_has_no_gradients(duplicate, make):
    layer = used(make())
    other = duplicate(layer)
    assert_equal_states(other, layer.state_dict())
    assert repr(other) == repr(layer)
    for name, parameter in layer.named_parameters():
        assert not np.shares_memory(parameter, getattr(other, name))
        assert layer.grads[name].any()
        assert not other.grads[name].any()
    with pytest.raises(RuntimeError, match="no forward pass waits: the layer was not called since"):
        other.backward(X)
    before = layer.state_dict()
    for value in other._arrays().values():
        value += 1
    assert_equal_states(layer, before)
    layer.backward(X)  # that of the original still waits


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(LayerNorm(768), (4096, 768)), (RMSNorm(768), (4096, 768)), (BatchNorm(4), (3000, 4, 2, 2))],
    ids=["LayerNorm", "RMSNorm", "BatchNorm"],
)
def test_a_pickle_holds_no_batch(layer, shape):
    """What may be added is a count or a flag, where x would be 12.6 MB, or 192 KB."""
    x = values(shape)
    before = len(pickle.dumps(layer))
    layer(x)
    assert len(pickle.dumps(layer)) <= before + 64
    layer.backward(x)
    layer.forward_saved(x)
    assert len(pickle.dumps(layer)) <= before + 64


def test_a_waiting_pass_is_not_pickled():
    _, saved = LayerNorm((2, 2)).forward_saved(X)
    for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="Saved: neither pickled nor copied, as it holds a batch"):
            duplicate(saved)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
def test_tied_weights_stay_tied_in_one_pickle(duplicate):
    """Weights are one array again; gradients are each layer's own, as those of new layers are."""
    first, second = LayerNorm((2, 2)), LayerNorm((2, 2))
    first.weight = second.weight
    one, two = duplicate((first, second))
    assert one.weight is two.weight
    assert one.weight is not first.weight
    assert one.grads["weight"] is not two.grads["weight"]
    one.weight += 1
    np.testing.assert_array_equal(two(X), one(X))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_has_no_all_reduce_until_it_is_set(duplicate):
    layer = used(BatchNorm(4, all_reduce=lambda value: value))
    other = duplicate(layer)
    np.testing.assert_array_equal(other.eval()(X), layer.eval()(X))
    before = other.state_dict()
    with pytest.raises(RuntimeError, match=r"all_reduce: not pickled or copied .* layer.all_reduce = f") as caught:
        other.train()(X)
    assert_equal_states(other, before)
    exec(re.search(r"set again: (.*)", str(caught.value))[1], {"layer": other, "f": layer.all_reduce})
    np.testing.assert_array_equal(other(X), layer.train()(X))
    assert_equal_states(other, layer.state_dict())


def test_a_cumulative_average_goes_on_after_loading():
    batches = [values(SHAPE, offset=seed, seed=seed) for seed in range(5)]
    whole, first, second = (BatchNorm(4, momentum=None) for _ in range(3))
    for x in batches:
        whole(x)
    for x in batches[:2]:
        first(x)
    second.load_state_dict(first.state_dict())
    for x in batches[2:]:
        second(x)
    assert_equal_states(second, whole.state_dict())


def test_reset_running_stats_evaluates_as_a_new_layer():
    layer, new = used(BatchNorm(4)), BatchNorm(4)
    held = layer.running_mean
    layer.reset_running_stats()
    assert layer.running_mean is held
    new.load_state_dict({**new.state_dict(), **dict(layer.named_parameters())})
    np.testing.assert_array_equal(layer.eval()(X), new.eval()(X))
    assert_equal_states(layer, new.state_dict())
    BatchNorm(4, track_running_stats=False).reset_running_stats()  # has none, as in PyTorch


def test_a_whole_network_of_pytorch_goes_both_ways():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    make = lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.LayerNorm((2, 2)))  # noqa: E731
    net, fresh, batch, rows = make(), make(), BatchNorm(4), LayerNorm((2, 2))
    x = torch.from_numpy(values((6, 3, 2, 2)))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.uniform_()
        net(x)
    state = net.state_dict()
    for layer, prefix in ((batch, "1."), (rows, "2.")):
        assert layer.load_state_dict(state, prefix=prefix) == ([], [])
    with torch.no_grad():
        expected = net.eval()(x).numpy()
        inside = net[0](x).numpy()
    # PyTorch works in float32 on sums of 24 and of 4 values of size 1.
    np.testing.assert_allclose(rows.eval()(batch.eval()(inside)), expected, rtol=5e-6, atol=5e-6)

    back = {**batch.state_dict("1."), **rows.state_dict("2.")}
    found = fresh.load_state_dict({key: torch.from_numpy(value) for key, value in back.items()}, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["0.weight", "0.bias"], [])
    for key, value in back.items():
        assert torch.equal(fresh.state_dict()[key], state[key])
        assert value.dtype == (np.float64 if "running" in key else state[key].numpy().dtype)


def test_only_arrays_of_the_layer_are_read():
    """A file of a large network reads an array from the disk when it is asked for."""

    class File(Mapping):
        def __init__(self, state):
            self._state, self.read = state, []

        def __getitem__(self, key):
            self.read.append(key)
            return self._state[key]

        def __iter__(self):
            return iter(self._state)

        def __len__(self):
            return len(self._state)

    state = used(BatchNorm(4)).state_dict("norm1.")
    file = File(state | LayerNorm(5).state_dict("norm2."))
    BatchNorm(4).load_state_dict(file, prefix="norm1.")
    assert sorted(file.read) == sorted(state)
