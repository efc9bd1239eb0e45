"""Bad input: an error that names the argument, what it was and what it must be, and nothing written."""

import re
from inspect import signature

import numpy as np
import pytest

from numbanorm._operations import OPERATIONS
from tests.cases import values
from tests.examples import example_calls

X = values((6, 4))
C = np.ones(4, np.float32)
CALLS = example_calls(X)
EACH_ARGUMENT = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]


def refused(name, error, message, **changes):
    """The call, with some arguments changed, raises and leaves every array as it was."""
    function, arguments = CALLS[name]
    arguments = {**arguments, "out": np.full(X.shape, 7, np.float32)} | changes
    before = {key: value.copy() for key, value in arguments.items() if isinstance(value, np.ndarray)}
    with pytest.raises(error, match=message):
        function(**arguments)
    for key, value in before.items():
        np.testing.assert_array_equal(arguments[key], value)


class Device:
    __cuda_array_interface__ = None


class Exchange:
    def __dlpack__(self):
        raise AssertionError


@pytest.mark.parametrize(("name", "argument"), [*EACH_ARGUMENT, *((name, "out") for name in CALLS)])
def test_an_array_of_a_gpu_beside_those_of_the_host(name, argument):
    """Beside x; where x is one, `test_cuda_functions.py` has what is refused."""
    if argument != "x":
        message = f"^{argument}: .*Device, on a GPU, must be a numpy.ndarray as the other arrays; copy it to the host"
        refused(name, TypeError, message, **{argument: Device()})


@pytest.mark.parametrize(("name", "argument"), [*EACH_ARGUMENT, *((name, "out") for name in CALLS)])
@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda a: a.tolist(), "list, must be a numpy.ndarray"),
        (lambda a: Exchange(), "Exchange, must be a numpy.ndarray"),
        (np.ma.masked_array, "MaskedArray, must be a plain numpy.ndarray"),
        (lambda a: a.astype(int), "dtype int64, must be float32 or float64"),
        (lambda a: a > 0, r"dtype bool, must be float32 or float64"),
        (lambda a: a.astype(complex), "dtype complex128, must be float32 or float64"),
        (lambda a: a.astype(object), "dtype object, must be float32 or float64"),
        (lambda a: a.astype(np.float16), "dtype float16, must be float32 or float64"),
        (lambda a: a.astype(np.longdouble), "must be float32 or float64"),
        (lambda a: a.astype(str), "dtype <U"),
    ],
)
def test_types(name, argument, convert, message):
    """What the message says to pass instead is passed in `test_advice.py`."""
    value = {**CALLS[name][1], "out": X}[argument]
    refused(name, TypeError, f"^{argument}: .*{message}", **{argument: convert(value)})


@pytest.mark.parametrize(("name", "argument"), [*EACH_ARGUMENT, *((name, "out") for name in CALLS)])
def test_shapes(name, argument):
    shown = "(dy|weight|mean|out|running_mean): shape" if argument == "x" else f"{argument}: shape"
    value = {**CALLS[name][1], "out": X}[argument]
    refused(name, ValueError, f"^{shown} .*, must be", **{argument: np.ones((*value.shape, 3), np.float32)})


@pytest.mark.parametrize(("name", "argument"), [*EACH_ARGUMENT, *((name, "out") for name in CALLS)])
def test_dtypes_that_do_not_go_together(name, argument):
    """Beside a float64 x all must be float64; beside a float32 x statistics may be."""
    if argument == "x":
        first = next(other for other in (*CALLS[name][1], "out") if other != "x")  # in the order of the arguments
        message, changes = f"^{first}: dtype float32, must be float64 beside x of float64", {"x": X.astype(float)}
    elif argument in ("mean", "rstd", "var", "running_mean", "running_var", "sum_dy", "sum_dy_xhat"):
        function, arguments = CALLS[name]
        function(**{**arguments, argument: arguments[argument].astype(np.float64)})
        return
    else:
        value = {**CALLS[name][1], "out": X}[argument]
        message = f"^{argument}: dtype float64, must be float32 beside x of float32"
        changes = {argument: value.astype(np.float64)}
    refused(name, TypeError, message, **changes)


@pytest.mark.parametrize("name", CALLS)
def test_masked_arrays_are_refused_after_a_plain_call_too(name):
    """Numba's cache of argument types takes one for the plain array that it saw before."""
    function, arguments = CALLS[name]
    for _ in range(2):
        refused(name, TypeError, "^x: .*MaskedArray", x=np.ma.masked_array(X, X > 0))
        function(**arguments)


@pytest.mark.parametrize("name", CALLS)
def test_out(name):
    _, arguments = CALLS[name]
    own = {key for key in arguments if arguments[key].shape == X.shape}
    big = np.ones((7, 8), np.float32)
    for key in own:
        x, shifted = big[:6, :4], big[1:, :4]
        refused(
            name,
            ValueError,
            f"^out: overlaps {key}, must have memory of its own, or be {key} itself",
            out=shifted,
            **{key: x},
        )
        function, _ = CALLS[name]
        function(**arguments | {key: big[:6, ::2]}, out=big[:6, 1::2])  # between one another, but apart
    for key in arguments.keys() - own:
        shared = np.ones(X.shape, np.float32)
        part = shared.reshape(-1)[: arguments[key].size].reshape(arguments[key].shape)
        refused(
            name,
            ValueError,
            rf"^(out: overlaps {key}|{key}: overlaps out), must have memory of its own",
            out=shared,
            **{key: part},
        )
    read_only = np.ones(X.shape, np.float32)
    read_only.flags.writeable = False
    refused(name, ValueError, "^out: read-only, must be writable", out=read_only)
    one_row = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), X.shape, (0, 4))
    refused(name, ValueError, r"^out: strides \(0, 4\) may let elements overlap", out=one_row)
    windows = np.lib.stride_tricks.sliding_window_view(np.ones(9, np.float32), 4, writeable=True)
    refused(name, ValueError, r"^out: strides \(4, 4\) may let elements overlap", out=windows)


@pytest.mark.parametrize("name", [name for name in CALLS if "eps" in signature(OPERATIONS[name].function).parameters])
@pytest.mark.parametrize(
    ("eps", "error", "message"),
    [
        (-1e-5, ValueError, "eps: -1e-05, must be finite and not negative"),
        (np.nan, ValueError, "eps: nan, must be"),
        (np.inf, ValueError, "eps: inf, must be"),
        pytest.param(10**5000, ValueError, "eps: <int>, must be finite and not negative", id="too long for a repr"),
        (10**400, ValueError, r"eps: 10+\.\.\.0+, must be finite and not negative"),
        ("1", TypeError, "eps: '1', must be a number"),
        (True, TypeError, "eps: True, must be a number"),
        (np.array(1e-5), TypeError, "eps: array"),
    ],
)
def test_eps(name, eps, error, message):
    refused(name, error, message, eps=eps)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, np.nan, "0.1", None])
def test_momentum(momentum):
    error = ValueError if isinstance(momentum, float) else TypeError
    refused("batch_norm_forward", error, re.escape(f"momentum: {momentum!r}, must be "), momentum=momentum)


@pytest.mark.parametrize("name", ["layer_norm", "layer_norm_forward", "layer_norm_backward"])
@pytest.mark.parametrize(
    ("axis", "error", "message"),
    [
        (2, np.exceptions.AxisError, r"axis: 2, must be in \[-2, 1\], as x has 2 axes"),
        ((0, -3), np.exceptions.AxisError, r"axis: \(0, -3\), must be in \[-2, 1\], as"),
        ((1, -1), ValueError, r"axis: \(1, -1\), must name each axis once"),
        ((), ValueError, r"axis: \(\), must name at least one axis"),
        (10**30, ValueError, r"axis: 10+, must be in \[-2, 1\]"),
        pytest.param(10**5000, ValueError, r"axis: <int>, must be in \[-2, 1\]", id="too long for a repr"),
        (1.0, TypeError, "axis: 1.0, must be an int or a tuple of ints"),
        ("1", TypeError, "axis: '1', must be an int or a tuple of ints"),
        (True, TypeError, "axis: True, must be an int or a tuple of ints"),
        ((0, True), TypeError, r"axis: \(0, True\), must be an int or a tuple of ints"),
    ],
)
def test_axis(name, axis, error, message):
    refused(name, error, message, axis=axis)


@pytest.mark.parametrize("name", ["batch_norm", "batch_norm_forward", "batch_norm_backward"])
def test_channel_axis(name):
    refused(name, np.exceptions.AxisError, r"channel_axis: 2, must be in \[-2, 1\]", channel_axis=2)
    refused(name, TypeError, r"channel_axis: \(0, 1\), must be an int", channel_axis=(0, 1))
    refused(name, TypeError, "channel_axis: True, must be an int", channel_axis=True)
    refused(name, ValueError, r"x: shape \(4,\), must have at least 2 axes", x=C)


@pytest.mark.parametrize("name", ["batch_norm_forward", "batch_norm_backward"])
def test_mask(name):
    refused(name, TypeError, "mask: builtins.list, must be a numpy.ndarray", mask=[True] * 6)
    refused(name, TypeError, "mask: dtype int64, must be bool", mask=np.ones(6, int))
    refused(name, TypeError, r"mask: .*MaskedArray, .*pass mask.filled\(False\)$", mask=np.ma.masked_array([True] * 6))
    whole = np.ones(X.shape, np.float32)
    part = whole.reshape(-1)[:2].view(bool)[:6]
    refused(name, ValueError, "^out: overlaps mask", out=whole, mask=part)
    refused(name, ValueError, r"mask: shape \(4,\), must be \(6,\), the shape of x without", mask=np.ones(4, bool))
    refused(name, ValueError, "mask: all False, must leave at least one position", mask=np.zeros(6, bool))


@pytest.mark.parametrize("argument", ["running_mean", "running_var"])
def test_running_statistics_apart_from_mask_and_x(argument):
    mask = np.ones(16, bool)
    refused(
        "batch_norm_forward", ValueError, f"^{argument}: overlaps mask", mask=mask[:6], **{argument: mask.view("f4")}
    )
    x = X.copy()
    refused("batch_norm_forward", ValueError, f"^{argument}: overlaps x", x=x, **{argument: x[2]})


@pytest.mark.parametrize("frozen", [1, None, "no"])
def test_frozen(frozen):
    refused("batch_norm_backward", TypeError, f"frozen: {frozen!r}, must be True or False", frozen=frozen)


def test_one_value_per_channel():
    message = "has one value per channel, must have at least two"
    refused("batch_norm_forward", ValueError, message, x=X[:1], out=None)
    refused("batch_norm_forward", ValueError, "mask: leaves one position, must leave at least", mask=np.arange(6) == 2)


def test_a_variance_below_zero():
    refused("batch_norm", ValueError, "var: -0.5 in it, must not be negative", var=np.array([1, -0.5, 1, 1], "f4"))


@pytest.mark.parametrize("argument", ["running_mean", "running_var"])
def test_running_statistics_are_written_in_place(argument):
    read_only = C.copy()
    read_only.flags.writeable = False
    refused("batch_norm_forward", ValueError, f"^{argument}: read-only, must be writable", **{argument: read_only})
    shared = C.copy()
    refused("batch_norm_forward", ValueError, f"^{argument}: overlaps weight", **{argument: shared, "weight": shared})
    refused(
        "batch_norm_forward", ValueError, "^running_var: overlaps running_mean", running_mean=shared, running_var=shared
    )


def test_out_is_no_parameter():
    """Where they have one shape."""
    weight = np.ones((6, 4), np.float32)
    refused("layer_norm", ValueError, "^out: overlaps weight", axis=(0, 1), weight=weight, bias=None, out=weight)
