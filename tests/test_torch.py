"""Agreement with PyTorch, where it is installed, on the shapes of well-known networks."""

import numpy as np
import pytest

from numbanorm import (
    BatchNorm,
    LayerNorm,
    RMSNorm,
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from tests.cases import values
from tests.layouts import LAYOUTS

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # PyTorch sums whole rows in float32
SUM_TOLERANCE = 5e-6  # of the sum of the terms' magnitudes: the contract's 2e-6 and PyTorch's own error

LAYER_NORM = {  # shape, axis
    "BERT": ((8, 128, 768), -1),
    "ViT": ((4, 197, 384), -1),
    "ConvNeXt": ((2, 96, 56, 56), 1),
    "MLP": ((512, 100), -1),
    "image": ((4, 3, 32, 32), (1, 2, 3)),
}
BATCH_NORM = {  # shape
    "ResNet-50, first": (4, 64, 56, 56),
    "ResNet-50, last": (8, 2048, 7, 7),
    "MLP": (512, 100),
    "sequence": (16, 40, 100),
    "volume": (2, 8, 6, 10, 12),
}


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected.detach().numpy(), **tolerance)


def assert_sums_close(gradients, dweight, dbias, dy, x_hat, axes):
    """The parameter gradients, sums over axes."""
    for actual, expected, terms in ((gradients.dweight, dweight, dy * x_hat), (gradients.dbias, dbias, dy)):
        assert_sum_close(actual, expected, terms, axes)


def assert_sum_close(actual, expected, terms, axes):
    limit = SUM_TOLERANCE * np.abs(terms).sum(axes)
    assert (np.abs(actual - expected.detach().numpy()) <= limit).all()


@pytest.mark.parametrize("case", LAYER_NORM)
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm(case, affine):
    shape, axis = LAYER_NORM[case]
    axes = axis if isinstance(axis, tuple) else (axis,)
    x, dy = values(shape), values(shape, seed=2)
    weight, bias = values((2, *(shape[a] for a in axes)), seed=1) if affine else (None, None)
    tensors = [None if a is None else torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    last = tuple(range(-len(axes), 0))
    moved, tensor_weight, tensor_bias = tensors[0].movedim(axes, last), *tensors[1:]
    expected, expected_mean, expected_rstd = torch.native_layer_norm(
        moved.contiguous(), [shape[a] for a in axes], tensor_weight, tensor_bias, 1e-5
    )
    expected.movedim(last, axes).backward(torch.from_numpy(dy))

    y, mean, rstd = layer_norm_forward(x, weight, bias, axis=axis)
    gradients = layer_norm_backward(dy, x, mean, rstd, weight, axis=axis)
    assert_close(y, expected.movedim(last, axes), TOLERANCE)
    assert_close(np.squeeze(mean, axes), expected_mean.squeeze(last), TOLERANCE)
    assert_close(np.squeeze(rstd, axes), expected_rstd.squeeze(last), TOLERANCE)
    assert_close(gradients.dx, tensors[0].grad, TOLERANCE)
    if affine:
        others = tuple(i for i in range(x.ndim) if i not in {a % x.ndim for a in axes})
        assert_sums_close(gradients, tensors[1].grad, tensors[2].grad, dy, (x - mean) * rstd, others)


@pytest.mark.parametrize("case", LAYER_NORM)
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm(case, affine):
    shape, axis = LAYER_NORM[case]
    axes = axis if isinstance(axis, tuple) else (axis,)
    x, dy = values(shape), values(shape, seed=2)
    weight = values([shape[a] for a in axes], seed=1) if affine else None
    tensor, tensor_weight = (None if a is None else torch.tensor(a, requires_grad=True) for a in (x, weight))
    last = tuple(range(-len(axes), 0))
    moved = tensor.movedim(axes, last).contiguous()
    expected = torch.nn.functional.rms_norm(moved, [shape[a] for a in axes], tensor_weight, 1e-6).movedim(last, axes)
    expected.backward(torch.from_numpy(dy))

    y, rstd = rms_norm_forward(x, weight, axis=axis)
    gradients = rms_norm_backward(dy, x, rstd, weight, axis=axis)
    assert_close(y, expected, TOLERANCE)
    assert_close(gradients.dx, tensor.grad, TOLERANCE)
    if affine:
        others = tuple(i for i in range(x.ndim) if i not in {a % x.ndim for a in axes})
        assert_sum_close(gradients.dweight, tensor_weight.grad, dy * x * rstd, others)


@pytest.mark.parametrize("case", BATCH_NORM)
@pytest.mark.parametrize("memory", ["channels first", "channels last"])
def test_batch_norm(case, memory):
    shape = BATCH_NORM[case]
    x, dy = values(shape), values(shape, seed=2)
    weight, bias, running_mean = values((3, shape[1]), seed=1)
    running_var = np.abs(running_mean) + 1
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    running = [torch.tensor(a) for a in (running_mean, running_var)]
    expected, expected_mean, expected_rstd = torch.native_batch_norm(*tensors, *running, True, 0.3, 1e-5)
    expected.backward(torch.from_numpy(dy))

    if memory == "channels last":
        x, dy = (LAYOUTS["channels_last"](a) for a in (x, dy))
    y, mean, rstd = batch_norm_forward(x, weight, bias, running_mean, running_var, momentum=0.3)
    gradients = batch_norm_backward(dy, x, mean, rstd, weight)
    assert y.strides == x.strides
    assert_close(y, expected, TOLERANCE)
    assert_close(mean, expected_mean, TOLERANCE)
    assert_close(rstd, expected_rstd, TOLERANCE)
    assert_close(running_mean, running[0], TOLERANCE)
    assert_close(running_var, running[1], TOLERANCE)
    assert_close(gradients.dx, tensors[0].grad, TOLERANCE)
    others = tuple(i for i in range(x.ndim) if i != 1)
    x_hat = (x - np.expand_dims(mean, [i - 1 for i in others[1:]])) * np.expand_dims(rstd, [i - 1 for i in others[1:]])
    assert_sums_close(gradients, tensors[1].grad, tensors[2].grad, dy, x_hat, others)

    expected = torch.nn.functional.batch_norm(tensors[0], *running, *tensors[1:])
    assert_close(batch_norm(x, running_mean, running_var, weight, bias), expected, TOLERANCE)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_state_goes_both_ways(momentum):
    theirs, ours = torch.nn.BatchNorm2d(5, momentum=momentum), BatchNorm(5, momentum=momentum)
    with torch.no_grad():
        theirs.weight.uniform_()
        theirs.bias.uniform_()
    for seed in range(3):
        theirs(torch.from_numpy(values((4, 5, 3, 3), seed=seed)))
    ours.load_state_dict(theirs.state_dict())
    x = values((4, 5, 3, 3), seed=9)
    assert_close(ours(x), theirs(torch.from_numpy(x)), TOLERANCE)
    assert_close(ours.eval()(x), theirs.eval()(torch.from_numpy(x)), TOLERANCE)

    fresh = torch.nn.BatchNorm2d(5, momentum=momentum)
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    assert_close(ours(x), fresh.eval()(torch.from_numpy(x)), TOLERANCE)
    assert fresh.num_batches_tracked == ours.num_batches_tracked == 4


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_state_goes_both_ways(bias):
    theirs, ours = torch.nn.LayerNorm((3, 4), bias=bias), LayerNorm((3, 4), bias=bias)
    with torch.no_grad():
        theirs.weight.uniform_()
    ours.load_state_dict(theirs.state_dict())
    x = values((6, 3, 4))
    assert_close(ours(x), theirs(torch.from_numpy(x)), TOLERANCE)
    fresh = torch.nn.LayerNorm((3, 4), bias=bias)
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    assert_close(ours(x), fresh(torch.from_numpy(x)), TOLERANCE)


@pytest.mark.parametrize("eps", [None, 0.1])
def test_rms_norm_state_goes_both_ways(eps):
    theirs, ours = torch.nn.RMSNorm((3, 4), eps), RMSNorm((3, 4), eps)
    with torch.no_grad():
        theirs.weight.uniform_()
    ours.load_state_dict(theirs.state_dict())
    x = values((6, 3, 4))
    assert_close(ours(x), theirs(torch.from_numpy(x)), TOLERANCE)
    fresh = torch.nn.RMSNorm((3, 4), eps)
    fresh.load_state_dict({key: torch.from_numpy(value) for key, value in ours.state_dict().items()})
    assert_close(ours(x), fresh(torch.from_numpy(x)), TOLERANCE)
