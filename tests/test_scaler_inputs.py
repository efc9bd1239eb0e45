"""What the scalers accept, with scikit-learn and without it, and attributes that are set by hand; errors by name."""

import datetime
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

import numbanorm
from numbanorm import MinMaxScaler, Moments, StandardScaler
from tests.cases import values
from tests.test_scalers import SCALERS, new

_DAYS = np.array([["2020-01-01"], ["2020-01-03"], ["NaT"]], "M8[D]")

ACCEPTED = """
import numpy as np
from fractions import Fraction
from numbanorm import MinMaxScaler

days = np.array([["2020-01-01"], ["2020-01-03"], ["NaT"], ["2020-01-02"]], "M8[D]")
tables = [
    days,
    days - days[0, 0],
    np.array([["1"], ["3"], ["nan"], ["2"]]),
    np.array([[b"1"], [b"3"], [b"nan"], [b"2"]]),
    [["1"], ["3"], ["nan"], ["2"]],
    np.array([["1"], [3], [None], [2.0]], object),
    [[Fraction(1, 2)], [Fraction(3, 2)], [None], [1]],
    [[10**20], [3 * 10**20], [None], [2 * 10**20]],
]
try:
    import pandas
except ImportError:
    pass
else:
    tables += [
        pandas.DataFrame({"a": pandas.array([1, 3, pandas.NA, 2], "Int64")}),
        pandas.DataFrame({"a": pandas.array([1, 3, pandas.NA, 2], "Float64")}),
        pandas.DataFrame({"a": pandas.to_datetime(["2020-01-01", "2020-01-03", None, "2020-01-02"])}),
        pandas.DataFrame({"a": ["1", "3", "nan", "2"]}),
        np.array([[1], [3], [pandas.NA], [2]], object),
    ]
    flags = pandas.DataFrame({"a": pandas.array([True, False, pandas.NA], "boolean")})
    np.testing.assert_array_equal(MinMaxScaler().fit_transform(flags), [[1], [0], [np.nan]])
for table in tables:
    y = MinMaxScaler().fit_transform(table)
    assert y.dtype == np.float64, table
    np.testing.assert_array_equal(y[:, 0], [0, 1, np.nan, 0.5], err_msg=repr(table))
"""


def test_the_same_tables_are_accepted_with_scikit_learn_and_without_it():
    exec(ACCEPTED, {})
    without = "import sys; sys.modules['sklearn'] = None\n" + ACCEPTED
    subprocess.run([sys.executable, "-c", without], check=True, timeout=300)


def test_dates_are_numbers_of_their_unit_and_nat_is_none():
    scaler = StandardScaler().fit(_DAYS)
    np.testing.assert_array_equal(scaler.mean_, [18263])
    np.testing.assert_array_equal(scaler.n_samples_seen_, 2)
    np.testing.assert_array_equal(scaler.transform(_DAYS)[:, 0], [-1, 1, np.nan])


class _RequiresGrad:
    """As a tensor of PyTorch."""

    def __array__(self, *args, **options):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (_RequiresGrad(), TypeError, "^X: _RequiresGrad, must be an array of real numbers: .*requires grad"),
        ([[Fraction(10**400)], [1]], ValueError, "^X: list, must be of numbers that fit into float64"),
        ([[10**400], [1]], ValueError, "^X: list, must be of numbers that fit into float64"),
        ([["a"], [1]], ValueError, "^X: list, must be an array of real numbers: could not convert string"),
        ([[1, 2], [3]], ValueError, "^X: list, must be an array of real numbers"),
        ([[datetime.date(2020, 1, 1)]], TypeError, "^X: list, must be an array of real numbers"),
        (np.ones((2, 2), complex), ValueError, "^X: ndarray, .*: Complex data not supported"),
        (np.array([[{}]], object), TypeError, "^X: ndarray, must be an array of real numbers"),
        ([1, 2], ValueError, r"^X: shape \(2,\), must have 2 axes, samples and features. Reshape your data"),
        (np.ones((0, 2)), ValueError, r"^X: 0 sample\(s\) \(shape=\(0, 2\)\) while a minimum of 1 is required"),
    ],
)
def test_errors_name_x(scaler, X, error, message):
    fitted = new(scaler).fit(values((5, 1)))
    for call in (new(scaler).fit, fitted.partial_fit, fitted.transform):
        with pytest.raises(error, match=message):
            call(X)


def test_tensors_that_are_none_of_numpys_arrays():
    torch = pytest.importorskip("torch")
    for X in (torch.ones(3, 2, requires_grad=True), torch.eye(3).to_sparse(), torch.ones(3, 2, device="meta")):
        with pytest.raises(TypeError, match=r"^X: Tensor, must be an array of real numbers"):
            StandardScaler().fit(X)
        with pytest.raises(TypeError, match=r"^x: torch.Tensor, must be"):
            Moments.of(X)
    np.testing.assert_array_equal(MinMaxScaler().fit_transform(torch.arange(3.0)[:, None])[:, 0], [0, 0.5, 1])


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("copy", [[], 0, "no", np.zeros(2)])
def test_copy_is_a_flag_by_name(scaler, copy):
    X = values((5, 2))
    before, scaler = X.copy(), new(scaler).fit(X)
    for call in (scaler.transform, scaler.inverse_transform):
        with pytest.raises(TypeError, match=r"^copy: .*, must be True or False"):
            call(X, copy=copy)
        with pytest.raises(TypeError, match="positional"):
            call(X, False)
    with pytest.raises(TypeError, match=r"^copy: .*, must be True or False"):
        scaler.set_params(copy=copy).transform(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("feature_range", [(-1e308, 1e308), (-(10**400), 0), (0, Fraction(10**400))])
def test_a_range_beyond_float64_is_refused(feature_range):
    with pytest.raises(ValueError, match=r"^feature_range: .*, must be"):
        MinMaxScaler(feature_range).fit([[1.0], [2.0]])


# --- attributes set by hand ---


def test_attributes_that_transform_needs_are_enough():
    X = values((20, 3), np.float64, 5.0)
    standard = StandardScaler()
    standard.mean_, standard.scale_ = np.array([1.0, 2.0, 3.0]), [2.0, 4.0, 0.5]
    np.testing.assert_allclose(standard.transform(X), (X - standard.mean_) / standard.scale_, rtol=1e-14)
    np.testing.assert_allclose(standard.inverse_transform(standard.transform(X)), X, rtol=1e-14)
    extremes = MinMaxScaler()
    extremes.scale_, extremes.min_ = np.array([2.0, 4.0, 0.5]), 7.0
    np.testing.assert_allclose(extremes.transform(X), X * extremes.scale_ + 7, rtol=1e-14)
    np.testing.assert_allclose(extremes.inverse_transform(extremes.transform(X)), X, rtol=1e-13)
    for scaler, name in ((standard, "mean_"), (extremes, "scale_")):
        setattr(scaler, name, np.ones(4))
        with pytest.raises(ValueError, match=rf"^{name}: shape \(4,\), must be \(3,\)"):
            scaler.transform(X)
        setattr(scaler, name, ["a", "b", "c"])
        with pytest.raises(ValueError, match=rf"^{name}: list, must be an array of real numbers"):
            scaler.transform(X)


@pytest.mark.parametrize("sizes", [{"mean_": 5.0}, {"scale_": 3.0}, {"mean_": 1e200, "scale_": 1e190}])
def test_a_changed_mean_and_scale_are_used(sizes):
    X = values((20, 3), np.float64, 5.0)
    scaler = StandardScaler().fit(X)
    for name, value in sizes.items():
        setattr(scaler, name, np.full(3, value))
    np.testing.assert_allclose(scaler.transform(X), (X - scaler.mean_) / scaler.scale_, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("names", [("mean_",), ("var_",), ("mean_", "var_", "n_samples_seen_")])
def test_partial_fit_goes_on_from_a_changed_mean_and_variance(names):
    sklearn = pytest.importorskip("sklearn.preprocessing")
    X, more = values((50, 2), np.float64, 5.0), values((30, 2), np.float64, 4.0, seed=1)
    own, other = StandardScaler().fit(X), sklearn.StandardScaler().fit(X)
    for scaler in (own, other):
        for name, value in zip(("mean_", "var_", "n_samples_seen_"), ([3.0, 5.5], [2.0, 7.0], 10), strict=True):
            if name in names:
                setattr(scaler, name, np.array(value))
        scaler.partial_fit(more)
    for name in ("mean_", "var_", "scale_", "n_samples_seen_"):
        np.testing.assert_allclose(getattr(own, name), getattr(other, name), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("change", [{"min_": 3.0}, {"scale_": 0.25}, {"data_min_": -9.0}, {"data_max_": 99.0}])
def test_changed_extremes_act_as_in_scikit_learn(change):
    sklearn = pytest.importorskip("sklearn.preprocessing")
    X, more = values((50, 2), np.float64, 5.0), values((30, 2), np.float64, 4.0, seed=1)
    own, other = MinMaxScaler((1, 3)).fit(X), sklearn.MinMaxScaler((1, 3)).fit(X)
    for _ in range(2):
        for scaler in (own, other):
            for name, value in change.items():
                setattr(scaler, name, np.full(2, value))
        np.testing.assert_allclose(own.transform(X), other.transform(X), rtol=1e-12)
        np.testing.assert_allclose(own.inverse_transform(X), other.inverse_transform(X), rtol=1e-12)
        own.partial_fit(more)
        other.partial_fit(more)
        np.testing.assert_allclose(own.data_min_, other.data_min_)
    np.testing.assert_allclose(own.set_params(feature_range=(0, 9)).transform(X), other.transform(X), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "scale"), [("MinMaxScaler", 0.0), ("StandardScaler", np.inf)])
def test_a_column_that_a_scale_set_by_hand_drops(kind, scale, dtype):
    sklearn = pytest.importorskip("sklearn.preprocessing")
    X = values((5, 2), dtype, 5.0)
    own, other = getattr(numbanorm, kind)().fit(X), getattr(sklearn, kind)().fit(X)
    for scaler in (own, other):
        scaler.scale_ = np.array([0.5, scale])
    y, expected = own.transform(X), other.transform(X)
    np.testing.assert_array_equal(y[:, 1], expected[:, 1].astype(dtype))
    np.testing.assert_allclose(y[:, 0], expected[:, 0], rtol=0, atol=8 * np.finfo(dtype).eps)  # x is near 5


# --- scikit-learn's callbacks ---


@pytest.mark.parametrize("scaler", SCALERS, ids=repr)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_callbacks(scaler, method):
    pytest.importorskip("sklearn.callback")

    class Recording:
        def __init__(self):
            self.calls = []

        def setup(self, estimator, context):
            self.calls.append("setup")

        def on_fit_task_begin(self, estimator, context, *, X=None):
            self.calls.append(("begin", context.task_name, X))

        def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
            self.calls.append(("end", context.task_name, fitted_estimator.transform(X)))

        def teardown(self, estimator, context):
            self.calls.append("teardown")

    X, recording = values((9, 2)), Recording()
    scaler = new(scaler).set_callbacks(recording)
    assert getattr(scaler, method)(X) is scaler
    setup, begin, end, teardown = recording.calls
    assert (setup, begin[:2], end[:2], teardown) == ("setup", ("begin", "fit"), ("end", "fit"), "teardown")
    assert begin[2] is X
    np.testing.assert_array_equal(end[2], scaler.transform(X))
    before = {name: value for name, value in vars(scaler).items() if name.endswith("_")}
    recording.calls.clear()
    with pytest.raises(ValueError, match=r"^X: infinity"):
        scaler.partial_fit(np.full((2, 2), np.inf))
    assert recording.calls[-1] == "teardown"
    assert before == {name: value for name, value in vars(scaler).items() if name.endswith("_")}
