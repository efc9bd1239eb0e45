"""Passes of layers: what waits for backward and for how long, what may not change, what gradients add up to."""

import re
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numbanorm
from numbanorm import BatchNorm, LayerNorm, RMSNorm, no_grad, set_debug
from tests import reference
from tests.cases import assert_gradients, assert_within, values
from tests.layouts import LAYOUTS

CHANGED = "changed since the forward pass, must be as it was for backward"
LAYERS = {
    "LayerNorm": lambda: LayerNorm(40),
    "LayerNorm of two axes": lambda: LayerNorm((30, 40)),
    "RMSNorm": lambda: RMSNorm(40),
    "BatchNorm": lambda: BatchNorm(30),
    "BatchNorm in evaluation": lambda: BatchNorm(30).eval(),
}
SHAPE = (20, 30, 40)


def layer_and_arrays(make):
    layer = make()
    for seed, parameter in enumerate(layer.parameters()):
        parameter[...] = values(parameter.shape, seed=10 + seed)
    return layer, values(SHAPE), values(SHAPE, seed=2)


def gradients_of(make, x, dy):
    """dx, dweight and, where there is a bias, dbias of a fresh layer with the same parameters."""
    layer, *_ = layer_and_arrays(make)
    layer(x.copy())
    return layer.backward(dy), *layer.grads.values()


def assert_same(layer, dx, expected):
    for array, right in zip((dx, *layer.grads.values()), expected, strict=True):
        np.testing.assert_array_equal(array, right)


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def make(request):
    return request.param


@pytest.fixture
def debug():
    assert set_debug(True) is False
    yield
    assert set_debug(False) is True


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.add(x, 1, out=x),
        lambda x: np.copyto(x[:2], 0),
        lambda x: np.copyto(x[:, :, 3:8], 0),
        lambda x: np.copyto(x[:, 7:10], np.nan),
        lambda x: np.random.default_rng(0).shuffle(x),
    ],
    ids=["all", "rows", "columns", "channels", "order"],
)
def test_a_changed_x_is_an_error(make, change):
    layer, x, dy = layer_and_arrays(make)
    layer(x)
    change(x)
    with pytest.raises(RuntimeError, match=f"^x: {CHANGED}; write y = y \\+ ...* or pass copy=True"):
        layer.backward(dy)
    assert not any(gradient.any() for gradient in layer.grads.values())


@pytest.mark.parametrize("layout", ["fortran", "sliced"])
def test_a_changed_x_of_any_layout_is_an_error(make, layout):
    layer, x, dy = layer_and_arrays(make)
    x = LAYOUTS[layout](x)
    layer(x)
    x[:, 5:9] *= 2
    with pytest.raises(RuntimeError, match=f"^x: {CHANGED}"):
        layer.backward(dy)


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "BatchNorm in evaluation"])
def test_a_changed_weight_is_an_error(name):
    make = LAYERS[name]
    layer, x, dy = layer_and_arrays(make)
    layer(x)
    layer.weight -= 0.1
    with pytest.raises(RuntimeError, match=f"^weight: {CHANGED}; update parameters after backward"):
        layer.backward(dy)


def test_copies_may_change(make):
    layer, x, dy = layer_and_arrays(make)
    expected = gradients_of(make, x, dy)
    layer(x, copy=True)
    x[:], layer.weight[...] = 0, 0
    assert_same(layer, layer.backward(dy), expected)


@given(at=st.integers(0, 20 * 30 * 40 - 1))
def test_debug_compares_every_value(at):
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    set_debug(True)
    try:
        layer(x)
    finally:
        set_debug(False)
    x.flat[at] += 1
    with pytest.raises(RuntimeError, match=f"^x: {CHANGED}"):
        layer.backward(dy)


def test_debug_knows_nan(debug):
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    x[3, 4, 5] = np.nan
    layer(x)
    assert np.isnan(layer.backward(dy)).any()


def test_without_debug_some_changes_are_missed():
    """As the documentation says: 256 of 24000 values are compared."""
    seen = 0
    for at in range(0, 24000, 60):
        layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
        layer(x)
        x.flat[at] += 1
        try:
            layer.backward(dy)
        except RuntimeError:
            seen += 1
    assert 0 < seen < 40


def test_passes_in_any_order(make):
    dy = values(SHAPE, seed=2)
    batches = [values(SHAPE, seed=seed) for seed in (5, 6, 7, 8)]
    layer, *_ = layer_and_arrays(make)
    waiting = [layer.forward_saved(x)[1] for x in batches]
    expected = [gradients_of(make, x, dy) for x in batches]
    for i in (2, 0, 3, 1):
        layer.zero_grad()
        assert_same(layer, layer.backward(dy, waiting[i]), expected[i])
    with pytest.raises(RuntimeError, match=r"^saved: has had its backward pass, must be of one that waits"):
        layer.backward(dy, waiting[0])


def test_each_forward_has_one_backward(make):
    layer, _, dy = layer_and_arrays(make)
    with pytest.raises(RuntimeError, match=r"^backward: no forward pass waits: the layer was not called"):
        layer.backward(dy)
    for seed in (5, 6):
        layer(values(SHAPE, seed=seed))
    expected = gradients_of(make, values(SHAPE, seed=6), dy)
    assert_same(layer, layer.backward(dy), expected)  # of the last
    with pytest.raises(RuntimeError, match=r"^backward: no forward pass waits: the last one has had its backward"):
        layer.backward(dy)
    assert_same(layer, expected[0], expected)


def test_what_is_no_pass_of_this_layer():
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    _, saved = LayerNorm(40).forward_saved(x)
    with pytest.raises(ValueError, match=r"^saved: of a forward pass of another layer, must be of this one"):
        layer.backward(dy, saved)
    with pytest.raises(TypeError, match=r"^saved: ndarray, must be what forward_saved returned"):
        layer.backward(dy, x)


def test_a_refused_dy_leaves_the_pass_waiting(make):
    layer, x, dy = layer_and_arrays(make)
    layer(x)
    with pytest.raises(ValueError, match=r"^dy: "):
        layer.backward(dy[1:])
    assert_same(layer, layer.backward(dy), gradients_of(make, x, dy))


@pytest.mark.parametrize("free", ["backward", "mode", "no_grad", "saved", "dropped"])
def test_nothing_of_a_batch_stays(make, free):
    """From then on, without a run of the garbage collector."""
    layer, x, dy = layer_and_arrays(make)
    batch = weakref.ref(x)
    if free == "no_grad":
        with no_grad():
            layer(x)
    elif free == "saved":
        _, saved = layer.forward_saved(x)
        layer.backward(dy, saved)  # the handle is still here
    else:
        layer(x)
        assert batch() is x
        if free == "backward":
            layer.backward(dy)
        elif free == "mode":
            layer.train(not layer.training)
        else:
            del layer
    del x
    assert batch() is None


def test_no_grad_gives_the_same_y(make):
    layer, x, dy = layer_and_arrays(make)
    y = layer(x)
    with no_grad():
        np.testing.assert_array_equal(layer(x.copy()), y)
    with pytest.raises(RuntimeError, match="no forward pass waits: the last one was under no_grad"):
        layer.backward(dy)  # which would be that of the one before


def test_no_grad_is_of_its_thread():
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    dxs = []

    def step():
        layer(x)
        dxs.append(layer.backward(dy))

    with no_grad():
        in_a_thread(step)
    assert_same(layer, dxs[0], gradients_of(LAYERS["LayerNorm"], x, dy))


def in_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_pass_of_another_thread_is_taken_by_its_handle_alone():
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    waiting = []
    layer(x)
    in_a_thread(lambda: layer(values(SHAPE, seed=6)))
    with pytest.raises(RuntimeError, match=r"^backward: no forward pass waits: the last one is of another thread"):
        layer.backward(dy)
    in_a_thread(lambda: waiting.append(layer.forward_saved(x)[1]))
    assert_same(layer, layer.backward(dy, waiting[0]), gradients_of(LAYERS["LayerNorm"], x, dy))


def test_no_grad_before_a_function():
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])

    @no_grad()
    def infer(x, times):
        return times * layer(x) if times == 1 else infer(x, times - 1)

    np.testing.assert_array_equal(infer(x, 2), layer(x))
    layer.backward(dy)
    context = no_grad()
    with context, context:
        layer(x)
    for run in (lambda: infer(x, 1), lambda: None):
        run()
        with pytest.raises(RuntimeError, match="no forward pass waits: the last one was under no_grad"):
            layer.backward(dy)


def test_no_grad_before_a_generator_is_an_error():
    def predictions():
        yield 1

    async def prediction():
        return 1

    for function in (predictions, prediction):
        with pytest.raises(TypeError, match=f"^no_grad: before .*{function.__name__}, must be before an ordinary"):
            no_grad()(function)


def test_what_is_missing_is_said():
    layer, x, dy = layer_and_arrays(LAYERS["BatchNorm"])
    for call, why in (
        (lambda: layer(x) is layer.forward_saved(x), r"its handle was returned; call backward\(dy, saved\)"),
        (lambda: layer.forward_parts([x[:3], x[3:]]), r"its handle was returned; call backward\(dy, saved\)"),
        (lambda: layer(x) is layer.eval(), r"train\(\) or eval\(\) has changed the mode since"),
        (lambda: layer(x) is setattr(layer, "training", True), r"train\(\) or eval\(\) has changed the mode since"),
    ):
        call()
        with pytest.raises(RuntimeError, match=f"^backward: no forward pass waits: {why}"):
            layer.backward(dy)


def test_gradients_add_up_in_their_arrays(make):
    layer, x, dy = layer_and_arrays(make)
    before = {name: gradient for name, _, gradient in layer.named_gradients()}
    expected = gradients_of(make, x, dy)[1:]
    for times in (1, 2):
        layer(x)
        layer.backward(dy)
        for gradient, once in zip(layer.grads.values(), expected, strict=True):
            np.testing.assert_array_equal(gradient, times * once)  # doubling is exact
    layer.zero_grad()
    assert not any(gradient.any() for gradient in layer.grads.values())
    assert [*before] == [name for name, _ in layer.named_parameters()]
    assert all(layer.grads[name] is gradient for name, gradient in before.items())


def test_gradients_of_other_parameters_are_an_error(make):
    """That is what comes of a forgotten zero_grad."""
    layer, x, dy = layer_and_arrays(make)
    layer(x)
    layer.backward(dy)
    kept = {name: gradient.copy() for name, gradient in layer.grads.items()}
    for _, parameter, gradient in layer.named_gradients():
        parameter -= 0.1 * gradient
    layer(x)
    with pytest.raises(RuntimeError, match=r"^grads\['weight'\]: .* must be zero: call zero_grad"):
        layer.backward(dy)
    for name, gradient in layer.grads.items():
        np.testing.assert_array_equal(gradient, kept[name])
    for gradient in layer.grads.values():
        gradient[...] = 0  # by hand does as well
    layer.backward(dy)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(make, name, id=f"{key}, {name}")
        for key, make in LAYERS.items()
        for name, _ in make().named_parameters()
    ],
)
def test_gradients_of_a_parameter_that_alone_is_trained(make, name):
    layer, x, dy = layer_and_arrays(make)
    layer(x)
    layer.backward(dy)
    parameter = getattr(layer, name)
    parameter -= 0.1 * layer.grads[name]
    layer(x)
    with pytest.raises(RuntimeError, match=rf"^grads\['{name}'\]: of the values that {name} had before it was updated"):
        layer.backward(dy)
    layer.grads[name].fill(0)  # that of the other may go on adding up
    layer.backward(dy)
    once = gradients_of(make, x, dy)[1:]  # of no parameter do these depend on the values of any
    for (key, gradient), expected in zip(layer.grads.items(), once, strict=True):
        np.testing.assert_array_equal(gradient, expected if key == name else 2 * expected)


def test_gradients_are_assigned_whole(make):
    layer, x, dy = layer_and_arrays(make)
    sizes = [parameter.size for parameter in layer.parameters()]
    flat = np.zeros(sum(sizes), np.float32)
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    layer.grads = {name: part.reshape(p.shape) for (name, p), part in zip(layer.named_parameters(), parts, strict=True)}
    layer(x)
    layer.backward(dy)
    np.testing.assert_array_equal(flat, np.concatenate([a.ravel() for a in gradients_of(make, x, dy)[1:]]))
    keys = re.escape(str(sorted(layer.grads)))
    with pytest.raises(ValueError, match=f"^grads: {{}}, must be a mapping with the keys {keys}"):
        layer.grads = {}


def test_parameters_are_arrays(make):
    layer, *_ = layer_and_arrays(make)
    names = ["weight"] if isinstance(layer, RMSNorm) else ["weight", "bias"]
    assert all(p is getattr(layer, name) for name, p in zip(names, layer.parameters(), strict=True))
    assert [name for name, _ in layer.named_parameters()] == names
    for name, parameter, gradient in layer.named_gradients():
        assert parameter is getattr(layer, name)
        assert gradient is layer.grads[name]
    with pytest.raises(TypeError):
        layer.parameters()["weight"] = layer.weight
    prefixed = [f"norm.{name}" for name in names]
    assert [name for name, _ in layer.named_parameters("norm.")] == prefixed
    assert [name for name, _, _ in layer.named_gradients("norm.")] == prefixed
    assert [*LayerNorm(4, elementwise_affine=False).parameters()] == []
    assert [name for name, _ in BatchNorm(4, bias=False).named_parameters()] == ["weight"]


def test_layers_share_what_is_assigned():
    one, other = LayerNorm(40), LayerNorm(40)
    other.weight, other.bias = one.weight, one.bias
    other.grads.update(one.grads)
    x, dy = values((20, 40)), values((20, 40), seed=2)
    one.weight[...] = values(40, seed=3)
    for layer in (one, other):
        layer(x)
        dx = layer.backward(dy)
    expected = reference.layer_norm_backward(dy, x, one.weight, 1)
    twice = reference.Gradients(*(2 * array for array in expected))
    assert_gradients(twice._replace(dx=2 * dx, dweight=one.grads["weight"], dbias=one.grads["bias"]), twice)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.zeros(3, np.float32), ValueError, r"weight: shape \(3,\), must be \(4,\)"),
        (np.zeros(4), TypeError, r"weight: dtype float64, must be float32; assign weight.astype\(np.float32\)"),
        ([0.0] * 4, TypeError, "weight: builtins.list, must be a numpy.ndarray"),
        (None, TypeError, "weight: builtins.NoneType, must be a numpy.ndarray"),
        (np.broadcast_to(np.float32(1), 4), ValueError, "weight: read-only, must be writable"),
    ],
)
def test_what_may_not_be_assigned(value, error, message):
    layer = BatchNorm(4)
    own, gradient = layer.weight, layer.grads["weight"]
    with pytest.raises(error, match=f"^{message}"):
        layer.weight = value
    with pytest.raises(error, match=r"^grads\['weight'\]: "):
        layer.grads["weight"] = value
    assert layer.weight is own
    assert layer.grads["weight"] is gradient


def test_what_a_layer_has_not_may_not_be_assigned():
    layer = BatchNorm(4, bias=False)
    with pytest.raises(ValueError, match=r"^bias: there is none, must stay so"):
        layer.bias = np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"^grads\['bias'\]: there is none"):
        layer.grads["bias"] = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match=r"^grads\['weight'\]: stays"):
        del layer.grads["weight"]


def test_gradients_as_a_dict():
    layer = LayerNorm(4)
    assert layer.grads.copy() == {**layer.grads} == layer.grads | {}
    assert (layer.grads | {"w": 1})["w"] == ({"w": 1} | layer.grads)["w"] == 1
    with pytest.raises(TypeError, match=r"^grads\['weight'\]: "):
        layer.grads |= {"weight": "nonsense"}


def test_arrays_of_a_layer_may_not_overlap():
    layer = BatchNorm(4)
    with pytest.raises(ValueError, match=r"^running_mean: overlaps running_var, must have memory of its own"):
        layer.running_mean = layer.running_var
    layer = LayerNorm(4)
    x = values((4,))
    layer(x)
    with pytest.raises(ValueError, match=r"^out: overlaps grads\['weight'\], must have memory of its own"):
        layer.backward(x, out=layer.grads["weight"])


def test_a_forward_of_ones_own():
    class Doubled(LayerNorm):
        def forward(self, x):
            return super().forward(2 * x)

    x = values((5, 4))
    np.testing.assert_array_equal(Doubled(4)(x), LayerNorm(4)(2 * x))


def test_gradients_are_clipped_in_place():
    layer, x, dy = layer_and_arrays(LAYERS["LayerNorm"])
    layer(x)
    layer.backward(dy)
    gradient, clipped = layer.grads["weight"], layer.grads["weight"] * 0.5
    layer.grads["weight"] *= 0.5
    assert layer.grads["weight"] is gradient
    np.testing.assert_array_equal(gradient, clipped)


def test_results_in_memory_of_the_callers(make):
    layer, x, dy = layer_and_arrays(make)
    expected, y, dx = gradients_of(make, x, dy), np.empty_like(x), np.empty_like(x)
    assert layer(x, out=y) is y
    right = y.copy()
    assert layer.backward(dy, out=dx) is dx
    assert_same(layer, dx, expected)
    with pytest.raises(ValueError, match=r"^out: overlaps x, which backward needs, must have memory"):
        layer(x, out=x)
    with no_grad():
        own = x.copy()
        assert layer(own, out=own) is own
    np.testing.assert_array_equal(own, right)
    layer.zero_grad()
    layer(own := x.copy(), out=own, copy=True)
    np.testing.assert_array_equal(own, right)
    assert_same(layer, layer.backward(dy, out=dy), expected)


def test_options_have_pytorchs_names_and_places():
    x = values((20, 40))
    for layer in (LayerNorm(40, 0.5), BatchNorm(40, 0.5)):
        assert layer.eps == 0.5
    with pytest.warns(DeprecationWarning, match="LayerNorm: weight= is deprecated, pass elementwise_affine=") as found:
        layer = LayerNorm(40, weight=False, bias=True)
    assert found[0].filename == __file__
    layer.bias[:] = 3
    assert layer.weight is None
    y = reference.layer_norm_forward(x, None, layer.bias, 1).y
    assert_within(layer(x), y, 2e-6 * np.maximum(1, np.abs(y)))


def test_debug_is_a_flag():
    with pytest.raises(TypeError, match=r"^enabled: 1, must be True or False"):
        numbanorm.set_debug(1)
