"""What the arguments of a call must not be, to put in place of valid ones."""

from array import array
from decimal import Decimal
from fractions import Fraction
from math import prod

import numpy as np
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from tests.arranged import plain

NAN, INF = float("nan"), float("inf")
STATISTICS = "mean", "rstd", "var", "running_mean", "running_var"  # may be float64 beside float32
WRITTEN = "out", "running_mean", "running_var"


class Device:
    """An array of a GPU that may not be looked into, as PyTorch's parameters may not."""

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("requires grad")


class Exchange:
    """An array of another library."""

    def __dlpack__(self, **_):
        raise AssertionError("nobody may take it")

    def __dlpack_device__(self):
        raise AssertionError("nobody may ask")

    def __array__(self, *_, **__):
        raise AssertionError("nobody may convert it")


# In place of an array `a`: all of them are a TypeError.
NO_ARRAYS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: (1.0,) * a.size,
    "text": lambda a: "weight",
    "bytes": bytes,
    "number": lambda a: 1.0,
    "NumPy's number": lambda a: a.dtype.type(1),
    "bool": lambda a: True,
    "array.array": lambda a: array("f", [1.0] * min(a.size, 9)),
    "memoryview": lambda a: memoryview(np.ones(a.shape)),
    "generator": lambda a: iter([1.0]),
    "class": lambda a: np.ndarray,
    "device array": lambda a: Device(),
    "array of another library": lambda a: Exchange(),
    "masked": np.ma.masked_array,
    "masked number": lambda a: np.ma.masked,
    "masked, with a mask": lambda a: np.ma.masked_array(a, np.ones(a.shape, bool)),
    "complex": lambda a: a.astype(complex),
    "int": lambda a: np.ones(a.shape, int),
    "uint8": lambda a: np.ones(a.shape, np.uint8),
    "float16": lambda a: np.ones(a.shape, np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "object": lambda a: a.astype(object),
    "text array": lambda a: np.full(a.shape, "1.5"),
    "StringDType": lambda a: np.full(a.shape, "1.5", np.dtypes.StringDType()),
    "record": lambda a: np.zeros(a.shape, [("x", np.float32)]),
    "void": lambda a: np.zeros(a.shape, "V4"),
    "dates": lambda a: np.zeros(a.shape, "M8[s]"),
    "times": lambda a: np.zeros(a.shape, "m8[s]"),
}

# In place of an array `a`: all of them are a ValueError.
OTHER_SHAPES = {
    "one more axis": lambda a: plain(a)[None],
    "one more axis at the end": lambda a: plain(a)[..., None],
    "no axes": lambda a: np.ones((), a.dtype),
    "one more value": lambda a: np.ones((*a.shape[:-1], a.shape[-1] + 1), a.dtype),
    "one more row": lambda a: np.ones((a.shape[0] + 1, *a.shape[1:]), a.dtype),
    "no values": lambda a: np.ones((0, *(n + 1 for n in a.shape[1:])) if a.size else a.ndim + 1, a.dtype),
}

NO_NUMBERS = ["1", b"1", None, True, np.True_, 1j, [0.1], (0.1,), np.array(0.1), np.ones(1), Decimal("0.1"), object()]
NO_EPS = [-1e-5, -1, NAN, INF, -INF, 10**400, -(10**400), np.float32(NAN), Fraction(10**400), Fraction(-1, 3)]
NO_SHARES = [-0.1, -1, 1.1, 2, NAN, INF, 10**400, np.nextafter(1, 2), np.float32(-1), Fraction(4, 3), -1e-300]
NO_FLAGS = [0, 1, None, "no", "", np.array(True), [], [True], 1.0, np.int8(1), object()]
NO_AXIS = ["0", "", None, True, np.False_, np.array(True), np.array([0.0]), 1.0, NAN, slice(0), Ellipsis, object(), 1j]
NO_AXES = [*NO_AXIS, (), [], {}, (True,), [np.False_], [0.0], (None,), ((0,),), np.array([True]), ["axis"]]


def _far_axes(ndim):
    return [ndim, -ndim - 1, 2**31, -(2**31), 2**63, -(2**64), 10**30, np.int8(100), np.uint64(2**63)]


SCALARS = {  # the number of axes of x -> values
    "axis": lambda ndim: [*NO_AXES, *_far_axes(ndim), (0, ndim), [-ndim - 1], (0, -ndim), [0, 0], (2**63, 0)],
    "channel_axis": lambda ndim: [*NO_AXIS, *_far_axes(ndim), (), (0,), [0], np.array([0])],
    "eps": lambda ndim: NO_NUMBERS + NO_EPS,
    "momentum": lambda ndim: NO_NUMBERS + NO_SHARES,
    "frozen": lambda ndim: NO_FLAGS,
}


@st.composite
def changes(draw, call, argument):
    """Arguments that are to be others, so that the call is wrong in one of them, and the error."""
    x = call.arguments["x"]
    if argument in SCALARS:
        return {argument: draw(st.sampled_from(SCALARS[argument](x.ndim)))}, (TypeError, ValueError)
    dtype = np.dtype(bool) if argument == "mask" else x.dtype.newbyteorder("=")
    a = call.arguments.get(argument)
    a = np.ones(call.shapes[argument], dtype) if a is None else a
    no_arrays = [(lambda way=way: {argument: way(a)}, TypeError) for way in NO_ARRAYS.values()]
    if argument in ("x", "dy", "mean", "rstd", "var"):
        no_arrays += [(lambda: {argument: None}, TypeError)]
    kinds = [no_arrays]
    if argument != "mask":
        no_arrays += [(lambda: {argument: np.ones(a.shape, bool)}, TypeError)]
    if argument != "x" or "dy" in call.arguments or call.arguments.get("out") is not None:
        kinds.append([(lambda way=way: {argument: way(a)}, ValueError) for way in OTHER_SHAPES.values()])
        if argument != "mask" and (argument not in STATISTICS or dtype.itemsize == 8):
            other = np.float32 if dtype.itemsize == 8 else np.float64
            kinds.append([(lambda: {argument: a.astype(other)}, TypeError)])
    kinds.append([(lambda way=way: way, ValueError) for way in _wrong_values(call, argument, a)])
    if argument in WRITTEN:
        kinds.append([(way, ValueError) for way in _wrong_memory(call, argument, x.dtype.newbyteorder("="))])
    way, error = draw(st.sampled_from(draw(st.sampled_from([kind for kind in kinds if kind]))))
    return way(), error


def _wrong_values(call, argument, a):
    x, training = call.arguments["x"], "running_mean" in call.shapes
    if argument == "mask" and a.size > 0:
        yield {"mask": np.zeros(a.shape, bool)}
        if training and x.size > 0:
            yield {"mask": np.arange(a.size).reshape(a.shape) == a.size - 1}
    if argument == "x" and training and x.size > 0:
        axis = int(call.arguments.get("channel_axis", 1)) % x.ndim
        one_each = plain(x[tuple(slice(None if i == axis else 1) for i in range(x.ndim))])
        yield {"x": one_each, "out": None, "mask": None}
        yield {"x": one_each, "out": np.full(one_each.shape, 7, one_each.dtype), "mask": None}
    if argument == "var" and x.size > 0:
        for var in (-1.0, -INF, -1e-40):
            negative = plain(a)
            negative[-1] = var
            yield {"var": negative}


def _wrong_memory(call, argument, dtype):
    """Arguments to be written that must not be, or that lie in the memory of others."""
    shapes, x = call.shapes, call.arguments["x"]
    own = np.ones(shapes[argument], dtype)
    yield lambda: {argument: _read_only(own)}
    if own.size > 1:
        yield lambda: {argument: as_strided(np.zeros(1, dtype), own.shape, (0,) * own.ndim)}
    for other in ("x", "dy"):
        if other in shapes and argument == "out" and own.size > 1:
            yield lambda other=other: dict(zip((other, "out"), _one_value_further(x), strict=True))
            yield lambda other=other: dict(zip((other, "out"), _backwards(x), strict=True))
    for other in shapes:
        if other != argument and not {other, argument} <= {"out", "x", "dy"}:
            large, small = (other, argument) if other in ("out", "x", "dy") else (argument, other)
            small_dtype = np.dtype(bool) if small == "mask" else dtype
            if 0 < prod(shapes[small]) * small_dtype.itemsize <= prod(shapes[large]) * dtype.itemsize:
                whole = np.zeros(shapes[large], dtype)
                part = _part(whole, shapes[small], small_dtype)
                yield lambda changed={large: whole, small: part}: changed


def _read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def _one_value_further(a):
    """An array, and another that begins a value later in the same memory."""
    both = np.zeros(a.size + 1, a.dtype.newbyteorder("="))
    both[:-1] = a.ravel()
    return both[:-1].reshape(a.shape), both[1:].reshape(a.shape)


def _backwards(a):
    """An array, and the same memory from its end."""
    a = plain(a)
    return a, a[(slice(None, None, -1),) * a.ndim]


def _part(whole, shape, dtype):
    """An array in the memory of another."""
    nbytes = prod(shape) * dtype.itemsize
    return whole.reshape(-1).view(np.uint8)[:nbytes].view(dtype).reshape(shape)
