"""Layers of any kind and state, and the settings: as the reference says, or an error and nothing changed."""

import inspect
from collections import OrderedDict, UserDict
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbanorm
from numbanorm import BatchNorm, LayerNorm, RMSNorm
from tests import reference
from tests.arranged import OFFSETS, assert_kept, placed, plain, shapes, snapshot
from tests.calls import EPS, MOMENTUM, assert_updated, one_of, quietly
from tests.cases import assert_gradients, assert_normalized, values
from tests.spoiled import NO_ARRAYS, NO_AXIS, NO_EPS, NO_FLAGS, NO_NUMBERS, NO_SHARES, OTHER_SHAPES

KINDS = [LayerNorm, RMSNorm, BatchNorm]
NO_SIZES = [0, -1, -(10**30), 1.0, "4", None, True, np.True_, np.array(True), np.array([4]), object(), 1j, float("nan")]
BAD = {
    "normalized_shape": [
        *(*NO_SIZES, (), [], (4, 0), (2, True), [4.0], ("4",), ((4,),), np.array([4, 4]), {4}),
        *(10**30, (2**62, 4), [1] * 65),
    ],
    "num_features": [*NO_SIZES, (4,), [4], 10**30],
    "eps": NO_NUMBERS + NO_EPS,
    "momentum": [value for value in NO_NUMBERS + NO_SHARES if value is not None],
    **dict.fromkeys(("affine", "elementwise_affine", "bias", "track_running_stats", "skip_nonfinite"), NO_FLAGS),
    "weight": NO_FLAGS,
    "all_reduce": [True, 1, "sum", [sum]],
    "channel_axis": [*NO_AXIS, (), (0,), [0], np.array([0]), 10**30, -(2**70)],
    "dtype": [
        None,
        "wide",
        "f2",
        np.float16,
        np.longdouble,
        int,
        bool,
        complex,
        object,
        str,
        "V4",
        "f4,f4",
        (),
        4,
        "M8[s]",
    ],
}
NO_STATES = [None, [], [("weight", 1)], "state", 1, {"weight"}, np.ones(4), object()]
MAPPINGS = [dict, OrderedDict, UserDict, MappingProxyType]


@st.composite
def layers(draw, kind):
    """A layer in any state, its class's arguments, and the shape of an x for it."""
    shape, options = list(draw(shapes(1 + (kind is BatchNorm)))), draw(one_of(EPS))
    axis = draw(st.integers(0, len(shape) - 1))
    shape[axis:] = [max(1, n) for n in shape[axis:]]  # layers are of no size 0
    if kind is not BatchNorm:
        own = tuple(shape[axis:])
        forms = [own, list(own), *([own[0], np.int64(own[0])] if len(own) == 1 else [])]
        options |= {"normalized_shape": draw(st.sampled_from(forms))}
        options |= draw(one_of([("elementwise_affine", False), ("elementwise_affine", np.True_)]))
        options |= draw(one_of([("bias", False), ("bias", True)])) if kind is LayerNorm else {}
    else:
        if np.prod(np.delete(shape, axis)) == 1:
            shape[axis - 1] = 2
        options |= {"num_features": draw(st.sampled_from([shape[axis], np.int64(shape[axis])]))}
        options |= draw(one_of([*MOMENTUM, *[("momentum", None)] * 5])) | draw(
            one_of([("affine", False), ("affine", True)])
        )
        options |= draw(one_of([("track_running_stats", False), ("bias", False), ("skip_nonfinite", True)]))
        if axis != 1 or draw(st.booleans()):
            options["channel_axis"] = draw(st.sampled_from([axis, np.int8(axis - len(shape))]))
    options |= draw(one_of([("dtype", np.float64), ("dtype", "f8"), ("dtype", ">f4"), ("dtype", np.dtype("f4"))]))
    layer = kind(**options)
    state = {key: draw(states(a)) for key, a in layer.state_dict().items()}
    before = dict(layer.named_parameters())
    layer.load_state_dict(draw(st.sampled_from(MAPPINGS))(state))
    for key, a in layer.state_dict().items():
        np.testing.assert_array_equal(a, np.asarray(state[key]).astype(a.dtype))
    assert all(before[key] is a for key, a in layer.named_parameters())
    return layer, options, tuple(shape)


@st.composite
def states(draw, a):
    """An array to load in place of another."""
    if a.dtype.kind == "i":
        return draw(st.sampled_from([0, 7, np.array(3), np.uint8(200), True]))
    given = draw(placed(a.shape, draw(st.sampled_from([a.dtype.type, np.float64, np.float16])), offset=30.0))
    return draw(st.sampled_from([given, given.tolist(), given.astype(int), given.astype(int).tolist()]))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_layer(kind, data):
    layer, _, shape = data.draw(layers(kind))
    dtype = layer.dtype.type
    x, dy = data.draw(placed(shape, dtype, offset=data.draw(OFFSETS))), data.draw(placed(shape, dtype))
    inputs = snapshot({"x": x, "dy": dy})
    for training in data.draw(st.permutations([True, False])):
        before = layer.state_dict()
        layer.zero_grad()
        y = layer.train()(x) if training else layer.eval()(x)
        of_batch = kind is BatchNorm and (training or not layer.track_running_stats)
        of_rows = {LayerNorm: check_layer_norm, RMSNorm: check_rms_norm}
        check = of_rows.get(kind) or (check_training if of_batch else check_evaluation)
        expected = quietly(check)(layer, before, y, plain(x), plain(dy))
        dx = layer.backward(dy)
        assert [*layer.grads] == [name for name, _ in layer.named_parameters()]
        own = {f"d{key}": gradient for key, gradient in layer.grads.items()}
        assert_gradients(expected._replace(dx=dx, **own), expected)
    assert_kept(inputs)


def check_layer_norm(layer, before, y, x, dy):
    """The forward pass; what the gradients must be."""
    axes, weight = tuple(range(x.ndim - len(layer.normalized_shape), x.ndim)), layer.weight
    expected = reference.layer_norm_forward(x, weight, layer.bias, axes, layer.eps)
    assert_normalized(y, expected.y, expected.x_hat, 1 if weight is None else weight)
    return reference.layer_norm_backward(dy, x, weight, axes, layer.eps)


def check_rms_norm(layer, before, y, x, dy):
    axes, weight = tuple(range(x.ndim - len(layer.normalized_shape), x.ndim)), layer.weight
    eps = np.finfo(layer.dtype).eps if layer.eps is None else layer.eps
    expected = reference.rms_norm_forward(x, weight, axes, eps)
    assert_normalized(y, expected.y, expected.x_hat, 1 if weight is None else weight)
    return reference.rms_norm_backward(dy, x, weight, axes, eps)


def check_training(layer, before, y, x, dy):
    axis, weight, eps = layer.channel_axis, layer.weight, layer.eps
    expected = reference.batch_norm_forward(x, weight, layer.bias, axis, eps)
    assert_normalized(y, expected.y, expected.x_hat, reference._per_channel(weight, axis, x.ndim, 1))
    if not layer.track_running_stats:
        return reference.batch_norm_backward(dy, x, weight, axis, eps)
    count = int(before["num_batches_tracked"])
    assert layer.num_batches_tracked == count + (x.size > 0)
    share = 1 / (count + 1) if layer.momentum is None else layer.momentum
    running = [layer.running_mean, layer.running_var], [before["running_mean"], before["running_var"]]
    assert_updated(*running, share, expected, x)
    return reference.batch_norm_backward(dy, x, weight, axis, eps)


def check_evaluation(layer, before, y, x, dy):
    axis, weight, statistics = layer.channel_axis, layer.weight, (layer.running_mean, layer.running_var)
    expected, x_hat = reference.batch_norm(x, *statistics, weight, layer.bias, axis, layer.eps)
    assert_normalized(y, expected, x_hat, reference._per_channel(weight, axis, x.ndim, 1))
    for key, a in layer.state_dict().items():
        np.testing.assert_array_equal(a, before[key])
    rstd = 1 / np.sqrt(layer.running_var + layer.eps)
    return reference.batch_norm_backward_frozen(dy, x, layer.running_mean, rstd, weight, axis)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_bad_argument_of_a_layer(kind, data):
    _, options, _ = data.draw(layers(kind))
    parameters = inspect.signature(kind).parameters
    argument = data.draw(st.sampled_from([*parameters]))
    bad = [value for value in BAD[argument] if value is not None or parameters[argument].default is not None]
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: "):
        kind(**options | {argument: data.draw(st.sampled_from(bad))})


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_layer_refuses_and_stays_as_it_is(kind, data):
    layer, _, shape = data.draw(layers(kind))
    x, dy = values(shape, layer.dtype.type), values(shape, layer.dtype.type, seed=2)
    (layer.train if data.draw(st.booleans()) else layer.eval)()(x)
    dx, gradients = layer.backward(dy), dict(layer.grads)
    layer(x)
    before = snapshot({"x": x, "dy": dy, "dx": dx} | layer._arrays() | gradients)
    refused = data.draw(st.sampled_from([wrong_x, wrong_dy, wrong_state]))
    name, error, call = data.draw(refused(layer, x, dy))
    with pytest.raises(error, match=f"^['\"]?{name}"):
        call()
    assert_kept(before)
    assert all(layer.grads[key] is gradient for key, gradient in gradients.items())
    np.testing.assert_array_equal(layer.backward(dy), dx)


@st.composite
def wrong_x(draw, layer, x, dy):
    axis = getattr(layer, "channel_axis", -1)
    shape = [n + (i == axis % x.ndim) for i, n in enumerate(x.shape)]
    ways = [(lambda way=way: way(x), TypeError) for way in NO_ARRAYS.values()]
    ways += [(lambda: x.astype(np.float32 if x.itemsize == 8 else np.float64), TypeError), (lambda: None, TypeError)]
    ways += [(lambda: np.ones(shape, x.dtype), ValueError), (lambda: x[(0,) * x.ndim] if x.size else 0, TypeError)] * 5
    way, error = draw(st.sampled_from(ways))
    return "x: ", error, lambda: layer(way())


@st.composite
def wrong_dy(draw, layer, x, dy):
    ways = [(lambda way=way: way(dy), TypeError) for way in NO_ARRAYS.values()]
    ways += [(lambda: dy.astype(np.float32 if dy.itemsize == 8 else np.float64), TypeError), (lambda: None, TypeError)]
    ways += [(lambda way=way: way(dy), ValueError) for way in OTHER_SHAPES.values()] * 3
    way, error = draw(st.sampled_from(ways))
    return "dy: ", error, lambda: layer.backward(way())


class Refusing:
    """A tensor that requires a gradient, for one."""

    def __array__(self, *_, **__):
        raise RuntimeError("no")


@st.composite
def wrong_state(draw, layer, x, dy):
    state = {key: np.array(a + 1) for key, a in layer.state_dict().items()}
    renamed = {**state, draw(st.sampled_from(["", "gamma", 0, None, ("weight",)])): np.ones(3)}
    fewer = {} if not state else {key: state[key] for key in [*state][1:]}
    wrong = [(value, TypeError) for value in NO_STATES] + [(renamed, KeyError)] * 3 + [(fewer, KeyError)] * bool(state)
    if state and draw(st.integers(0, 3)):
        key = draw(st.sampled_from([*state]))
        kinds = "complex", "object", "text", "text array", "StringDType", "record", "void", "dates", "times", "masked"
        changed = [(state | {key: NO_ARRAYS[kind](state[key])}, TypeError) for kind in kinds]
        changed += [
            (state | {key: value}, (TypeError, ValueError)) for value in (None, Refusing(), [[1.0], [1.0, 2.0]])
        ]
        changed += [(state | {key: np.ones((2, *state[key].shape))}, (TypeError, ValueError))] * 3
        if key == "num_batches_tracked":
            changed += [
                (state | {key: value}, (TypeError, ValueError)) for value in (1.5, -1, np.uint64(2**64 - 1), 2**70)
            ]
        elif state[key].dtype == np.float32:
            changed += [(state | {key: np.full(state[key].shape, -1e300)}, ValueError)] * 3
        wrong = changed
    value, error = draw(st.sampled_from(wrong))
    return "state", error, lambda: layer.load_state_dict(value)


@given(st.integers(1, 2**70), st.integers(0, 2**70), st.sampled_from(NO_SIZES), st.sampled_from(NO_SIZES))
def test_settings(n, limit, no_n, no_limit):
    most, before = numbanorm.get_num_threads(), numbanorm.recycle_memory(limit)
    try:
        numbanorm.set_num_threads(n)
        if no_n is not None:
            with pytest.raises((TypeError, ValueError), match=r"^n: "):
                numbanorm.set_num_threads(no_n)
        if no_limit != 0:
            with pytest.raises((TypeError, ValueError), match=r"^limit: "):
                numbanorm.recycle_memory(no_limit)
        assert numbanorm.get_num_threads() == min(n, most)
    finally:
        numbanorm.set_num_threads(None)
        assert numbanorm.recycle_memory(before) == limit
