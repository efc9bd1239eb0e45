"""How kernels are launched, with NVIDIA's driver replaced: what it is asked for, and how often."""

import ctypes
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from cuda.core._kernel_arg_handler import ParamHolder
from numba import types

from numbanorm import layer_norm
from numbanorm.cuda import compiling, cuda, launch, libraries
from tests.kernels import every_kernel

SUCCESS, INVALID_CONTEXT = launch.driver.CUresult.CUDA_SUCCESS, launch.driver.CUresult.CUDA_ERROR_INVALID_CONTEXT


class Driver:
    """In the place of `numba.cuda`, `cuda.core` and the driver: the current device, and what each was asked for."""

    def __init__(self):
        self.compiled, self.loaded, self.launched, self.waits = [], [], [], []
        self.current = 0  # device; None: no context is current
        self.gpus = {device: Gpu(self, device) for device in range(4)}
        self.ObjectCode = SimpleNamespace(from_cubin=lambda cubin: SimpleNamespace(get_kernel=self.get_kernel))
        self.LaunchConfig, self.Stream = launch.core.LaunchConfig, launch.core.Stream
        self.CUresult = launch.driver.CUresult

    def cubin_of(self, kernel, cc):
        self.compiled.append((kernel, cc))
        return b"cubin", f"entry of {kernel.threads}"

    def get_kernel(self, name):
        self.loaded.append((self.current, name))
        return SimpleNamespace(name=name, attributes=SimpleNamespace(num_regs=1))

    def launch(self, stream, configuration, kernel, *arguments):
        _, handle = stream.__cuda_stream__()
        shape = configuration.grid, configuration.block
        self.launched.append((self.current, handle, shape, kernel.name, arguments))

    def cuCtxGetDevice(self):
        return (INVALID_CONTEXT, None) if self.current is None else (SUCCESS, self.current)

    def get_current_device(self):
        self.current = self.current or 0
        return SimpleNamespace(id=self.current, compute_capability=(9, self.current))

    def external_stream(self, handle):
        return SimpleNamespace(handle=handle)

    def default_stream(self):
        return SimpleNamespace(handle=0)

    def event(self, timing):
        assert not timing
        return Event(self)


class Stream:
    """Of Numba."""

    def __init__(self, handle):
        self.handle = handle

    def __int__(self):
        return self.handle


class Gpu:
    def __init__(self, driver, device):
        self.driver, self.device = driver, device

    def __enter__(self):
        self.before, self.driver.current = self.driver.current, self.device

    def __exit__(self, *_):
        self.driver.current = self.before


class Event:
    def __init__(self, driver):
        self.driver = driver

    def record(self, stream):
        self.recorded = stream.handle

    def wait(self, stream):
        self.driver.waits.append((self.driver.current, stream.handle, self.recorded))


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    for name in ("cuda", "core", "driver"):
        monkeypatch.setattr(launch, name, driver)
    monkeypatch.setattr(launch, "cubin_of", driver.cubin_of)
    monkeypatch.setattr(libraries, "cuda", driver)
    caches = launch.loaded, launch._stream
    for cache in caches:
        cache.cache_clear()
    yield driver
    for cache in caches:
        cache.cache_clear()


POINTER = types.CPointer(types.float32)


def kernel(threads=256, argument_types=(POINTER, types.int64)):
    return launch.Kernel(lambda x, y: None, argument_types, threads)


def test_a_kernel_is_compiled_and_loaded_once_for_a_device_and_launched_there(driver):
    one, places = kernel(512), ((0, 0), (0, 7), (2, 0), (0, 0), (2, 9))
    for grid, (device, stream) in enumerate(places, start=3):
        launch.launch(one, grid, (32, 4), (1, 2), stream, device)
    assert driver.compiled == [(one, (9, 0)), (one, (9, 2))]
    assert driver.loaded == [(0, "entry of 512"), (2, "entry of 512")]
    assert driver.launched == [
        (device, stream, ((grid, 1, 1), (32, 4, 1)), "entry of 512", (1, 2))
        for grid, (device, stream) in enumerate(places, start=3)
    ]
    assert driver.current == 0


@pytest.mark.parametrize("device", [0, 1])
def test_a_thread_without_a_context_launches_on_the_device_that_it_is_told(driver, device):
    driver.current = None
    launch.launch(kernel(), 1, (32, 4), (1, 2), 0, device)
    assert [launched[0] for launched in driver.launched] == [device]


def test_each_launch_has_the_grid_and_the_block_that_it_asks_for(driver):
    one = kernel()
    for grid, block in ((100, (32, 8)), (7, (32, 8)), (100, (256, 1)), (100, (32, 8))):
        launch.launch(one, grid, block, (1, 2), 0, 0)
    assert [launched[2] for launched in driver.launched] == [
        ((100, 1, 1), (32, 8, 1)),
        ((7, 1, 1), (32, 8, 1)),
        ((100, 1, 1), (256, 1, 1)),
        ((100, 1, 1), (32, 8, 1)),
    ]


NUMBERS = {"u64": ctypes.c_int64, "f32": ctypes.c_float, "f64": ctypes.c_double}  # of PTX


@pytest.mark.parametrize(
    "argument_types",
    sorted({case.kernel.argument_types for case in every_kernel()}, key=str),
    ids=lambda kinds: " ".join(str(kind).replace(" ", "") for kind in kinds),
)
def test_each_argument_has_the_size_and_the_kind_that_the_compiled_kernel_takes(argument_types):
    """As `cuda.core` lays it out for the driver, which copies as many bytes as the kernel takes and asks for no more.

    What a kernel takes depends on its types alone, so an empty one is compiled.
    """
    names = ", ".join(f"a{i}" for i in range(len(argument_types)))
    namespace = {}
    exec(f"def empty({names}): pass", namespace)
    ptx, _ = cuda.compile_ptx(namespace["empty"], argument_types, cc=(9, 0))
    taken = re.findall(r"\.param \.(\w+)", ptx)

    given, n = [], 0
    for kind in argument_types:
        if isinstance(kind, types.BaseTuple):
            given.append(tuple((1 << 40) + n + k for k in range(len(kind))))
            n += len(kind)
        else:
            given.append(0.1 + n if isinstance(kind, types.Float) else -(1 << 62) - n if kind is types.int64 else n)
            n += 1
    flat = [value for one in given for value in (one if isinstance(one, tuple) else (one,))]
    packed = launch.described(kernel(argument_types=argument_types), None, None).packed(tuple(given))
    holder = ParamHolder(packed)
    addresses = (ctypes.c_void_p * len(packed)).from_address(holder.ptr)
    found = [NUMBERS[name].from_address(address).value for name, address in zip(taken, addresses, strict=True)]
    assert found == [NUMBERS[name](value).value for name, value in zip(taken, flat, strict=True)]


def test_a_number_beyond_float32_becomes_infinity_without_a_warning():
    packed = launch.described(kernel(argument_types=(types.float32, types.float64)), None, None).packed((1e300, 1e300))
    assert packed == [np.inf, 1e300]
    assert [type(value) for value in packed] == [np.float32, float]


def test_an_argument_of_a_type_that_a_launch_cannot_convert_is_refused():
    with pytest.raises(KeyError, match="int32"):
        launch.described(kernel(argument_types=(types.int32,)), None, None)


def test_registers_are_never_more_than_there_can_be():
    assert [kernel(threads).register_limit for threads in (128, 256, 512)] == [255, 255, 128]
    assert compiling.REGISTERS == 512 * 128


def test_a_stream_waits_for_others(driver):
    launch.wait(1, 5, {0})
    launch.wait(1, 0, {9})
    assert driver.waits == [(1, 5, 0), (1, 0, 9)]


def test_arrays_of_numba(driver):
    made = []
    driver.device_array = lambda *args, **options: made.append((driver.current, args, options))
    memory = SimpleNamespace(context=SimpleNamespace(device=SimpleNamespace(id=2)))
    array = SimpleNamespace(stream=Stream(3), gpu_data=memory)
    library = libraries._KNOWN["numba"]
    library.empty(array, (2, 3), (12, 4), np.dtype(np.float32))
    assert made == [(2, ((2, 3), np.dtype(np.float32), (12, 4)), {"stream": array.stream})]
    assert (library.stream(array), library.device(array)) == (3, 2)


def test_tensors_of_pytorch():
    """A CPU build makes them elsewhere; on the host they are not for here."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    library = libraries.library_of("x", torch.zeros(1))
    made = library.empty(torch.zeros(1), (2, 3), (4, 8), np.dtype(np.float32))
    assert (made.dtype, made.shape, made.stride()) == (torch.float32, (2, 3), (1, 2))
    seen = libraries.seen_from_here("x", made, library)
    assert (seen.address, seen.array.shape, seen.array.strides) == (made.data_ptr(), (2, 3), (4, 8))
    with pytest.raises(TypeError, match=r"^x: dtype torch.bfloat16, must be torch.float32 or torch.float64"):
        libraries.seen_from_here("x", torch.zeros(1, dtype=torch.bfloat16), library)
    with pytest.raises(TypeError, match=r"^x: requires a gradient, .*; pass x.detach\(\)"):
        libraries.seen_from_here("x", torch.zeros(1, requires_grad=True), library)
    with pytest.raises(TypeError, match=r"^x: torch.Tensor, must be a numpy.ndarray; pass x.numpy\(\)"):
        layer_norm(torch.zeros(2, 3))
