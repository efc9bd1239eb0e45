"""Recognise arrays on a GPU, of whatever library, find where they lie, and make new ones of their kind.

A library is imported only after one of its arrays has come.
"""

import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from numbanorm._call.advice import kind_of, on_gpu
from numbanorm._types import FLOATS, Array, Shape
from numbanorm.cuda import cuda

Place = tuple[int, bool, Shape, Shape | None, str]  # address, read-only, shape, strides (None: C order), type string


def _place(array: Any) -> Place:
    interface = array.__cuda_array_interface__
    if interface.get("mask") is not None:
        raise TypeError("masked, must be a plain array")
    return *interface["data"], interface["shape"], interface.get("strides"), interface["typestr"]


class Library(NamedTuple):
    """Say what a library does with its arrays."""

    empty: Callable[[Any, Shape, Shape, np.dtype[Any]], Any]  # (like, shape, strides in bytes, dtype), on like's device
    stream: Callable[[Any], int]  # the handle of the stream that its next operation on an array would be on; 0: default
    device: Callable[[Any], int]  # the number of an array's
    place: Callable[[Any], Place] = _place  # where an array lies
    has_streams: bool = True  # whether arrays have streams of their own, not that which is current for all


_registered: dict[type, Library] = {}


def register(array_type: type, library: Library) -> None:
    """Take arrays of one more type, which has `__cuda_array_interface__`."""
    _registered[array_type] = library
    _library_of_type.cache_clear()


def library_of(name: str, value: Any) -> Library:
    """Return the library of an argument, or raise a TypeError that names the argument."""
    array_type: Any = type(value)
    found = _library_of_type(array_type)
    if found is None:
        raise TypeError(
            f"{name}: {kind_of(value)}, must be an array of CuPy, PyTorch or Numba; pass cupy.asarray({name}), "
            f"or tell numbanorm.cuda.libraries.register how arrays of this type are made"
        )
    return found


@lru_cache(256)
def _library_of_type(array_type: Any) -> Library | None:
    for base in array_type.__mro__:
        if base in _registered:
            return _registered[base]
        if base.__module__.partition(".")[0] in _KNOWN:
            return _KNOWN[base.__module__.partition(".")[0]]
    return None


def _numba_empty(like: Any, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> Any:
    with cuda.gpus[_numba_device(like)]:
        return cuda.device_array(shape, dtype, strides, stream=like.stream)


def _numba_stream(array: Any) -> int:
    return int(array.stream) if array.stream else 0


def _numba_device(array: Any) -> int:
    return array.gpu_data.context.device.id


def _numba_place(array: Any) -> Place:
    """Return where an array of Numba's lies.

    Its `__cuda_array_interface__` is wrong for an array that repeats its values: it describes one in C order.
    """
    return array.device_ctypes_pointer.value or 0, False, array.shape, array.strides, array.dtype.str


def _cupy_empty(like: Any, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> Any:
    cupy = sys.modules["cupy"]
    with like.device:
        size = int(np.prod(shape)) * dtype.itemsize
        return cupy.ndarray(shape, dtype, cupy.cuda.alloc(size), strides)


def _cupy_stream(array: Any) -> int:
    with array.device:
        return sys.modules["cupy"].cuda.get_current_stream().ptr


def _cupy_device(array: Any) -> int:
    return array.device.id


def _torch_empty(like: Any, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> Any:
    torch = sys.modules["torch"]
    steps = [step // dtype.itemsize for step in strides]
    return torch.empty_strided(shape, steps, dtype=getattr(torch, dtype.name), device=like.device)


def _torch_stream(array: Any) -> int:
    return sys.modules["torch"].cuda.current_stream(array.device).cuda_stream


def _torch_device(array: Any) -> int:
    return array.device.index


def _torch_place(array: Any) -> Place:
    """Return where a tensor lies.

    Its `__cuda_array_interface__` says the same, but takes several times as long.
    """
    if array.requires_grad:
        raise TypeError("requires a gradient, which is not computed here")
    typestr = _TORCH_TYPES.get(str(array.dtype))
    if typestr is None:
        raise TypeError(f"dtype {array.dtype}, must be torch.float32 or torch.float64, or torch.bool for a mask")
    if array.is_neg():
        raise TypeError("a lazy negation, whose values do not lie in memory")
    if array.layout is not sys.modules["torch"].strided:
        raise TypeError(f"layout {array.layout}, must be torch.strided")
    itemsize = array.element_size()
    strides = tuple([step * itemsize for step in array.stride()])
    return array.data_ptr(), False, tuple(array.shape), strides, typestr


_TORCH_TYPES = {"torch.float32": "<f4", "torch.float64": "<f8", "torch.bool": "|b1"}
_KNOWN = {
    "numba": Library(_numba_empty, _numba_stream, _numba_device, _numba_place),
    "cupy": Library(_cupy_empty, _cupy_stream, _cupy_device, has_streams=False),
    "torch": Library(_torch_empty, _torch_stream, _torch_device, _torch_place, has_streams=False),
}


class Seen(NamedTuple):
    """Describe an array of a GPU to NumPy by an array of the same shape, strides and dtype at the same address.

    That array must not be read. But NumPy's own rules hold for it, such as those of overlap, and arguments are checked
    as on the host.
    """

    array: Array
    address: int


def seen_from_here(name: str, value: Any, library: Library) -> Seen:
    """Return an argument as `Seen`, or raise an error that names it if the kernels cannot take it."""
    try:
        found = seen_at(*library.place(value))
    except (TypeError, RuntimeError) as error:  # the latter of PyTorch, as for sparse tensors
        raise TypeError(f"{name}: {error}{on_gpu(name, value)}") from None
    if found.array.dtype.type not in FLOATS and name != "mask":
        advice = on_gpu(name, value)
        raise TypeError(f"{name}: dtype {found.array.dtype}, must be float32 or float64{advice}")
    if not found.array.dtype.isnative:
        raise TypeError(f"{name}: dtype {found.array.dtype}, must be of native byte order")
    if not found.array.flags.aligned:
        raise ValueError(f"{name}: address {found.address:#x}, must be aligned to its dtype {found.array.dtype}")
    return found


class _Interface:
    def __init__(self, **interface: Any) -> None:
        self.__array_interface__ = {"version": 3, **interface}


@lru_cache(1 << 12)
def seen_at(address: int, read_only: bool, shape: Shape, strides: Shape | None, typestr: str) -> Seen:
    data = address or 64, read_only  # for 0, as of an empty array, NumPy would take memory of its own
    return Seen(np.asarray(_Interface(data=data, shape=shape, strides=strides, typestr=typestr)), address)
