"""States and assignments that do not fit: the error names the key and says what to pass, and nothing has changed."""

import re
import warnings

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm
from tests.cases import values
from tests.test_checkpoints import STATISTICS, X, assert_equal_states, used


def filled(layer):
    """Each array with a number of its own."""
    for i, array in enumerate(layer._arrays().values()):
        array[...] = i + 2
    return layer


FULL, STATELESS = filled(BatchNorm(4)), filled(BatchNorm(4, track_running_stats=False))
NET = FULL.state_dict("enc.0.norm.") | LayerNorm(5).state_dict("enc.1.") | {"head.weight": np.zeros((3, 5))}


def error_of(layer, *state, **how):
    """The message of KeyError, when the layer has stayed as it was."""
    before = layer.state_dict()
    with pytest.raises(KeyError) as caught:
        layer.load_state_dict(*state, **how)
    assert_equal_states(layer, before)
    return caught.value.args[0]


@pytest.mark.parametrize(
    ("state", "prefix"),
    [
        (NET, ""),
        (NET, "enc."),  # of a part of the network
        (NET, "enc.0.norm"),  # without the dot
        (NET, "enc.1."),  # of another layer
        (NET, "decoder."),  # of none
        (FULL.state_dict(), "enc.0.norm."),  # where the state is of the layer alone
    ],
)
def test_another_prefix_is_answered_with_the_right_one(state, prefix):
    layer = BatchNorm(4)
    advice = re.search(r"pass prefix='(.*)'$", error_of(layer, state, prefix=prefix))[1]
    assert layer.load_state_dict(state, prefix=advice) == ([], [])
    assert_equal_states(layer, FULL.state_dict())


def test_several_prefixes_that_fit_are_named():
    state = {key: value for i in range(20) for key, value in LayerNorm(5).state_dict(f"block{i:02}.").items()}
    message = error_of(LayerNorm(5), state)
    assert message.endswith("and 8 more")
    assert "pass prefix='block00.', or another of ['block00.', 'block01.'," in message
    assert len(message) < 1500  # of the thousands of keys that a network may have, some are named


def test_a_state_without_statistics():
    layer = used(BatchNorm(4), batches=2)
    message = error_of(layer, STATELESS.state_dict())
    assert "it lacks ['num_batches_tracked', 'running_mean', 'running_var']: pass strict=False" in message
    assert "or make the layer with track_running_stats=False" in message
    own = layer.state_dict()
    assert layer.load_state_dict(STATELESS.state_dict(), strict=False) == (STATISTICS, [])
    assert_equal_states(layer, {**own, **STATELESS.state_dict()})
    assert BatchNorm(4, track_running_stats=False).load_state_dict(STATELESS.state_dict()) == ([], [])


@pytest.mark.parametrize("left_out", [(), ("num_batches_tracked",)])
def test_a_state_with_statistics_in_a_layer_without(left_out):
    state = {key: value for key, value in FULL.state_dict().items() if key not in left_out}
    statistics = [key for key in STATISTICS if key not in left_out]
    layer = BatchNorm(4, track_running_stats=False)
    message = error_of(layer, state)
    assert f"it has beside them {sorted(statistics)}: pass strict=False to leave these out" in message
    assert "or make the layer with track_running_stats=True" in message
    assert layer.load_state_dict(state, strict=False) == ([], statistics)
    assert_equal_states(layer, dict(FULL.named_parameters()))
    assert BatchNorm(4, track_running_stats=True).load_state_dict(state) == ([], [])


@pytest.mark.parametrize("count", [0, 2])
def test_an_old_state_leaves_the_count(count):
    layer = used(BatchNorm(4), batches=2)
    layer.num_batches_tracked = count
    state = {key: value for key, value in FULL.state_dict().items() if key != "num_batches_tracked"}
    assert layer.load_state_dict(state) == ([], [])
    assert_equal_states(layer, state | {"num_batches_tracked": count})


@pytest.mark.parametrize(
    ("make", "source", "missing", "unexpected"),
    [
        (lambda: BatchNorm(4), lambda: BatchNorm(4, bias=False), ["bias"], []),
        (lambda: BatchNorm(4, affine=False), lambda: BatchNorm(4), [], ["weight", "bias"]),
        (lambda: LayerNorm(5), lambda: LayerNorm(5, bias=False), ["bias"], []),
        (lambda: LayerNorm(5, bias=False), lambda: LayerNorm(5), [], ["bias"]),
        (lambda: LayerNorm(5, elementwise_affine=False), lambda: LayerNorm(5), [], ["weight", "bias"]),
    ],
)
def test_a_state_of_other_parameters(make, source, missing, unexpected):
    """What PyTorch returns, in its order; after a prefix by whole keys."""
    layer, state = make(), {key: value + 1 for key, value in source().state_dict("a.").items()}
    message = error_of(layer, state, prefix="a.")
    assert all(repr(key) in message for key in (*missing, *unexpected))
    assert message.endswith("pass strict=False to load what fits")
    own = layer.state_dict()
    found = layer.load_state_dict(state, strict=False, prefix="a.")
    assert found.missing_keys == [f"a.{key}" for key in missing]
    assert found.unexpected_keys == [f"a.{key}" for key in unexpected]
    assert_equal_states(layer, {key: value if key in missing else value + 1 for key, value in own.items()})


@pytest.mark.parametrize("state", [{}, {"kernel": np.zeros(4)}])
def test_a_state_of_another_kind_of_layer(state):
    assert error_of(BatchNorm(4), state).endswith("nothing in it is of such a layer; pass another state")


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"state": [np.zeros(4)]}, TypeError, "state: list, must be a mapping"),
        ({"state": {}, "prefix": 0}, TypeError, "prefix: int, must be a str"),
        ({"state": {}, "strict": None}, TypeError, "strict: None, must be True or False"),
    ],
)
def test_arguments_of_load_state_dict(how, error, message):
    with pytest.raises(error, match=message):
        BatchNorm(4).load_state_dict(**how)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"running_var": np.zeros(3)}, ValueError, r"state\['norm.running_var'\]: shape \(3,\), must be \(4,\)"),
        ({"running_var": np.zeros(4, complex)}, TypeError, "dtype complex128, must be one that casts to float64"),
        ({"running_var": ["0"] * 4}, TypeError, "dtype <U1, must be one that casts to float64"),
        ({"running_var": np.ma.masked_array(np.zeros(4))}, TypeError, "MaskedArray, must be a plain array"),
        ({"weight": np.full(4, 1e300)}, ValueError, r"1e\+300 in it, must fit into float32"),
        ({"weight": None}, TypeError, r"state\['norm.weight'\]: dtype object, must be one that casts to float32"),
        ({"num_batches_tracked": 1.5}, TypeError, "dtype float64, must be one that casts to int64"),
        ({"num_batches_tracked": -1}, ValueError, "-1, must be a number of batches"),
    ],
)
def test_a_bad_state_is_refused_whole(changes, error, message, strict):
    layer = used(BatchNorm(4))
    before = layer.state_dict()
    state = {f"norm.{key}": value for key, value in (before | {"weight": np.zeros(4)} | changes).items()}
    with pytest.raises(error, match=message):
        layer.load_state_dict(state, strict, "norm.")
    assert_equal_states(layer, before)


def test_the_number_of_batches_may_be_assigned():
    layer = BatchNorm(4, momentum=None)
    held = layer.num_batches_tracked
    for x in (values(X.shape, offset=9), X):  # the first is forgotten
        layer.num_batches_tracked = 0
        layer(x)
    np.testing.assert_allclose(layer.running_mean, X.mean((0, 2, 3), np.float64), rtol=0, atol=1e-7)
    layer.num_batches_tracked += 1
    assert layer.num_batches_tracked is held
    assert held == 2
    layer.num_batches_tracked = np.int32(7)
    assert held == 7
    layer.num_batches_tracked = shared = np.array(3)
    layer(X)
    assert layer.num_batches_tracked is shared
    assert shared == 4


READ_ONLY = np.broadcast_to(np.float32(1), 4)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("weight", np.ones(3, np.float32), ValueError, r"weight: shape \(3,\), must be \(4,\)"),
        (
            "weight",
            np.ones(4),
            TypeError,
            r"weight: dtype float64, must be float32; assign weight.astype\(np.float32\)",
        ),
        ("weight", np.ones(4, complex), TypeError, "weight: dtype complex128, must be float32$"),
        ("weight", READ_ONLY, ValueError, "weight: read-only, must be writable"),
        (
            "weight",
            [1.0] * 4,
            TypeError,
            r"weight: .*list, must be .* shape \(4,\); pass np.asarray\(weight, np.float32",
        ),
        ("weight", None, TypeError, r"weight: .*NoneType, must be a numpy.ndarray of shape \(4,\)"),
        ("bias", 0.0, TypeError, r"bias: .*float, must be .* shape \(4,\); pass np.full\(\(4,\), bias, np.float32\)"),
        ("running_mean", np.ones(4, np.float16), TypeError, r"running_mean: dtype float16, must be float64; assign"),
        ("running_var", [1.0] * 4, TypeError, r"running_var: .*list, must be a numpy.ndarray of shape \(4,\)"),
        ("running_var", None, TypeError, "running_var: .*NoneType, must be a numpy.ndarray"),
        ("num_batches_tracked", None, TypeError, "num_batches_tracked: dtype object, must be one that casts to int64"),
        ("num_batches_tracked", 1.5, TypeError, "num_batches_tracked: dtype float64, must be one that casts to int64"),
        ("num_batches_tracked", [1, 2], ValueError, r"num_batches_tracked: shape \(2,\), must be \(\)"),
        ("num_batches_tracked", -1, ValueError, "num_batches_tracked: -1, must be a number of batches"),
        ("num_batches_tracked", np.array(-1), ValueError, "num_batches_tracked: -1, must be a number of batches"),
    ],
)
def test_assignments_that_do_not_fit(name, value, error, message):
    layer = used(BatchNorm(4))
    before, held = layer.state_dict(), getattr(layer, name)
    with pytest.raises(error, match=message) as caught:
        setattr(layer, name, value)
    assert getattr(layer, name) is held
    assert_equal_states(layer, before)
    if advised := re.search(r"(?:pass|assign) (.*)$", str(caught.value)):
        setattr(layer, name, eval(advised[1], {"np": np, name: value}))
        np.testing.assert_array_equal(getattr(layer, name), value)


def test_what_a_layer_does_not_have_cannot_be_assigned():
    layer = BatchNorm(4, affine=False, track_running_stats=False)
    for name in ("weight", "bias", *STATISTICS):
        setattr(layer, name, None)
        with pytest.raises(ValueError, match=f"{name}: there is none, must stay so; make a layer that has it"):
            setattr(layer, name, np.ones(4))
    assert layer.state_dict() == {}


@pytest.mark.parametrize(
    "begin_anew", [BatchNorm.reset_running_stats, lambda own: own.load_state_dict(FULL.state_dict())]
)
def test_a_channel_that_is_lost_again_is_warned_of_again(begin_anew):
    layer, x = BatchNorm(4), X.copy()
    x[0, 1] = np.nan
    with pytest.warns(RuntimeWarning, match=r"in the channels \[1\]"):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
    begin_anew(layer)
    assert np.isfinite(layer.running_mean).all()
    with pytest.warns(RuntimeWarning, match=r"in the channels \[1\]"):
        layer(x)
