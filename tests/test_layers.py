"""The layers: a trainer's view, against the functions and the reference."""

from contextlib import nullcontext

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm, batch_norm_backward, layer_norm_forward
from tests import reference
from tests.cases import assert_gradients, assert_normalized, assert_within, values


def set_parameters(layer):
    for seed, parameter in enumerate(layer.parameters()):
        parameter[...] = values(parameter.shape, parameter.dtype.type, seed=10 + seed)


def gradients(layer, dx, expected):
    """What the layer computed, in the reference's form, with the reference's for what it has no parameter for."""
    return expected._replace(
        dx=dx, dweight=layer.grads.get("weight", expected.dweight), dbias=layer.grads.get("bias", expected.dbias)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("normalized_shape", "axes"), [(7, (2,)), ((5, 7), (1, 2))])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"weight": False}])
def test_layer_norm(normalized_shape, axes, options, dtype):
    with pytest.warns(DeprecationWarning, match="elementwise_affine=") if "weight" in options else nullcontext():
        layer = LayerNorm(normalized_shape, dtype=dtype, **options)
    set_parameters(layer)
    x, dy = values((6, 5, 7), dtype), values((6, 5, 7), dtype, seed=2)
    y = layer(x)
    expected = reference.layer_norm_forward(x, layer.weight, layer.bias, axes)
    assert_normalized(y, expected.y, expected.x_hat, 1 if layer.weight is None else layer.weight)
    expected = reference.layer_norm_backward(dy, x, layer.weight, axes)
    assert_gradients(gradients(layer, layer.backward(dy), expected), expected)
    assert [*layer.grads] == [name for name, _ in layer.named_parameters()] == [*layer.state_dict()]


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_training_and_evaluation(affine, channel_axis):
    shape = (6, 5, 7)
    C = shape[channel_axis]
    layer = BatchNorm(C, affine=affine, channel_axis=channel_axis)
    set_parameters(layer)
    x, dy = values(shape), values(shape, seed=2)
    over_x = reference._per_channel(layer.weight, channel_axis, 3, 1)
    expected = reference.batch_norm_forward(x, layer.weight, layer.bias, channel_axis)
    assert_normalized(layer(x), expected.y, expected.x_hat, over_x)
    count = x.size // C
    assert_within(layer.running_mean, 0.1 * expected.mean.ravel(), 1e-8)
    assert_within(layer.running_var, 0.9 + 0.1 * expected.var.ravel() * count / (count - 1), 1e-7)
    expected = reference.batch_norm_backward(dy, x, layer.weight, channel_axis)
    assert_gradients(gradients(layer, layer.backward(dy), expected), expected)
    layer.zero_grad()

    before = layer.state_dict()
    y = layer.eval()(x)
    statistics = layer.running_mean, layer.running_var
    expected, x_hat = reference.batch_norm(x, *statistics, layer.weight, layer.bias, channel_axis)
    assert_normalized(y, expected, x_hat, over_x)
    rstd = 1 / np.sqrt(layer.running_var + layer.eps)
    expected = reference.batch_norm_backward_frozen(dy, x, layer.running_mean, rstd, layer.weight, channel_axis)
    assert_gradients(gradients(layer, layer.backward(dy), expected), expected)
    for key, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[key])  # evaluation changes nothing
    assert layer.train().training


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_batch_norm_leaves_out_what_the_mask_does(channel_axis):
    """In both modes, whatever the padding holds: the results of the other rows alone, and 0 in the padding."""
    shape = (6, 5, 7) if channel_axis == 1 else (6, 7, 5)
    layer, mask = BatchNorm(5, channel_axis=channel_axis), np.random.default_rng(0).random((6, 7)) < 0.6
    set_parameters(layer)
    x, dy = values(shape), values(shape, seed=2)
    rows, dy_rows = (np.moveaxis(a, channel_axis, -1)[mask] for a in (x, dy))
    np.moveaxis(x, channel_axis, -1)[~mask] = np.nan

    def packed(a):
        assert not np.moveaxis(a, channel_axis, -1)[~mask].any()
        return np.moveaxis(a, channel_axis, -1)[mask]

    expected = reference.batch_norm_forward(rows, layer.weight, layer.bias, 1)
    reused = mask.copy()
    assert_normalized(packed(layer(x, reused)), expected.y, expected.x_hat, layer.weight)
    reused[:] = False
    assert_within(layer.running_var, 0.9 + 0.1 * expected.var.ravel() * len(rows) / (len(rows) - 1), 1e-7)
    gradient = reference.batch_norm_backward(dy_rows, rows, layer.weight, 1)
    assert_gradients(gradients(layer, packed(layer.backward(dy)), gradient), gradient)
    layer.zero_grad()

    statistics = layer.running_mean, layer.running_var
    y, x_hat = reference.batch_norm(rows, *statistics, layer.weight, layer.bias, 1)
    assert_normalized(packed(layer.eval()(x, mask)), y, x_hat, layer.weight)
    rstd = 1 / np.sqrt(layer.running_var + layer.eps)
    gradient = reference.batch_norm_backward_frozen(dy_rows, rows, layer.running_mean, rstd, layer.weight, 1)
    assert_gradients(gradients(layer, packed(layer.backward(dy)), gradient), gradient)


@pytest.mark.parametrize("mode", [True, False])
def test_batch_norm_refuses_another_mask(mode):
    layer = BatchNorm(5).train(mode)
    for mask, error, message in (
        (np.ones(5, bool), ValueError, r"mask: shape \(5,\), must be \(6, 7\)"),
        (np.ones((6, 7)), TypeError, "mask: dtype float64, must be bool"),
        (np.zeros((6, 7), bool), ValueError, "mask: all False, must leave at least one position"),
    ):
        with pytest.raises(error, match=message):
            layer(values((6, 5, 7)), mask)
    assert layer.num_batches_tracked == 0


def test_momentum_none_gives_the_population_statistics_of_the_article():
    """The mean of the batches' means, and of their unbiased variances, exact to float64's rounding of each batch's."""
    batches = [values((n, 3, 5), offset=1e3, seed=n) for n in (4, 9, 2, 30)]
    layer = BatchNorm(3, momentum=None)
    for batch in batches:
        layer(batch)
    means = [batch.astype(np.float64).mean((0, 2)) for batch in batches]
    variances = [batch.astype(np.float64).var((0, 2), ddof=1) for batch in batches]
    # Sums of float32 runs err by 1e-8 of a standard deviation; nothing is added to that by the averages.
    np.testing.assert_allclose(layer.running_mean, np.mean(means, axis=0), rtol=0, atol=5e-8)
    np.testing.assert_allclose(layer.running_var, np.mean(variances, axis=0), rtol=2e-7)
    assert layer.num_batches_tracked == 4


def test_an_empty_batch_does_not_count():
    layer = BatchNorm(2, momentum=None)
    for batch in (np.zeros((0, 2), np.float32), np.array([[1, 10], [3, 30]], np.float32)):
        layer(batch)
    np.testing.assert_array_equal(layer.running_mean, [2, 20])
    np.testing.assert_array_equal(layer.running_var, [2, 200])


def test_evaluation_with_no_variance_at_all():
    layer, x = BatchNorm(2, eps=0, momentum=1), np.ones((3, 2), np.float32)
    layer(x)
    assert not np.isfinite(layer.eval()(x)).any()  # 0 / 0, and no warning


def test_evaluation_is_exact_far_from_zero():
    """A float32 running mean would be off by 0.03 standard deviations here."""
    layer, x = BatchNorm(3, momentum=None), values((1000, 3), offset=1e6)
    layer(x)
    layer.running_var[:] = x.astype(np.float64).var(axis=0)
    expected = reference.batch_norm_forward(x, None, None, 1)
    assert_normalized(layer.eval()(x), expected.y, expected.x_hat)


def test_statistics_of_an_evaluation_stay_until_its_backward():
    layer, dy = BatchNorm(4), values((6, 4), seed=2)
    layer(values((6, 4), seed=3))
    layer.eval()
    x = values((6, 4))
    layer(x)
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    layer.running_mean += 1  # what a later batch in training would do
    expected = batch_norm_backward(dy, x, mean, 1 / np.sqrt(var + layer.eps), layer.weight, frozen=True)
    np.testing.assert_array_equal(layer.backward(dy), expected.dx)


def test_a_state_with_a_key_that_is_no_string_is_refused():
    with pytest.raises(KeyError, match=r"keys \['1', 'weight'\], must be \['bias'"):
        BatchNorm(4).load_state_dict({"weight": np.zeros(4), 1: 2})


@pytest.mark.parametrize("affine", [True, False])
def test_layers_refuse_another_x_by_its_name(affine):
    batch, layer = BatchNorm(5, affine=affine), LayerNorm(3, elementwise_affine=affine)
    with pytest.raises(ValueError, match=r"x: shape \(6, 4\) has 4 channels on axis 1, must have 5"):
        batch(values((6, 4)))
    with pytest.raises(ValueError, match=r"x: shape \(2, 4\), must end in \(3,\)"):
        layer(values((2, 4)))
    for norm, shape in ((batch, (6, 5)), (layer, (2, 3))):
        with pytest.raises(TypeError, match=r"x: dtype float64, must be float32, .*x.astype\(np.float32\)"):
            norm(values(shape, np.float64))
        with pytest.raises(TypeError, match=r"x: builtins\.list, must be a numpy\.ndarray"):
            norm([1.0])
        norm(values(shape))
        with pytest.raises(TypeError, match=r"dy: dtype float64, must be float32 .*; pass dy.astype\(np.float32\)"):
            norm.backward(values(shape, np.float64))
    with pytest.raises(ValueError, match=r"must have 5; channel_axis=2 has 5"):
        batch(values((6, 4, 5)))
    assert batch.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LayerNorm(()), ValueError, r"normalized_shape: \(\), must name at least one axis"),
        (lambda: LayerNorm((4, 0)), ValueError, "normalized_shape: 0, must be at least 1"),
        (lambda: LayerNorm(4.0), TypeError, "normalized_shape: 4.0, must be an int or a tuple of ints"),
        (lambda: LayerNorm(4, eps=-1), ValueError, "eps: -1, must be finite"),
        (lambda: LayerNorm(4, dtype=np.float16), TypeError, "dtype: .*float16.*, must be float32 or float64"),
        (lambda: LayerNorm(10**30), ValueError, "normalized_shape: 10+, must be of at most 1152921504606846975 values"),
        (lambda: LayerNorm(10**5000), ValueError, "normalized_shape: <int>, must be of at most"),
        (
            lambda: LayerNorm((2**40, 2**40), elementwise_affine=False),
            ValueError,
            "normalized_shape: .*, must be of at",
        ),
        (lambda: LayerNorm((1,) * 65), ValueError, "normalized_shape: 65 sizes, must be at most 64"),
        (lambda: LayerNorm(-(10**30)), ValueError, "normalized_shape: -10+, must be at least 1"),
        (lambda: LayerNorm((4, "5")), TypeError, r"normalized_shape: \(4, '5'\), must be an int or a tuple of ints"),
        (lambda: LayerNorm(None), TypeError, "normalized_shape: None, must be an int or a tuple of ints"),
        (lambda: BatchNorm(10**30), ValueError, "num_features: 10+, must be of at most 1152921504606846975 values"),
        (lambda: BatchNorm(np.array([4])), TypeError, r"num_features: array\(\[4\]\), must be an int"),
        (lambda: BatchNorm(4.0), TypeError, "num_features: 4.0, must be an int"),
        (lambda: BatchNorm(4, channel_axis=10**30), ValueError, r"channel_axis: 10+, must be in \[-64, 63\]"),
        (lambda: BatchNorm(4, channel_axis=-65), ValueError, r"channel_axis: -65, must be in \[-64, 63\]"),
        (lambda: BatchNorm(4, eps="1e-5"), TypeError, "eps: '1e-5', must be a number"),
        (lambda: BatchNorm(4, eps=np.nan), ValueError, "eps: nan, must be finite and not negative"),
        (lambda: BatchNorm(4, momentum=np.array([0.1])), TypeError, r"momentum: array\(\[0.1\]\), must be a number"),
        (lambda: BatchNorm(4, momentum=np.nan), ValueError, r"momentum: nan, must be in \[0, 1\]"),
        (lambda: LayerNorm(4, weight=np.ones(4)), TypeError, "weight: array.*, must be True or False"),
        (lambda: LayerNorm(4, dtype=None), TypeError, "dtype: None, must be float32 or float64"),
        (lambda: BatchNorm(4, affine="no"), TypeError, "affine: 'no', must be True or False"),
        (lambda: BatchNorm(4, channel_axis="last"), TypeError, "channel_axis: 'last', must be an int"),
        (lambda: BatchNorm(4, channel_axis=True), TypeError, "channel_axis: True, must be an int"),
        (lambda: BatchNorm(True), TypeError, "num_features: True, must be an int"),
        (lambda: LayerNorm((2, True)), TypeError, r"normalized_shape: \(2, True\), must be an int or a tuple"),
        (lambda: BatchNorm("4"), TypeError, "num_features: '4', must be an int"),
        (lambda: BatchNorm(4, momentum=2), ValueError, r"momentum: 2, must be in \[0, 1\]"),
        (lambda: BatchNorm(4, dtype="wide"), TypeError, "dtype: 'wide', must be float32 or float64"),
    ],
)
def test_constructors_check_what_they_keep(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_layer_adds_no_copy_of_its_own():
    x = values((6, 4))
    np.testing.assert_array_equal(LayerNorm(4)(x), layer_norm_forward(x, np.ones(4, "f4"), np.zeros(4, "f4")).y)
    assert repr(BatchNorm(4)) == "BatchNorm(4, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    layer = BatchNorm(4, bias=False, channel_axis=-1, skip_nonfinite=True, dtype=np.float64)
    assert repr(layer).endswith(
        "track_running_stats=True, bias=False, channel_axis=-1, skip_nonfinite=True, dtype=np.float64)"
    )
    assert repr(eval(repr(layer))) == repr(layer)
    assert repr(LayerNorm(4, bias=False)) == "LayerNorm((4,), eps=1e-05, elementwise_affine=True, bias=False)"


@pytest.mark.parametrize("channel_axis", [1, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibrate_gives_the_statistics_of_all_values_together(channel_axis, dtype):
    """Batches of several sizes, whose means differ; one is empty."""
    batches = [values((n, 5, 5), dtype, offset=1e3 + 2 * n, seed=n) for n in (1, 7, 0, 20)]
    layer = BatchNorm(5, channel_axis=channel_axis, dtype=dtype)
    layer(batches[-1])
    assert layer.calibrate(iter(batches)) is layer
    whole = np.moveaxis(np.concatenate(batches), channel_axis, -1).reshape(-1, 5).astype(np.float64)
    assert_within(layer.running_mean, whole.mean(0), 1e-12 * whole.mean(0))
    assert_within(layer.running_var, whole.var(0, ddof=1), 1e-12 * whole.var(0, ddof=1))
    assert layer.num_batches_tracked == 4


def test_the_two_kinds_of_population_statistics():
    """The mean of the batches' variances lacks that of their means, which is 4; both are right for like batches."""
    for apart, more in ((0.0, 0.0), (4.0, 4.0)):
        batches = [values((5000, 1), offset=apart * (i % 2), seed=i) for i in range(20)]
        within, whole = BatchNorm(1, momentum=None), BatchNorm(1).calibrate(batches)
        for batch in batches:
            within(batch)
        assert_within(within.running_mean, whole.running_mean, 1e-7)
        assert_within(within.running_var, np.ones(1), 0.02)
        assert_within(whole.running_var, np.ones(1) + more, 0.05)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        (None, TypeError, "^batches: NoneType, must be an iterable"),
        ([], ValueError, "^batches: 0 values per channel in all, must be at least two"),
        ([np.ones((1, 2), np.float32)], ValueError, "^batches: 1 values per channel"),
        (
            [np.ones((5, 2), np.float32), np.ones((5, 3), np.float32)],
            ValueError,
            r"^batches\[1\]: shape \(5, 3\) has 3",
        ),
        (np.ones((5, 3), np.float32), ValueError, r"^batches: shape \(5, 3\) has 3 channels on axis 1, must have 2"),
        ([np.ones((5, 2))], TypeError, r"^batches\[0\]: dtype float64, must be float32, the layer's"),
        (iter([np.ones(2, np.float32)]), ValueError, r"^batches\[0\]: shape \(2,\), must have at least 2 axes"),
        (
            [[1.0, 2.0]],
            TypeError,
            r"^batches\[0\]: builtins.list, must be .*; pass np.asarray\(batches\[0\]",
        ),
        (np.ma.ones((5, 2)), TypeError, "^batches: numpy.ma.MaskedArray, must be a plain numpy.ndarray"),
    ],
)
def test_calibrate_refuses(batches, error, message):
    layer = BatchNorm(2)
    layer(values((9, 2)))
    before = layer.state_dict()
    with pytest.raises(error, match=message):
        layer.calibrate(batches)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
