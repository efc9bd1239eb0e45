"""Every system's call of an operation on a GPU, on the same arrays.

A maker takes an operation's arrays and returns the call to be timed: ``partial(partial, f)`` is one of calls of f. All
systems allocate their results, from memory that their library keeps, which takes the device no time.
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

import numbanorm
from bench.cases import TOLERANCE, Case

EPS, RMS_EPS = 1e-5, 1e-6
MOMENTUM = 0.1
WANTED = [True] * 3
OUT_OF_CACHE = 4  # times its size are moved before an array comes again

PEERS = ("PyTorch", "compiled", "Liger", "QuACK", "Apex")
_NEEDS = {"PyTorch": ("torch",), "compiled": ("torch",), "Liger": ("torch", "liger_kernel")}
_NEEDS |= {"QuACK": ("torch", "quack"), "Apex": ("torch", "apex")}


class Library(NamedTuple):
    """What a library does with arrays of its own."""

    to_device: Callable
    to_host: Callable
    empty_like: Callable
    copy: Callable  # (target, source)


def library() -> Library | None:
    """PyTorch's, whose arrays the peers take, or CuPy's; None if there are none for a GPU here.

    Numba's own are not timed: its allocator asks the driver each time, and freeing waits for the device.
    """
    if find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            return Library(
                lambda a: torch.from_numpy(a).cuda(),
                lambda a: a.cpu().numpy(),
                torch.empty_like,
                lambda target, source: target.copy_(source),
            )
    if find_spec("cupy"):
        import cupy

        if cupy.cuda.is_available():
            return Library(cupy.asarray, cupy.asnumpy, cupy.empty_like, cupy.copyto)
    return None


def lacks(name: str) -> str:
    """What must be installed for a peer; nothing if it is."""
    missing = [package for package in _NEEDS[name] if find_spec(package) is None]
    if not missing and find_spec("torch"):
        import torch

        return "" if torch.cuda.is_available() else "PyTorch built for CUDA"
    return " and ".join(missing)


def sets_of(case: Case) -> int:
    """How many arrays of each kind take turns; of tiny ones, which are always in the cache, one."""
    from numbanorm.cuda import cuda

    moved = (case.operation.reads + 1) * case.nbytes
    cache = cuda.get_current_device().L2_CACHE_SIZE
    return 1 if case.shape.network == "tiny" else -(-OUT_OF_CACHE * cache // moved)


def systems(case: Case, tell: Callable[[str], object], names: tuple[str, ...] = PEERS) -> dict[str, list[Callable]]:
    """The calls of each, one for each set of arrays, with the CPU's results; `tell` hears which peers cannot."""
    kind, given = library(), case.operation.arrays(case.shape)
    sets = [[kind.to_device(a) for a in given] for _ in range(sets_of(case))]
    own = partial(getattr(numbanorm, case.operation.name), **{case.operation.axis_name: case.shape.axis})
    expected = _flat(own(*given))
    found = {
        "numbanorm": [partial(own, *arrays) for arrays in sets],
        "out=": [partial(own, *arrays, out=kind.empty_like(arrays[0])) for arrays in sets],
    }
    for calls in found.values():
        _check(kind, calls[0](), expected)
    for name in names:
        if not lacks(name):
            try:
                if calls := _peer_calls(name, case, kind, sets, expected):
                    found[name] = calls
            except Exception as error:  # of many kinds: a peer does not take part in what it cannot do
                reason = (str(error).strip().splitlines() or [""])[0]
                tell(f"{name}, {case.operation.name}, {case.shape}: {type(error).__name__}: {reason}")
    return found


def _peer_calls(name: str, case: Case, kind: Library, sets: list, expected: tuple) -> list[Callable]:
    make = _FUNCTIONS[name]().get(case.operation.name)
    if make is None:
        return []
    axis, ndim = case.shape.axis % len(case.shape.sizes), len(case.shape.sizes)
    moved = case.operation.axis_name == "channel_axis" and axis != 1
    if moved:  # as PyTorch wants them; it has fast kernels for channels that lie last
        sets = [[a.movedim(axis, 1) if a.ndim == ndim else a for a in arrays] for arrays in sets]
    calls = [make(*arrays) for arrays in sets]
    y, *others = _flat(calls[0]())
    _check(kind, (y.movedim(1, axis) if moved else y, *others), expected)
    return calls


def _flat(result) -> tuple:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _check(kind: Library, result, expected: tuple) -> None:
    """Statistics flat, since some systems do not keep the reduced axes."""
    for i, (array, theirs) in enumerate(zip(_flat(result), expected, strict=True)):
        ours = kind.to_host(array)
        ours, theirs = (ours.ravel(), theirs.ravel()) if i else (ours, theirs)
        assert ours.shape == theirs.shape
        error, limit = np.abs(ours - theirs).max(), TOLERANCE * np.abs(theirs).max()
        assert error <= limit, f"result {i}: off by {error}, at most {limit}"  # false of NaN too


def copies(case: Case) -> list[Callable]:
    """Of as many bytes as the operation must move, reading and writing together."""
    kind, size = library(), (case.operation.reads + 1) * case.nbytes // 2 // 4
    pairs = [[kind.to_device(np.zeros(size, np.float32)) for _ in range(2)] for _ in range(sets_of(case))]
    return [partial(kind.copy, *pair) for pair in pairs]


def bare_launch() -> Callable:
    """Of a kernel with the arguments of that of `layer_norm`, which does nothing."""
    from numbanorm.cuda import cuda, launch, types

    def empty(x, weight, bias, eps, count, y, mean, rstd, rows, cols, weight_count, bias_count, statistic_count):
        pass

    pointer = types.CPointer(types.float32)
    kinds = *[pointer] * 3, *[types.float32] * 2, *[pointer] * 3, *[types.int64] * 5
    kernel, device = launch.Kernel(empty, kinds), cuda.get_current_device().id
    return partial(launch.launch, kernel, 128, (32, 1), (0,) * len(kinds), 0, device)


def _torch() -> dict[str, Callable]:
    """What torch.nn runs: for BN, cuDNN's kernels or PyTorch's own, as it chooses."""
    import torch

    aten, functions = torch.ops.aten, _torch_functions()

    def batch_norm_forward(x, weight, bias, running_mean, running_var):
        given = x, weight, bias, running_mean, running_var, True, MOMENTUM, EPS, True
        return aten._batch_norm_impl_index.default(*given)[:3]

    def batch_norm_backward(dy, x, mean, rstd, weight):
        *_, mean, rstd, reserve, kind = aten._batch_norm_impl_index.default(
            x, weight, weight, None, None, True, MOMENTUM, EPS, True
        )
        given = kind, x, dy, weight, None, None, mean, rstd, True, EPS, WANTED, reserve
        return lambda: aten._batch_norm_impl_index_backward.default(*given)

    makers = {name: partial(partial, function) for name, function in functions.items()}
    makers |= {"batch_norm_forward": partial(partial, batch_norm_forward), "batch_norm_backward": batch_norm_backward}
    return makers


def _compiled() -> dict[str, Callable]:
    """The same for each shape alone, as a user would who looks for speed."""
    import torch

    torch.compiler.reset()  # else it gives up after a few shapes
    return {
        name: partial(partial, torch.compile(function, fullgraph=True, dynamic=False))
        for name, function in _torch_functions().items()
    }


def _torch_functions() -> dict[str, Callable]:
    import torch

    aten = torch.ops.aten

    def layer_norm(x, weight, bias):
        return torch.layer_norm(x, weight.shape, weight, bias, EPS)

    def layer_norm_forward(x, weight, bias):
        return torch.native_layer_norm(x, weight.shape, weight, bias, EPS)

    def layer_norm_backward(dy, x, mean, rstd, weight):  # of a bias, only whether there is one matters
        return aten.native_layer_norm_backward.default(dy, x, weight.shape, mean, rstd, weight, weight, WANTED)

    def rms_norm(x, weight):
        return torch.rms_norm(x, weight.shape, weight, RMS_EPS)

    def rms_norm_forward(x, weight):
        return aten._fused_rms_norm.default(x, weight.shape, weight, RMS_EPS)

    def rms_norm_backward(dy, x, rstd, weight):
        return aten._fused_rms_norm_backward.default(dy, x, weight.shape, rstd, weight, WANTED[:2])

    def batch_norm(x, mean, var, weight, bias):
        return torch.batch_norm(x, weight, bias, mean, var, False, MOMENTUM, EPS, True)

    def batch_norm_forward(x, weight, bias, running_mean, running_var):
        return torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, MOMENTUM, EPS)

    def batch_norm_backward(dy, x, mean, rstd, weight):
        return aten.native_batch_norm_backward.default(dy, x, weight, None, None, mean, rstd, True, EPS, WANTED)

    over_axes = layer_norm, layer_norm_forward, layer_norm_backward, rms_norm, rms_norm_forward, rms_norm_backward
    per_channel = batch_norm, batch_norm_forward, batch_norm_backward
    return {function.__name__: function for function in over_axes + per_channel}


def _liger() -> dict[str, Callable]:
    from liger_kernel.ops.layer_norm import layer_norm_backward, layer_norm_forward

    def forward(x, weight, bias):
        y, _, mean, rstd, *_ = layer_norm_forward(x, weight, bias, EPS)
        return y, mean, rstd

    def backward(dy, x, mean, rstd, weight):
        return layer_norm_backward(dy, x, weight, weight, mean, rstd)

    return {"layer_norm_forward": partial(partial, forward), "layer_norm_backward": partial(partial, backward)}


def _quack() -> dict[str, Callable]:
    from quack.rmsnorm import layernorm_bwd, layernorm_fwd

    def layer_norm(x, weight, bias):
        return layernorm_fwd(x, weight, bias, EPS)

    def forward(x, weight, bias):
        y, rstd, mean = layernorm_fwd(x, weight, bias, EPS, return_rstd=True, return_mean=True)
        return y, mean, rstd

    def backward(dy, x, mean, rstd, weight):
        return partial(layernorm_bwd, x, weight, dy, rstd.flatten(), mean.flatten())

    makers = {"layer_norm": partial(partial, layer_norm), "layer_norm_forward": partial(partial, forward)}
    return makers | {"layer_norm_backward": backward}


def _apex() -> dict[str, Callable]:
    from apex.normalization.fused_layer_norm import fused_layer_norm_affine

    def layer_norm(x, weight, bias):
        return fused_layer_norm_affine(x, weight, bias, tuple(weight.shape), EPS)

    return {"layer_norm": partial(partial, layer_norm)}


_FUNCTIONS = {"PyTorch": _torch, "compiled": _compiled, "Liger": _liger, "QuACK": _quack, "Apex": _apex}
