"""What a message says to pass in place of an array is passed here, and is taken."""

import array
import re
from decimal import Decimal
from fractions import Fraction
from functools import partialmethod
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from numbanorm import (
    BatchNorm,
    LayerNorm,
    Moments,
    batch_norm,
    batch_norm_forward,
    layer_norm,
    layer_norm_backward,
    layer_norm_forward,
)
from tests import reference
from tests.cases import assert_normalized, values

X = values((6, 4))
PLAIN = layer_norm(X)


def imported(library):
    return pytest.importorskip(library, reason=f"{library} is not installed")


def refusal(function, *args, **given):
    with pytest.raises((TypeError, ValueError)) as caught:
        function(*args, **given)
    return str(caught.value)


def advised(message, name, value):
    """The value of the Python that the message says to pass."""
    found = re.fullmatch(rf"{re.escape(name)}: .*; pass (.+)", message)
    assert found, message
    return eval(found[1], {"np": np, "numba": import_module("numba"), name: value})


def followed(function, name, value, **given):
    message = refusal(function, **given | {name: value})
    return function(**given | {name: advised(message, name, value)})


def masked(dtype):
    x = np.ma.masked_array(X.astype(dtype), X > 1)
    return x, x.filled(0).astype(np.float32)


NUMBERS = {
    "list": lambda: (X.tolist(), X),
    "list of ints": lambda: ([[1, 2], [3, 5]], np.array([[1, 2], [3, 5]], np.float32)),
    "list of arrays": lambda: (list(X), X),
    "list of decimals": lambda: ([[Decimal(1), Decimal(4)]], np.array([[1, 4]], np.float32)),
    "tuple": lambda: (tuple(map(tuple, X.tolist())), X),
    "range": lambda: (range(5), np.arange(5, dtype=np.float32)),
    "array.array": lambda: (array.array("d", X[0].tolist()), X[0]),
    "memoryview": lambda: (memoryview(X), X),
    "int64": lambda: (np.arange(8).reshape(2, 4), np.arange(8, dtype=np.float32).reshape(2, 4)),
    "uint8": lambda: (np.arange(8, dtype=np.uint8), np.arange(8, dtype=np.float32)),
    "bool": lambda: (X > 0, (X > 0).astype(np.float32)),
    "float16": lambda: (X.astype(np.float16), X.astype(np.float16).astype(np.float32)),
    "big endian float16": lambda: (X.astype(">f2"), X.astype(np.float16).astype(np.float32)),
    "longdouble": lambda: (X.astype(np.longdouble), X.astype(np.float64)),
    "object": lambda: (X.astype(object), X),
    "fractions": lambda: (np.array([[Fraction(1, 4), Fraction(3)]], object), np.array([[0.25, 3]], np.float32)),
    "text of numbers": lambda: (np.array([["1", "2.5"]]), np.array([[1, 2.5]], np.float32)),
    "StringDType": lambda: (np.array([["1", "2.5"]], np.dtypes.StringDType()), np.array([[1, 2.5]], np.float32)),
    "masked": lambda: masked(np.float32),
    "masked ints": lambda: masked(np.int32),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_another_kind(kind):
    x, plain = NUMBERS[kind]()
    if "masked" in kind:  # it names mask= as well, for batch normalization
        message = refusal(layer_norm, x).removesuffix(", or to batch normalization the positions that count as mask=")
        y = layer_norm(advised(message, "x", x))
    else:
        y = followed(layer_norm, "x", x)
    np.testing.assert_array_equal(y, layer_norm(plain))


@pytest.mark.parametrize(
    ("library", "make"),
    [
        ("pandas", lambda pandas: pandas.DataFrame(X)),
        ("pandas", lambda pandas: pandas.DataFrame(X).astype("Float64")),
        ("ml_dtypes", lambda ml_dtypes: X.astype(ml_dtypes.bfloat16)),
        ("scipy.sparse", lambda sparse: sparse.csr_array(X)),
        ("scipy.sparse", lambda sparse: sparse.csr_matrix(X.astype(np.float64))),
        ("scipy.sparse", lambda sparse: sparse.coo_array((X * 9).astype(int))),
        ("jax.numpy", lambda numpy: numpy.asarray(X)),
        ("jax.numpy", lambda numpy: numpy.asarray(X, numpy.bfloat16)),
    ],
)
def test_arrays_of_other_libraries(library, make):
    x = make(imported(library))
    plain = x.toarray() if hasattr(x, "toarray") else np.asarray(x)
    y = followed(layer_norm, "x", x)
    expected = reference.layer_norm_forward(plain.astype(np.float64), None, None, -1)
    assert_normalized(y, expected.y, expected.x_hat)


def negated(torch):
    """Its values lie in memory with the other sign."""
    return torch.view_as_complex(torch.from_numpy(X.copy()).reshape(6, 2, 2)).conj().imag


TENSORS = {
    "float32": lambda torch: torch.from_numpy(X.copy()),
    "float64": lambda torch: torch.from_numpy(X.astype(np.float64)),
    "of a gradient": lambda torch: torch.from_numpy(X.copy()).requires_grad_(),
    "result of such": lambda torch: torch.from_numpy(X.copy()).requires_grad_() * 2,
    "parameter": lambda torch: torch.nn.Parameter(torch.from_numpy(X.copy())),
    "bfloat16": lambda torch: torch.from_numpy(X.copy()).bfloat16(),
    "bfloat16 of a gradient": lambda torch: torch.from_numpy(X.copy()).bfloat16().requires_grad_(),
    "float16": lambda torch: torch.from_numpy(X.copy()).half(),
    "ints": lambda torch: torch.arange(12).reshape(3, 4),
    "bools": lambda torch: torch.from_numpy(X > 0),
    "negated": negated,
    "transposed": lambda torch: torch.from_numpy(X.copy()).T,
    "sparse": lambda torch: torch.from_numpy(X.copy()).to_sparse(),
    "sparse of a gradient": lambda torch: torch.from_numpy(X.copy()).to_sparse_csr().requires_grad_(),
    "quantized": lambda torch: torch.quantize_per_tensor(torch.from_numpy(X.copy()), 0.1, 0, torch.qint8),
}


def values_of(x):
    x = x.detach()
    x = x.dequantize() if x.is_quantized else x
    return x.to_dense().double().resolve_neg().numpy()


@pytest.mark.filterwarnings("ignore")  # of PyTorch's, as that sparse CSR tensors may change
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_of_pytorch(kind):
    x = TENSORS[kind](imported("torch"))
    y = followed(layer_norm, "x", x)
    expected = reference.layer_norm_forward(values_of(x), None, None, -1)
    assert_normalized(y, expected.y, expected.x_hat)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_where_they_are(kind):
    """As on a GPU, which is asked for nothing here: a CPU build of PyTorch has the tensor on the host."""
    libraries = pytest.importorskip("numbanorm.cuda.libraries", reason="numba-cuda is not installed")
    tensor = TENSORS[kind](imported("torch"))
    library = libraries.library_of("weight", tensor)
    taken = tensor
    if kind not in ("float32", "float64", "transposed"):
        message = refusal(libraries.seen_from_here, "weight", tensor, library)
        taken = advised(message, "weight", tensor)
    seen = libraries.seen_from_here("weight", taken, library)
    assert seen.address == taken.data_ptr()
    np.testing.assert_array_equal(taken.numpy(), values_of(tensor))


class OnGpu:
    """In the place of arrays of CuPy and Numba."""

    __cuda_array_interface__ = None

    def to_host(self):
        return np.arange(1, 5, dtype=np.float32)


class TensorOnGpu(OnGpu):
    """In the place of one of PyTorch's that requires a gradient."""

    is_cuda = requires_grad = True
    is_meta = is_quantized = False
    layout, dtype = "torch.strided", "torch.bfloat16"
    device = SimpleNamespace(type="cuda")
    taken = ()

    def is_complex(self):
        return False

    is_neg = is_complex

    def then(self, step):
        after = TensorOnGpu()
        after.taken = (*self.taken, step)
        return after

    def numpy(self):
        assert self.taken == ("detach", "cpu", "float")
        return self.to_host()


for step in ("detach", "cpu", "float"):
    setattr(TensorOnGpu, step, partialmethod(TensorOnGpu.then, step))


@pytest.mark.parametrize(
    ("module", "methods"), [("cupy", ["get"]), ("numba.cuda.cudadrv", ["copy_to_host"]), ("torch", [])]
)
def test_arrays_of_a_gpu_beside_those_of_the_host(module, methods):
    given = dict.fromkeys(methods, OnGpu.to_host) | {"__module__": module}
    weight = type("Array", (OnGpu if methods else TensorOnGpu,), given)()
    y = followed(layer_norm, "weight", weight, x=X)
    np.testing.assert_array_equal(y, layer_norm(X, weight.to_host()))
    assert "pass" not in refusal(layer_norm, X, out=weight)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["float64", "bfloat16", "int32"])
def test_the_advice_gives_a_parameter_the_dtype_of_x(given, dtype):
    torch = imported("torch")
    x, weight = X.astype(dtype), torch.nn.Parameter(torch.arange(1, 5).to(getattr(torch, given)), given[0] != "i")
    y = followed(layer_norm, "weight", weight, x=x)
    np.testing.assert_array_equal(y, layer_norm(x, np.arange(1, 5, dtype=dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("one", [2.0, 2, np.float32(2), np.float64(2)])
def test_one_number_for_all(one, dtype):
    x = X.astype(dtype)
    y = followed(layer_norm, "weight", one, x=x)
    np.testing.assert_array_equal(y, layer_norm(x, np.full(4, 2, dtype)))
    rstd = batch_norm_forward(x).rstd
    y = followed(batch_norm, "mean", one, x=x, var=1 / rstd**2)
    np.testing.assert_array_equal(y, batch_norm(x, np.full(4, 2, dtype), 1 / rstd**2))


def test_lists_in_place_of_parameters_and_masks():
    weight = [1, 2, 3, 4]
    y = followed(layer_norm, "weight", weight, x=X)
    np.testing.assert_array_equal(y, layer_norm(X, np.array(weight, np.float32)))
    mask = [True, False, True, True, True, False]
    y = followed(batch_norm_forward, "mask", mask, x=X).y
    np.testing.assert_array_equal(y, batch_norm_forward(X, mask=np.array(mask)).y)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize(
    ("sizes", "axes"),
    [((4,), -1), ([4], -1), (4, -1), ((3, 4), (-2, -1)), ([2, 3, 4], (-3, -2, -1)), ("Size", (-2, -1))],
)
def test_sizes_where_pytorch_has_them(sizes, axes, name):
    """normalized_shape is the second argument of its layer_norm."""
    x = values((2, 3, 4))
    sizes = imported("torch").Size((3, 4)) if sizes == "Size" else sizes
    message = refusal(layer_norm, x, **{name: sizes})
    assert message.startswith(f"{name}: ")
    named = re.search(r", as axis=(.*)$", message)[1]
    y, expected = layer_norm(x, axis=eval(named)), reference.layer_norm_forward(x, None, None, axes)
    assert_normalized(y, expected.y, expected.x_hat)


def test_complex_numbers_are_two_calls():
    x = (X + 1j * X[::-1]).astype(np.complex64)
    message = refusal(layer_norm, x)
    for part, plain in zip(re.search(r"part, x(\.real) and x(\.imag)", message).groups(), (X, X[::-1]), strict=True):
        np.testing.assert_array_equal(layer_norm(eval(f"x{part}")), layer_norm(plain))


@pytest.mark.parametrize(
    "x",
    [
        *(None, "abc", b"abc", {}, {"a": 1}, {1.0}, iter([1.0]), [[1.0], [1.0, 2.0]], [["a"]], [1j], 2.0, object(), np),
        np.array([["a", "b"]]),
        np.array([["a", None]], object),
        np.array([["2020"]], "M8[D]"),
        np.zeros(3, "V4"),
        np.zeros(3, "f4,f4"),
        np.array(3),
        np.ma.masked,
    ],
)
def test_no_advice_where_nothing_would_work(x):
    message = refusal(layer_norm, x)
    assert re.match("x: .*must be", message)
    assert "; pass" not in message


@pytest.mark.parametrize(
    "make",
    [lambda torch: torch.ones(2, 3, device="meta"), lambda torch: torch.ones(2, 3) * 1j, lambda torch: torch.ones(())],
)
def test_no_advice_for_tensors_without_real_values(make):
    assert "pass" not in refusal(layer_norm, make(imported("torch")))


@pytest.mark.parametrize("name", ["running_mean", "running_var", "out"])
def test_no_copy_of_what_is_written(name):
    """It would be filled, and lost."""
    given = {"x": X, "out": None, "running_mean": None, "running_var": None}
    for value in (np.ones(4).tolist(), np.ones(4, np.float16), np.ma.ones(4), 0.0, (4,)):
        assert "pass" not in refusal(batch_norm_forward, **given | {name: value})
    torch = imported("torch")
    shape = X.shape if name == "out" else (4,)
    tensor, expected = torch.zeros(shape), np.zeros(shape, np.float32)
    assert "pass" not in refusal(batch_norm_forward, **given | {name: tensor.bfloat16()})
    followed(batch_norm_forward, name, tensor, **given)
    batch_norm_forward(**given | {name: expected})
    assert expected.any()
    np.testing.assert_array_equal(tensor.numpy(), expected)


def test_layers_say_what_they_take():
    torch = imported("torch")
    for x in (X.astype(np.float64), X.astype(np.float16), torch.from_numpy(X).double().requires_grad_()):
        for layer in (LayerNorm(4), BatchNorm(4)):
            y = followed(layer.forward, "x", x)
            assert y.dtype == np.float32
            np.testing.assert_allclose(y, layer(X), atol=1e-3)  # of float16
    layer = LayerNorm(4, dtype=np.float64)
    np.testing.assert_array_equal(followed(layer.forward, "x", X.astype(np.float16)).dtype, np.float64)


def test_a_state_of_bfloat16_parameters():
    torch, layer = imported("torch"), LayerNorm(4)
    weight = torch.nn.Parameter(torch.arange(4, dtype=torch.bfloat16))
    state = {"weight": weight, "bias": torch.zeros(4)}
    message = refusal(layer.load_state_dict, state)
    advice = re.search(r"; pass state\['weight'\]([^:]*):", message)[1]
    layer.load_state_dict(state | {"weight": eval(f"weight{advice}")})
    np.testing.assert_array_equal(layer.weight, np.arange(4))


def test_sizes_as_an_array():
    """One of NumPy's is refused, as the message says: an int or a tuple of ints."""
    sizes = np.array([6, 4])
    message = refusal(LayerNorm, sizes)
    assert message == "normalized_shape: array([6, 4]), must be an int or a tuple of ints"
    y, expected = LayerNorm(tuple(sizes))(X), reference.layer_norm_forward(X, None, None, (0, 1))
    assert_normalized(y, expected.y, expected.x_hat)


class Tracer:
    """JAX gives its functions such ones in place of arrays."""

    def __array__(self, *_, **__):
        raise TypeError("no values")

    def __dlpack__(self, **_):
        raise TypeError("no values")


Tracer.__module__ = "jax._src.core"


@pytest.mark.parametrize("function", [layer_norm, batch_norm_forward, Moments.of])
def test_a_tracer(function):
    assert "; it has no values while JAX traces: pass np.asarray(x) in" in refusal(function, Tracer())


def test_tracers_of_jax():
    """What the message says: the function that jax.pure_callback calls has arrays that NumPy knows."""
    jax = imported("jax")

    def refused(x):
        message = refusal(layer_norm, x)
        assert "pass np.asarray(x) in a function that jax.pure_callback calls, to be differentiated in one" in message
        return x.sum()

    @jax.custom_vjp
    def normalize(x):
        return jax.pure_callback(lambda x: layer_norm(np.asarray(x)), x, x)

    def forward(x):
        return normalize(x), x

    def backward(x, dy):
        return (jax.pure_callback(gradient, x, dy, x),)

    def gradient(dy, x):
        dy, x = np.asarray(dy), np.asarray(x)
        _, mean, rstd = layer_norm_forward(x)
        return layer_norm_backward(dy, x, mean, rstd).dx

    normalize.defvjp(forward, backward)
    for trace in (jax.jit, jax.grad, jax.vmap):
        trace(refused)(X)
    np.testing.assert_array_equal(jax.jit(normalize)(X), PLAIN)
    dy = values(X.shape, seed=2)
    dx = jax.grad(lambda x: (normalize(x) * dy).sum())(X)
    np.testing.assert_array_equal(dx, gradient(dy, X))
