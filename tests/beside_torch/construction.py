"""Rows on making a layer."""

import inspect
import warnings

import numpy as np
import pytest

from numbanorm import BatchNorm, LayerNorm, RMSNorm
from tests.beside_torch.both import DY, X, assert_close, assert_same, flat, run_ours, run_theirs
from tests.beside_torch.table import topic
from tests.cases import values

row = topic("Making a layer")


@row(
    "`normalized_shape`, the sizes of the last axes",
    "`LayerNorm(5)`, `LayerNorm((3, 5))`",
    "`LayerNorm(5)`, `LayerNorm((3, 5))`",
)
def normalized_shape(torch):
    for shape in (5, (3, 5)):
        assert_same(torch, torch.nn.LayerNorm(shape), LayerNorm(shape))


@row(
    "`RMSNorm`: `normalized_shape`, `eps`, `elementwise_affine`",
    "`RMSNorm(5)`, `RMSNorm((3, 5), 0.1, False)`",
    "`RMSNorm(5)`, `RMSNorm((3, 5), 0.1, False)`",
    "the same; `eps=None` is the spacing of the dtype at 1",
)
def rms_norm(torch):
    for arguments in ((5,), ((3, 5), 0.1, False), (5, 1e-6)):
        assert_same(torch, torch.nn.RMSNorm(*arguments), RMSNorm(*arguments))
    tiny, dtype = X * 1e-4, {"dtype": torch.float64}  # of which eps is a large part
    assert_same(torch, torch.nn.RMSNorm(5), RMSNorm(5), tiny)
    module, layer = torch.nn.RMSNorm(5, **dtype), RMSNorm(5, dtype=np.float64)
    assert_same(torch, module, layer, tiny.astype(np.float64) * 1e-4, DY.astype(np.float64) * 1e-8)
    given = [[*inspect.signature(made).parameters.values()] for made in (RMSNorm, torch.nn.RMSNorm)]
    shared, expected = ([(p.name, p.default) for p in parameters[:3]] for parameters in given)
    assert shared == expected


@row(
    "`num_features`, the number of channels",
    "`BatchNorm1d(3)`, `BatchNorm2d(3)`, `BatchNorm3d(3)`, each for its numbers of axes",
    "`BatchNorm(3)`",
    "one layer for every x of 2 or more axes",
)
def num_features(torch):
    for make, shape in (
        (torch.nn.BatchNorm1d, (9, 3)),
        (torch.nn.BatchNorm1d, (6, 3, 5)),
        (torch.nn.BatchNorm2d, (4, 3, 5, 2)),
        (torch.nn.BatchNorm3d, (2, 3, 5, 2, 2)),
    ):
        assert_same(torch, make(3), BatchNorm(3), values(shape), values(shape, seed=2))
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        torch.nn.BatchNorm1d(3)(torch.zeros(4, 3, 5, 2))


@row(
    "order and defaults of the arguments",
    "`LayerNorm(5, 1e-5, True, True)`, `BatchNorm1d(3, 1e-5, 0.1, True, True)`",
    "`LayerNorm(5, 1e-5, True, True)`, `BatchNorm(3, 1e-5, 0.1, True, True)`",
    "the same; all others by keyword",
)
def order(torch):
    for ours, theirs, count in ((LayerNorm, torch.nn.LayerNorm, 4), (BatchNorm, torch.nn.BatchNorm1d, 5)):
        given = [[*inspect.signature(made).parameters.values()] for made in (ours, theirs)]
        shared, expected = ([(p.name, p.default) for p in parameters[:count]] for parameters in given)
        assert shared == expected
        assert all(p.kind is p.KEYWORD_ONLY for p in given[0][count:])


@row("`eps`", "`LayerNorm(5, 0.1)`, `BatchNorm1d(3, eps=0.1)`", "`LayerNorm(5, 0.1)`, `BatchNorm(3, eps=0.1)`")
def eps(torch):
    assert_same(torch, torch.nn.LayerNorm(5, 0.1), LayerNorm(5, 0.1))
    assert_same(torch, torch.nn.BatchNorm1d(3, eps=0.1), BatchNorm(3, eps=0.1))


@row(
    "impossible values",
    "`eps=-1`: y is NaN; `momentum=1.5`: accepted",
    "`eps=-1`, `momentum=1.5`: ValueError",
    "an error when the layer is made",
)
def impossible_values(torch):
    assert torch.nn.LayerNorm(5, eps=-4.0)(torch.from_numpy(X)).isnan().all()
    assert torch.nn.BatchNorm1d(3, momentum=1.5).momentum == 1.5
    with pytest.raises(ValueError, match=r"eps: -4.0, must be finite and not negative"):
        LayerNorm(5, eps=-4.0)
    with pytest.raises(ValueError, match=r"momentum: 1.5, must be in \[0, 1\]"):
        BatchNorm(3, momentum=1.5)


@row(
    "without weight and bias: `elementwise_affine`, `affine`",
    "`LayerNorm(5, elementwise_affine=False)`, `BatchNorm1d(3, affine=False)`",
    "`LayerNorm(5, elementwise_affine=False)`, `BatchNorm(3, affine=False)`",
)
def affine(torch):
    assert_same(torch, torch.nn.LayerNorm(5, elementwise_affine=False), LayerNorm(5, elementwise_affine=False))
    assert_same(torch, torch.nn.BatchNorm1d(3, affine=False), BatchNorm(3, affine=False))


@row(
    "a weight alone: `bias`",
    "`LayerNorm(5, bias=False)`; `BatchNorm1d(3, bias=False)` in recent versions",
    "`LayerNorm(5, bias=False)`, `BatchNorm(3, bias=False)`",
)
def weight_alone(torch):
    assert_same(torch, torch.nn.LayerNorm(5, bias=False), LayerNorm(5, bias=False))
    module = torch.nn.BatchNorm1d(3)
    module.bias = None  # what bias=False does in the versions that have it
    assert_same(torch, module, BatchNorm(3, bias=False))


@row("`momentum`, a number", "`BatchNorm1d(3, momentum=0.3)`", "`BatchNorm(3, momentum=0.3)`")
def momentum(torch):
    module, layer = torch.nn.BatchNorm1d(3, momentum=0.3), BatchNorm(3, momentum=0.3)
    for seed in range(3):
        assert_same(torch, module, layer, values(X.shape, seed=seed))
        module.zero_grad()
        layer.zero_grad()


@row("`momentum`, None: a cumulative average", "`BatchNorm1d(3, momentum=None)`", "`BatchNorm(3, momentum=None)`")
def momentum_none(torch):
    module, layer = torch.nn.BatchNorm1d(3, momentum=None), BatchNorm(3, momentum=None)
    for seed in range(3):
        assert_same(torch, module, layer, values(X.shape, seed=seed))
        module.zero_grad()
        layer.zero_grad()


@row(
    "no running statistics: `track_running_stats`",
    "`BatchNorm1d(3, track_running_stats=False)`",
    "`BatchNorm(3, track_running_stats=False)`",
    "the same: evaluation takes the statistics of the batch; `running_mean` is None",
)
def track_running_stats(torch):
    module, layer = torch.nn.BatchNorm1d(3, track_running_stats=False), BatchNorm(3, track_running_stats=False)
    assert_same(torch, module.eval(), layer.eval())
    assert module.running_mean is layer.running_mean is layer.running_var is layer.num_batches_tracked is None
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        module(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="one value per channel"):
        layer(np.zeros((1, 3), np.float32))


@row(
    "`channel_axis`",
    "`bn(x.movedim(-1, 1)).movedim(1, -1)`",
    "`BatchNorm(3, channel_axis=-1)`",
    "an argument; PyTorch's is 1",
)
def channel_axis(torch):
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3, channel_axis=-1)
    last = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    assert_close(layer(last), module(torch.from_numpy(last).movedim(-1, 1)).movedim(1, -1))
    assert_close(layer.running_var, module.running_var)


@row(
    "`dtype`, of parameters and x",
    "`dtype=torch.float64`, half types as well; `double()` changes it",
    "`dtype=np.float64`, or `np.float32`",
    "one of these two; it stays",
)
def dtype(torch):
    x, dy = X.astype(np.float64), DY.astype(np.float64)
    assert_same(torch, torch.nn.LayerNorm(5, dtype=torch.float64), LayerNorm(5, dtype=np.float64), x, dy)
    assert torch.nn.LayerNorm(5).double().weight.dtype == torch.nn.LayerNorm(5, dtype=torch.float64).weight.dtype
    assert torch.nn.LayerNorm(5, dtype=torch.float16).weight.dtype == torch.float16
    with pytest.raises(TypeError, match=r"dtype: .*float16.*, must be float32 or float64"):
        LayerNorm(5, dtype=np.float16)
    with pytest.raises(RuntimeError, match="mixed dtype"):
        torch.nn.LayerNorm(5)(torch.from_numpy(x))
    with pytest.raises(TypeError, match="x: dtype float64, must be float32"):
        LayerNorm(5)(x)


@row(
    "dtype of the running statistics",
    "that of the parameters",
    "float64",
    "evaluation is right far from zero, where PyTorch's is off by the rounding of the mean",
)
def dtype_of_statistics(torch):
    module, layer = torch.nn.BatchNorm1d(3, momentum=1.0), BatchNorm(3, momentum=1.0)
    x = (X + np.float32(1e6)).astype(np.float32)  # where values of float32 are 0.06 apart
    module(torch.from_numpy(x))
    layer(x)
    assert module.running_mean.dtype is torch.float32
    assert layer.running_mean.dtype is layer.running_var.dtype is np.dtype(np.float64)
    wide = flat(x).astype(np.float64)
    expected = (wide - wide.mean(0)) / np.sqrt(wide.var(0, ddof=1) + 1e-5)
    with torch.no_grad():
        theirs = flat(module.eval()(torch.from_numpy(x)).numpy())
    assert np.abs(theirs - expected).max() > 1e-3
    np.testing.assert_allclose(flat(layer.eval()(x)), expected, rtol=2e-6, atol=2e-6)


@row(
    "`device`",
    '`device="cuda"`, `to("cuda")`',
    "none",
    "layers hold NumPy arrays; arrays on a GPU go to the functions, as `layer_norm_forward`",
)
def device(torch):
    assert torch.nn.LayerNorm(5, device="cpu").weight.device.type == "cpu"
    with pytest.raises(TypeError, match="unexpected keyword argument 'device'"):
        LayerNorm(5, device="cpu")
    assert type(LayerNorm(5).weight) is np.ndarray


@row(
    "`skip_nonfinite`",
    "none",
    "`BatchNorm(3, skip_nonfinite=True)`",
    "an option: a batch with inf or NaN does not enter the running statistics, and is not counted",
)
def skip_nonfinite(torch):
    spoiled = X.copy()
    spoiled[0, 1, 0] = np.inf
    module, layer = torch.nn.BatchNorm1d(3), BatchNorm(3, skip_nonfinite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(spoiled)
    assert_same(torch, module, layer)  # as if it had not been there
    run_theirs(torch, module, spoiled)
    run_ours(layer, spoiled)
    assert not module.running_var.isfinite().all()
    assert np.isfinite(layer.running_var).all()
    assert (module.num_batches_tracked, layer.num_batches_tracked) == (2, 1)
