"""The oracle itself, against central differences."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests import cases, reference

STEP = 1e-5
TOLERANCE = 1e-8  # differences of step h err by h * h times a third derivative of order 1, and by 1e-16 / h


def central_difference(loss, a):
    """The gradient of loss with respect to a, which it reads."""
    gradient = np.empty_like(a)
    for i in np.ndindex(a.shape):
        middle = a[i]
        a[i] = middle + STEP
        above = loss()
        a[i] = middle - STEP
        gradient[i] = (above - loss()) / (2 * STEP)
        a[i] = middle
    return gradient


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("axes", [(2,), (1,), (0, 2), (0, 1, 2)])
def test_layer_norm_gradients(rng, axes):
    x, dy = rng.standard_normal((2, 2, 3, 4))
    weight, bias = rng.standard_normal((2, *(x.shape[a] for a in axes)))
    expected = reference.layer_norm_backward(dy, x, weight, axes)

    def loss():
        return float((dy * reference.layer_norm_forward(x, weight, bias, axes).y).sum())

    np.testing.assert_allclose(expected.dx.astype(float), central_difference(loss, x), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dweight.astype(float), central_difference(loss, weight), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dbias.astype(float), central_difference(loss, bias), atol=TOLERANCE)


@pytest.mark.parametrize("axes", [(2,), (1,), (0, 2), (0, 1, 2)])
def test_rms_norm_gradients(rng, axes):
    x, dy = rng.standard_normal((2, 2, 3, 4))
    weight = rng.standard_normal([x.shape[a] for a in axes])
    expected = reference.rms_norm_backward(dy, x, weight, axes)

    def loss():
        return float((dy * reference.rms_norm_forward(x, weight, axes).y).sum())

    np.testing.assert_allclose(expected.dx.astype(float), central_difference(loss, x), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dweight.astype(float), central_difference(loss, weight), atol=TOLERANCE)


@pytest.mark.parametrize("channel_axis", [0, 1, -1])
@pytest.mark.parametrize("masked", [False, True])
def test_batch_norm_gradients(rng, channel_axis, masked):
    x, dy = rng.standard_normal((2, 3, 4, 5))
    mask = rng.random(np.delete(x.shape, channel_axis)) < 0.6 if masked else None
    weight, bias = rng.standard_normal((2, x.shape[channel_axis]))
    expected = reference.batch_norm_backward(dy, x, weight, channel_axis, mask=mask)

    def loss():
        return float((dy * reference.batch_norm_forward(x, weight, bias, channel_axis, mask=mask).y).sum())

    np.testing.assert_allclose(expected.dx.astype(float), central_difference(loss, x), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dweight.astype(float), central_difference(loss, weight), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dbias.astype(float), central_difference(loss, bias), atol=TOLERANCE)


def test_frozen_batch_norm_gradients(rng):
    x, dy = rng.standard_normal((2, 3, 4))
    mean, weight, bias = rng.standard_normal((3, 4))
    var = rng.random(4)
    expected = reference.batch_norm_backward_frozen(dy, x, mean, 1 / np.sqrt(var + 1e-5), weight, 1)

    def loss():
        return float((dy * reference.batch_norm(x, mean, var, weight, bias, 1)[0]).sum())

    np.testing.assert_allclose(expected.dx.astype(float), central_difference(loss, x), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dweight.astype(float), central_difference(loss, weight), atol=TOLERANCE)
    np.testing.assert_allclose(expected.dbias.astype(float), central_difference(loss, bias), atol=TOLERANCE)


def test_a_result_that_is_missing_is_no_right_one(rng):
    """Whatever the reference has, what is held against it must have."""
    x, dy = rng.standard_normal((2, 3, 4))
    forward = reference.layer_norm_forward(x, None, None, -1)
    gradients = reference.layer_norm_backward(dy, x, None, -1)
    cases.assert_forward(forward, forward)
    cases.assert_gradients(gradients, gradients)
    with pytest.raises(AttributeError, match="mean"):
        cases.assert_forward(SimpleNamespace(y=forward.y, rstd=forward.rstd), forward)
    with pytest.raises(AttributeError, match="dbias"):
        cases.assert_gradients(SimpleNamespace(dx=gradients.dx, dweight=gradients.dweight), gradients)
