"""How kernels are launched, with Numba's driver replaced: what it is asked for, and how often."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")

from numba import types
from numba.cuda import dispatcher

from numbanorm import layer_norm
from numbanorm.cuda import launch, libraries
from tests import compiled


class Driver:
    """In the place of `numba.cuda`."""

    def __init__(self):
        self.compiled, self.launched, self.waits, self.current = [], [], [], 0
        self.cudadrv = SimpleNamespace(driver=SimpleNamespace(_to_core_stream=lambda stream: stream and stream.handle))
        self.gpus = {device: Gpu(self, device) for device in range(4)}

    def jit(self, argument_types, max_registers):
        def decorate(function):
            self.compiled.append((function, argument_types, max_registers))
            return SimpleNamespace(overloads={argument_types: Compiled(self)})

        return decorate

    def get_current_device(self):
        return SimpleNamespace(id=self.current)

    def external_stream(self, handle):
        return Stream(handle)

    def default_stream(self):
        return Stream(0)

    def event(self, timing):
        assert not timing
        return Event(self)


class Gpu:
    def __init__(self, driver, device):
        self.driver, self.device = driver, device

    def __enter__(self):
        self.before, self.driver.current = self.driver.current, self.device

    def __exit__(self, *_):
        self.driver.current = self.before


class Stream:
    def __init__(self, handle):
        self.handle = handle

    def __int__(self):
        return self.handle


class Event:
    def __init__(self, driver):
        self.driver = driver

    def record(self, stream):
        self.recorded = stream.handle

    def wait(self, stream):
        self.driver.waits.append((self.driver.current, stream.handle, self.recorded))


class Compiled:
    def __init__(self, driver):
        self.driver = driver

    def launch(self, arguments, grid, block, stream):
        self.driver.launched.append((self.driver.current, grid, block, stream, arguments))


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    for module in (launch, libraries):
        monkeypatch.setattr(module, "cuda", driver)
    caches = launch.compiled, launch._stream
    for cache in caches:
        cache.cache_clear()
    yield driver
    for cache in caches:
        cache.cache_clear()


def kernel(threads=256):
    return launch.Kernel(lambda x: None, (types.CPointer(types.float32),), threads)


def test_a_kernel_is_compiled_once_for_a_device_and_launched_there(driver):
    own = kernel(512)
    for device, stream in ((0, 0), (0, 7), (2, 0), (0, 0)):
        launch.launch(own, 3, (32, 4), (1, 2), stream, device)
    assert driver.compiled == [(own.function, own.argument_types, 128)] * 2
    places = [(0, 0), (0, 7), (2, 0), (0, 0)]
    assert driver.launched == [(device, (3, 1, 1), (32, 4, 1), stream, (1, 2)) for device, stream in places]
    assert driver.current == 0


def test_each_launch_has_the_grid_and_the_block_that_it_asks_for(monkeypatch):
    """Numba's own compiled kernel: nothing that it keeps for a kernel, a block and a stream is changed."""
    launched = []
    monkeypatch.setattr(launch.cuda, "get_current_device", lambda: SimpleNamespace(id=0))
    monkeypatch.setattr(dispatcher._Kernel, "launch", lambda self, *given: launched.append(given))
    own = kernel()
    with compiled.pretended_device((8, 0)):
        for grid in (100, 7, 100):
            launch.launch(own, grid, (32, 8), (1,), 0, 0)
    assert [given[:3] for given in launched] == [((1,), (grid, 1, 1), (32, 8, 1)) for grid in (100, 7, 100)]


def test_registers_are_never_more_than_there_can_be(driver):
    launch.launch(kernel(128), 1, (32, 4), (1,), 0, 0)
    assert driver.compiled[0][2] == 255


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
