"""Arrays of a GPU in the public functions: what is taken, where it runs, what comes back, what is refused."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types

from numbanorm import (
    LayerNorm,
    batch_norm,
    batch_norm_backward,
    batch_norm_forward,
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from numbanorm._operations import OPERATIONS
from numbanorm.cuda import cuda, launch, rows_and_columns
from numbanorm.cuda.kernels import ways
from tests import compiled, emulator, reference, test_layernorm, test_rmsnorm
from tests.cases import assert_gradients, assert_normalized, values
from tests.devices import EMULATED
from tests.emulator import DeviceArray, to_device, to_host
from tests.examples import arrays_changed, example_calls, unmasked

X, C = values((6, 8)), np.ones(8, np.float32)
CALLS = example_calls(X, with_mask=True)
EACH_ARGUMENT = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]


@pytest.fixture(autouse=True)
def _emulated():
    with emulator.emulated():
        yield


def sent(name, **options):
    return {key: to_device(value.copy(), **options) for key, value in CALLS[name][1].items()}


def refused(name, error, message, **changes):
    """The call, with some arguments changed, raises, and neither runs nor writes anything."""
    function, arguments = CALLS[name][0], sent(name) | {"out": to_device(X.copy())} | changes
    before = {key: to_host(a).copy() for key, a in arguments.items() if isinstance(a, DeviceArray)}
    with pytest.raises(error, match=message):
        function(**arguments)
    assert not emulator.launches
    for key, value in before.items():
        np.testing.assert_array_equal(to_host(arguments[key]), value)


@pytest.mark.parametrize("name", CALLS)
def test_results_are_of_the_callers_type(name):
    result = CALLS[name][0](**sent(name))
    for array in result if isinstance(result, tuple) else (result,):
        assert type(array) is DeviceArray


@pytest.mark.parametrize("name", CALLS)
def test_everything_runs_on_the_device_and_the_stream_of_x(name):
    CALLS[name][0](**sent(name, stream=77, device=3))
    assert {launch[3:] for launch in emulator.launches} == {(77, 3)}


LAUNCHES = {  # of an operation, with a switch turned on or none
    ("layer_norm", None): 1,
    ("layer_norm_forward", None): 1,
    ("layer_norm_backward", None): 2,
    ("rms_norm", None): 1,
    ("rms_norm_forward", None): 1,
    ("rms_norm_backward", None): 2,
    ("batch_norm", None): 2,
    ("batch_norm_forward", None): 3,
    ("batch_norm_backward", None): 3,
    ("batch_norm_backward", "frozen"): 4,
    ("batch_norm_backward_reduce", None): 2,
    ("batch_norm_backward_apply", None): 2,
}


@pytest.mark.parametrize(
    ("name", "switch"), [(one.name, switch) for one in OPERATIONS.values() for switch in (None, *one.switches)]
)
@pytest.mark.parametrize("shape", [(6, 8), (3, 20000), (2000, 40), (2, 40, 30)])
def test_few_launches(name, switch, shape, monkeypatch):
    """Nothing is compiled or run here. The halves are given float64 statistics, as Moments are; others are copied."""
    nothing = SimpleNamespace(loaded_sectors=0, stored_sectors=0)
    monkeypatch.setattr(emulator, "run", lambda *arguments, **options: nothing)
    monkeypatch.setattr(compiled, "program", lambda kernel: None)
    operation = OPERATIONS[name]
    arguments = unmasked(operation, values(shape), 1, np.ones) | ({switch: True} if switch else {})
    if operation.family == "batchnorm_halves":
        arguments |= {key: arguments[key].astype(np.float64) for key in operation.statistics}
    operation.function(**arrays_changed(arguments, to_device))
    assert len(emulator.launches) == LAUNCHES[name, switch]


@pytest.mark.parametrize(("name", "argument"), EACH_ARGUMENT)
def test_arrays_of_the_host_and_of_a_device_in_one_call(name, argument):
    value = CALLS[name][1][argument].copy()
    if argument == "x":
        kinds = "DeviceArray, on a GPU, must be a numpy.ndarray"
        arguments = {**sent(name), "out": to_device(X.copy()), "x": value}
        other = next(key for key in arguments if key != "x")
        with pytest.raises(TypeError, match=rf"^{other}: tests.emulator.{kinds}"):
            CALLS[name][0](**arguments)
    else:
        message = f"^{argument}: numpy.ndarray, must be tests.emulator.DeviceArray as x is"
        refused(name, TypeError, message, **{argument: value})


def test_out_of_the_host():
    refused("layer_norm", TypeError, "^out: numpy.ndarray, must be tests.emulator.DeviceArray", out=X.copy())


def test_an_array_on_another_device():
    message = "^weight: on device 1, must be on device 0, that of x"
    refused("layer_norm", ValueError, message, weight=to_device(C.copy(), device=1))
    message = "^weight: on the host, must be on device 0, that of x"  # as a tensor of PyTorch's may be
    refused("layer_norm", ValueError, message, weight=to_device(C.copy(), device=None))


@pytest.mark.parametrize(("sizes", "axes"), [((8,), "-1"), (8, "-1"), ((6, 8), r"\(-2, -1\)")])
def test_sizes_where_pytorch_has_them(sizes, axes):
    """What they say to pass instead is passed on the host, in `test_advice.py`."""
    message = (
        f"^weight: builtins.*, must be tests.emulator.DeviceArray as x is, not the size of axes: .*as axis={axes}$"
    )
    refused("layer_norm", TypeError, message, weight=sizes)


@pytest.mark.parametrize("name", CALLS)
def test_an_array_on_another_stream_is_waited_for(name, monkeypatch):
    waits = []
    monkeypatch.setattr(launch, "wait", lambda *given: waits.append(given))
    arguments = sent(name, stream=5)
    CALLS[name][0](**arguments)
    assert not waits
    CALLS[name][0](**arguments, out=to_device(X.copy(), stream=6))
    assert waits == [(0, 5, {6}), (0, 6, {5})]  # and it for what has been written


@pytest.mark.parametrize(
    ("argument", "value", "error", "message"),
    [
        ("x", X.astype(int), TypeError, "dtype int64, must be float32 or float64"),
        ("x", X.astype(">f4"), TypeError, "dtype >f4, must be of native byte order"),
        ("x", X[0, 0], ValueError, r"shape \(\), must have at least 1 axis"),
        ("weight", C[:3], ValueError, r"shape \(3,\), must be \(8,\)"),
        ("weight", C.astype(float), TypeError, "dtype float64, must be float32"),
        ("out", X[:, :4], ValueError, "shape .*, must be"),
        ("out", X.astype(float), TypeError, "dtype float64, must be float32"),
        ("eps", -1.0, ValueError, "must be finite and not negative"),
        ("axis", 5, ValueError, "must be in"),
    ],
)
def test_wrong_arguments(argument, value, error, message):
    given = to_device(np.array(value)) if isinstance(value, np.ndarray | np.generic) else value
    refused("layer_norm", error, f"^{argument}: .*{message}", **{argument: given})


def test_an_address_that_is_not_aligned():
    whole = to_device(np.zeros(100, np.uint8))
    view = DeviceArray(whole.address + 1, (4, 4), (16, 4), np.float32, None)
    refused("layer_norm", ValueError, "^x: address .*, must be aligned to its dtype float32", x=view)


def test_a_read_only_out():
    whole = to_device(X.copy())
    view = DeviceArray(whole.address, whole.shape, whole.strides, whole.dtype, None, read_only=True)
    refused("layer_norm", ValueError, "^out: read-only, must be writable", out=view)


def test_out_that_overlaps():
    whole = to_device(np.zeros((7, 8), np.float32))
    x = DeviceArray(whole.address, (6, 8), whole.strides, whole.dtype, None)
    shifted = DeviceArray(whole.address + 32, (6, 8), whole.strides, whole.dtype, None)
    refused("layer_norm", ValueError, "^out: overlaps x", x=x, out=shifted)
    between = DeviceArray(whole.address + 16, (6, 4), whole.strides, whole.dtype, None)
    apart = DeviceArray(whole.address, (6, 4), whole.strides, whole.dtype, None)
    half = to_device(C[:4].copy())
    layer_norm(apart, half, half, out=between)  # beside each other, in the same rows


def test_a_mask_of_one_value_or_none_moves_no_running_statistics():
    """On the device nobody can say so: that would be a transfer."""
    x = values((5, 3))
    for count in (0, 1):
        mask = np.arange(5) < count
        running = [to_device(np.full(3, value, np.float32)) for value in (2.0, 3.0)]
        y, _, rstd = batch_norm_forward(to_device(x), None, None, *running, mask=to_device(mask))
        np.testing.assert_array_equal([to_host(a) for a in running], [[2.0] * 3, [3.0] * 3])
        np.testing.assert_array_equal(to_host(y)[count:], 0)
        assert np.isnan(to_host(rstd)).all() == (count == 0)


def test_a_negative_variance_gives_nan():
    var = to_device(np.array([1.0, -1.0], np.float32))
    y = to_host(batch_norm(to_device(values((5, 2))), to_device(np.zeros(2, np.float32)), var))
    assert np.isfinite(y[:, 0]).all()
    assert np.isnan(y[:, 1]).all()


def test_a_layer_is_for_arrays_of_the_host():
    with pytest.raises(TypeError, match=r"^x: .*DeviceArray, on a GPU, must be a numpy.ndarray"):
        LayerNorm(8)(to_device(X.copy()))


@pytest.mark.parametrize("offset", [1, 2, 4])
@pytest.mark.parametrize("shape", [(20, 64), (3, 2000), (2, 20000)])
def test_addresses_that_vectors_cannot_begin_at(shape, offset):
    """Views some values into memory; and rows of a length that vectors do not divide."""
    for cols in (shape[1], shape[1] - 1):
        x, dy = (values((shape[0], cols + offset), seed=seed)[:, offset:].copy() for seed in (0, 2))
        flat = np.concatenate([np.zeros(offset, np.float32), x.ravel()])
        there = to_device(flat)
        view = DeviceArray(there.address + 4 * offset, x.shape, x.strides, x.dtype, None)
        y, mean, rstd = layer_norm_forward(view)
        expected = reference.layer_norm_forward(x, None, None, -1)
        assert_normalized(to_host(y), expected.y, expected.x_hat)
        gradients = layer_norm_backward(to_device(dy), view, mean, rstd)
        assert_gradients(type(gradients)(*map(to_host, gradients)), reference.layer_norm_backward(dy, x, None, -1))
        y, mean, rstd = batch_norm_forward(view)
        expected = reference.batch_norm_forward(x, None, None, 1)
        assert_normalized(to_host(y), expected.y, expected.x_hat)


@pytest.mark.parametrize("cols", [4096, 8192, 12000])
@pytest.mark.parametrize("target", ["dy", "x"])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradients_in_place(cols, target, aligned):
    """Of rows that are held or not, as vectors or not: what is written is not read again."""
    x, dy, weight = values((3, cols)), values((3, cols), seed=2), values(cols + 1, seed=3)
    whole = to_device(weight)
    own = DeviceArray(whole.address + (0 if aligned else 4), (cols,), (4,), np.float32, None)
    _, mean, rstd = layer_norm_forward(to_device(x))
    arrays = {"dy": to_device(dy), "x": to_device(x)}
    gradients = layer_norm_backward(**arrays, mean=mean, rstd=rstd, weight=own, out=arrays[target])
    assert gradients.dx is arrays[target]
    weight = weight[:-1] if aligned else weight[1:]
    expected = reference.layer_norm_backward(dy, x, weight, -1)
    assert_gradients(type(gradients)(*map(to_host, gradients)), expected)


@pytest.mark.parametrize("shape", [(2**21, 1), (1, 2**21)])
def test_sums_of_many_squares_that_float32_can_just_hold(shape):
    x = np.where(np.arange(2**21) % 2, 1, -1).astype(np.float32).reshape(shape) * np.float32(2.0**54)
    axis = shape.index(2**21)
    y, _, rstd = layer_norm_forward(to_device(x), axis=axis)
    np.testing.assert_allclose(to_host(y), np.sign(x), rtol=1e-6)
    np.testing.assert_allclose(to_host(rstd), 2.0**-54, rtol=1e-6)
    y = batch_norm_forward(to_device(x.reshape(1, 1, -1))).y
    np.testing.assert_allclose(to_host(y).ravel(), np.sign(x).ravel(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(20, 2000), (40, 300)])
def test_several_rows_to_a_block_of_threads(shape, monkeypatch):
    """As in arrays of thousands of rows: their sums share a place in memory, one after the other."""
    monkeypatch.setattr(rows_and_columns, "_BUSY", 1)
    test_layernorm.check(EMULATED, values(shape), -1)
    test_rmsnorm.check(EMULATED, values(shape), -1)


def test_runs_too_long_for_32_bits():
    """Of a channel: where its vectors lie, as the kernels reckon."""
    L, C, first = 2**32 + 4096, 2, 2**32 + 4094
    address = ways.channels(1, False, long=True).source.address

    def kernel(out):
        place = types.int64(cuda.threadIdx.x)
        out[place] = address(place, (types.int64(1), types.int64(first), L, types.int64(1), C, L))

    there = to_device(np.zeros(4, np.int64))
    launch.launch(launch.Kernel(kernel, (types.CPointer(types.int64),)), 1, (4, 1), (there.address,), 0, 0)
    places = [((first + k) // L, (first + k) % L) for k in range(4)]
    assert to_host(there).tolist() == [((1 + n) * C + 1) * L + place for n, place in places]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", [(3000, 40), (300, 2000), (40, 20001), (2, 300, 40), (16, 3, 900)])
def test_results_do_not_depend_on_the_order_of_blocks_and_threads(shape, order):
    def results(**how):
        with emulator.emulated(**how):
            x, dy = to_device(values(shape)), to_device(values(shape, seed=2))
            forward, bn_forward = layer_norm_forward(x, axis=1), batch_norm_forward(x)
            backward = layer_norm_backward(dy, x, *forward[1:], axis=1), batch_norm_backward(dy, x, *bn_forward[1:])
            about_0 = rms_norm_forward(x, axis=1)
            backward += (rms_norm_backward(dy, x, about_0.rstd, axis=1),)
            return [to_host(a).copy() for result in (forward, bn_forward, about_0, *backward) for a in result]

    for one, other in zip(results(), results(order=order), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_type_is_told_what_to_do():
    class Unknown:
        __cuda_array_interface__ = None

    with pytest.raises(TypeError, match=r"^x: .*Unknown, must be an array of CuPy, PyTorch or Numba; pass cupy"):
        layer_norm(Unknown())


GIVEN_AN_ARRAY = """
import sys
class Spoiled:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise {error}
sys.meta_path.insert(0, Spoiled())
import numbanorm
class Array:
    __cuda_array_interface__ = None
for call in (numbanorm.layer_norm, numbanorm.layer_norm, numbanorm.StandardScaler().fit):
    try:
        call(Array())
    except TypeError as error:
        print(error)
        while error.__cause__:
            error = error.__cause__
        print(repr(error))
"""
NEEDED = re.escape(
    "arrays there need the package numba-cuda, 0.30.4 or newer, and a NumPy that it works with "
    "(0.30.4 needs NumPy below 2.5); pip install -U 'numbanorm[cuda]'"
)
FOUND = r"numba-cuda [\d.]+ beside Numba [\d.]+ and NumPy [\d.]+"


@pytest.mark.parametrize(
    "error", ["ModuleNotFoundError('gone')", "AttributeError('no types')", "OSError('no library')"]
)
@pytest.mark.parametrize("module", ["numba.cuda", "numba.cuda.core.imputils", "numba.cuda.cudaimpl"])
def test_whatever_the_import_raises_the_error_says_what_to_install(module, error):
    expected = rf"{NEEDED} \({FOUND}: {re.escape(_as_told(error))}\)"
    _assert_told(GIVEN_AN_ARRAY.format(module=module, error=error), expected, error)


def test_kernels_that_cannot_be_loaded_name_what_is_wrong():
    error = "AttributeError('no types')"
    expected = f"the kernels cannot be loaded: {_as_told(error)}"
    _assert_told(GIVEN_AN_ARRAY.format(module="numbanorm.cuda.vectors.simd", error=error), expected, error)


def _as_told(error):
    return error.replace("('", ": ").removesuffix("')")


def _assert_told(program, expected, error):
    """By each call, a second one too, and with the original error at the end of the causes."""
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    told, causes = lines.splitlines()[::2], lines.splitlines()[1::2]
    for line, name in zip(told, ["x", "x", "X"], strict=True):
        assert re.fullmatch(f"{name}: __main__.Array, on a GPU: {expected}", line), line
    assert causes == [error] * 3


def test_a_numpy_that_numba_cuda_does_not_know_is_told_at_import():
    """np.row_stack is gone from NumPy 2.5; numba.cuda can be imported all the same, and compiles nothing."""
    program = """
import numba.np.arrayobj  # Numba's own asks for the version
import numpy
del numpy.row_stack
import numbanorm
try:
    import numbanorm.cuda
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-W", "error", "-c", program]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    reason = "AttributeError: module 'numpy' has no attribute 'row_stack'"
    assert re.fullmatch(rf"{NEEDED} \({FOUND}: {reason}\)\n", printed), printed


def test_the_extras_ask_for_the_versions_that_the_error_names():
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for extra in ("cuda", "ptx"):
        asked = [one for one in extras[extra] if one.startswith(("numba-cuda", "numpy"))]
        assert asked == ["numba-cuda[cu13]>=0.30.4", "numpy<2.5"]


def test_numbas_own_cuda_is_not_taken_for_the_package():
    program = """
import sys, types
import numba
numba.cuda = sys.modules["numba.cuda"] = types.ModuleType("numba.cuda")
try:
    import numbanorm.cuda
except ImportError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "need the package numba-cuda" in output
