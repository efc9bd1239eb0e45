"""Each family of kernels on the GPU beside the reference in float64: the stages `correctness` and, of a few, `small`.

The families run beside each other, since compiling takes most of the time. Tolerances are the tests' own.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.first_contact.steps import Lacking, Steps, need


class Case(NamedTuple):
    """x, and how it is normalised."""

    operation: str  # a function of CHECKS
    shape: tuple[int, ...]
    axis: int = -1
    how: str = ""  # of BN: masked, frozen
    library: str = "numba"  # whose arrays it has: those are always there

    def __str__(self) -> str:
        words = self.operation, "x".join(map(str, self.shape)), f"axis {self.axis}", self.how, f"of {self.library}"
        return " ".join(filter(None, words))


def _of(operation: str, *shapes: tuple[int, ...], axis: int = -1) -> list[Case]:
    return [Case(operation, shape, axis) for shape in shapes]


CHANNELS = [((700, 1024), 1), ((4, 8, 56, 56), 1), ((64, 96, 7, 7), 1), ((8, 14, 14, 64), -1)]
FAMILIES: dict[str, list[Case]] = {
    "rows": _of("layer_norm", (64, 768), (37, 64), (37, 8), (37, 100), (37, 1024), (37, 1023), (9, 4096)),
    "long rows": _of("layer_norm", (5, 8192), (3, 70001), (3, 16384), (2, 65536)),
    "columns": _of("layer_norm", (4, 50, 7), (3, 300, 40), axis=1),
    "RMS normalization": [
        *_of("rms_norm", (64, 768), (37, 1023), (9, 4096), (5, 8192), (3, 70001)),
        *_of("rms_norm", (4, 50, 7), axis=1),
    ],
    "rows of channels": _of("batch_norm", (700, 1024), (1000, 64), (300, 1001), axis=1),
    "channels first": _of("batch_norm", (4, 8, 56, 56), (64, 96, 7, 7), (9, 5, 3), (2, 3, 40000), axis=1),
    "channels last": _of("batch_norm", (8, 14, 14, 64)),
    "masked": [Case("batch_norm", *channels, "masked") for channels in CHANNELS],
    "frozen": [Case("batch_norm", *channels, "frozen") for channels in CHANNELS],
    "moments": [Case("moments", *channels) for channels in CHANNELS],
    "scalers": _of("scalers", (5000, 6), (300, 1500)),
    "libraries": [Case("both norms", (64, 768), 1, library=library) for library in ("torch", "cupy")],
}
DTYPES = (np.float32, np.float64)
ALONE = {"scalers": DTYPES[:1], "libraries": DTYPES[:1]}


def steps(part: str, until: float) -> Steps:
    """Of a family."""
    return {
        f"{case} {np.dtype(dtype)}": partial(check, case, dtype)
        for dtype in ALONE.get(part, DTYPES)
        for case in FAMILIES[part]
    }


def small_steps() -> Steps:
    """The first case of each family of kernels in float32, for tools that slow everything down."""
    firsts = [cases[0] for name, cases in FAMILIES.items() if cases and name != "libraries"]  # which has no own kernels
    return {f"{case}": partial(check, case, np.float32) for case in firsts}


def check(case: Case, dtype: type) -> dict[str, Any]:
    """What a step does."""
    CHECKS[case.operation](device_of(case.library), case, dtype)
    return {"ok": True}


def device_of(library: str) -> Any:
    """The GPU, as tests see it, by the arrays of this library."""
    from bench.gpu_device import no_gpu

    need(no_gpu())
    from tests.devices import Gpu

    device = Gpu(library)
    if lack := device.lacking():
        raise Lacking(lack)
    return device


def _given(case: Case, dtype: type) -> tuple[np.ndarray, ...]:
    """x, dy, weight and bias, and the weight as it is broadcast."""
    from tests.cases import values

    n = case.shape[case.axis]
    weight, bias = values((2, n), dtype, seed=1)
    shape = [n if i == case.axis % len(case.shape) else 1 for i in range(len(case.shape))]
    return values(case.shape, dtype, 3.0), values(case.shape, dtype, seed=2), weight, bias, weight.reshape(shape)


def _over_axes(device: Any, case: Case, dtype: type, stem: str = "") -> None:
    """Forward and backward of the norm that the case names."""
    from numbanorm._operations import OPERATIONS
    from tests import cases, reference

    (x, dy, weight, bias, over_x), axis = _given(case, dtype), case.axis
    forward, backward = (OPERATIONS[f"{stem or case.operation}_{way}"] for way in ("forward", "backward"))
    affine = (weight, bias)[: len(forward.optional)]
    result = device.wrap(forward.function)(x, *affine, axis=axis)
    cases.assert_forward(result, getattr(reference, forward.name)(x, *affine, axis), over_x)
    gradients = device.wrap(backward.function)(dy, x, *result[1:], weight, axis=axis)
    cases.assert_gradients(gradients, getattr(reference, backward.name)(dy, x, weight, axis))


def _batch_norm(device: Any, case: Case, dtype: type) -> None:
    import numbanorm
    from tests import cases, reference

    (x, dy, weight, bias, over_x), axis = _given(case, dtype), case.axis
    mask = None
    if case.how == "masked":
        others = tuple(size for i, size in enumerate(case.shape) if i != axis % x.ndim)
        mask = cases.values(others, seed=5) > 0
    expected = reference.batch_norm_forward(x, weight, bias, axis, mask=mask)
    y, mean, rstd = device.wrap(numbanorm.batch_norm_forward)(x, weight, bias, channel_axis=axis, mask=mask)
    cases.assert_normalized(y, expected.y, expected.x_hat, over_x)
    cases.assert_statistics(mean, rstd, expected)
    backward = device.wrap(numbanorm.batch_norm_backward)
    if case.how == "frozen":
        gradients = backward(dy, x, mean, rstd, weight, channel_axis=axis, frozen=True)
        exact = reference.batch_norm_backward_frozen(dy, x, mean, rstd, weight, axis)
    else:
        gradients = backward(dy, x, mean, rstd, weight, channel_axis=axis, mask=mask)
        exact = reference.batch_norm_backward(dy, x, weight, axis, mask=mask)
    cases.assert_gradients(gradients, exact)
    var = np.ascontiguousarray(expected.var.ravel(), dtype)
    y = device.wrap(numbanorm.batch_norm)(x, mean, var, weight, bias, channel_axis=axis)
    cases.assert_normalized(y, *reference.batch_norm(x, mean, var, weight, bias, axis), over_x)


def _both_norms(device: Any, case: Case, dtype: type) -> None:
    _over_axes(device, case, dtype, "layer_norm")
    _batch_norm(device, case, dtype)


def _moments(device: Any, case: Case, dtype: type) -> None:
    """And both halves of the backward pass."""
    import numbanorm
    from tests import cases, reference

    (x, dy, weight, *_), axis = _given(case, dtype), case.axis
    expected = reference.batch_norm_forward(x, None, None, axis)
    mean, var = expected.mean.ravel(), expected.var.ravel()
    found = numbanorm.Moments.of(device.to_device(x), channel_axis=axis)
    np.testing.assert_array_equal(found.count, x.size // mean.size)
    cases.assert_within(found.mean, mean, 1e-12 * np.sqrt(var))
    cases.assert_within(found.var(), var, 1e-12 * var)
    kept = found.mean, 1 / np.sqrt(found.var() + 1e-5)
    sums = device.wrap(numbanorm.batch_norm_backward_reduce)(dy, x, *kept, channel_axis=axis)
    apply = partial(device.wrap(numbanorm.batch_norm_backward_apply), dy, x, *kept, weight, *sums)
    dx = apply(x.size // mean.size, channel_axis=axis)
    exact = reference.batch_norm_backward(dy, x, weight, axis)
    cases.assert_gradients(reference.Gradients(dx, sums.sum_dy_xhat, sums.sum_dy, *exact[3:]), exact)


def _scalers(device: Any, case: Case, dtype: type) -> None:
    """Of a table in which values are missing."""
    import numbanorm
    from tests import cases

    X = cases.values(case.shape, dtype, 100.0)
    X[cases.values(X.shape, seed=1) > 1] = np.nan
    exact = X.astype(float)
    low, spread = np.nanmin(exact, 0), np.nanmax(exact, 0) - np.nanmin(exact, 0)
    scaled = (exact - np.nanmean(exact, 0)) / np.nanstd(exact, 0), (exact - low) / spread
    for scaler, expected in zip((numbanorm.StandardScaler(), numbanorm.MinMaxScaler()), scaled, strict=True):
        y = device.wrap(scaler.fit_transform)(X)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(X))
        limit = cases.tolerance(dtype) * np.fmax(1, np.abs(expected)).max()
        cases.assert_within(np.nan_to_num(y), np.nan_to_num(expected), limit)


CHECKS = {"layer_norm": _over_axes, "rms_norm": _over_axes, "batch_norm": _batch_norm, "both norms": _both_norms}
CHECKS |= {"moments": _moments, "scalers": _scalers}
