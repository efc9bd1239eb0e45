"""The GPU that is here: whether it can be used, its name and clocks, and how long calls take, the device and the host.

Times of the device are between two events with many calls between them, which wait in the queue until all are there: so
the host has no part in them.
"""

import subprocess
import time
from collections.abc import Callable
from functools import cache

from bench import gpu_systems
from bench.timing import Timing

SAMPLE = 10e-3  # seconds of the device
MOST = 64  # calls to a sample: the queue holds some 1000 kernels
HOST_CALLS = 100
PAUSES = 2, 8, 32, 128  # milliseconds in which calls come into the queue


def no_gpu() -> str:
    """Why nothing runs on a GPU here, as a sentence; nothing if it does."""
    try:
        from numbanorm.cuda import cuda

        if cuda.is_available():
            return ""
        error = (cuda.cuda_error() or "NVVM is not installed: pip install 'numbanorm[cuda]'").strip()
        return f"no GPU: {error.splitlines()[0]}"
    except Exception as error:  # an import's, or that of a library which numba-cuda does not find, such as NVVM
        return f"no GPU: {type(error).__name__}: {error}"


def missing() -> str:
    """Why nothing can be timed there, as a sentence; nothing if it can."""
    if sentence := no_gpu():
        return sentence
    if gpu_systems.library() is None:
        return "arrays on the GPU are needed: PyTorch built for CUDA (which the peers need too) or CuPy."
    return ""


def gpu_line() -> str:
    """Name, driver and clocks, as they are now."""
    from numbanorm.cuda import cuda

    device = cuda.get_current_device()
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id={device.uuid}"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        name, driver, clock, most, memory, most_memory = found.split(", ")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return f"{device.name}, clocks unknown (no nvidia-smi)"
    return f"{name}, driver {driver}; clock {clock} of {most}, memory's {memory} of {most_memory}"


def facts() -> dict[str, object]:
    """What its times depend on."""
    from numbanorm.cuda import cuda

    device = cuda.get_current_device()
    found = {"compute_capability": device.compute_capability, "multiprocessors": device.MULTIPROCESSOR_COUNT}
    return {"gpu": gpu_line(), **found, "l2_bytes": device.L2_CACHE_SIZE}


def device_times(systems: dict[str, list[Callable]], rounds: int) -> dict[str, Timing]:
    """The device's seconds per call; of each system, calls on other arrays follow each other."""
    for calls in systems.values():
        for call in 3 * calls:
            call()
    turns = {name: _turns(calls) for name, calls in systems.items()}
    samples: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(rounds):
        for name, calls in systems.items():
            samples[name].append(_sample(calls, turns[name]))
    return {name: Timing(taken) for name, taken in samples.items()}


def _turns(calls: list[Callable]) -> int:
    wanted = round(SAMPLE / min(_sample(calls, 1) for _ in range(3)) / len(calls))
    return max(1, min(wanted, MOST // len(calls)))


def _sample(calls: list[Callable], turns: int) -> float:
    """Seconds per call; the device begins when all calls are in its queue, if any pause is long enough for that."""
    from numbanorm.cuda import cuda

    kept = [None] * len(calls)  # so that results do not come where those of the call before were, in the cache
    for pause in PAUSES:
        begin, end = cuda.event(), cuda.event()
        _pause()[128, 1](pause)
        begin.record()
        for _ in range(turns):
            for i, call in enumerate(calls):
                kept[i] = call()
        in_queue = not begin.query()
        end.record()
        end.synchronize()
        if in_queue:
            break
    return cuda.event_elapsed_time(begin, end) * 1e-3 / (turns * len(calls))


@cache
def _pause():
    from numbanorm.cuda import cuda

    @cuda.jit
    def pause(milliseconds):
        for _ in range(milliseconds):
            cuda.nanosleep(1_000_000)

    return pause


def host_times(calls: dict[str, Callable], rounds: int) -> dict[str, Timing]:
    """The host's seconds per call, none of which is waited for."""
    from numbanorm.cuda import cuda

    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            cuda.synchronize()
            start = time.perf_counter()
            for _ in range(HOST_CALLS):
                call()
            samples[name].append((time.perf_counter() - start) / HOST_CALLS)
    return {name: Timing(taken[1:]) for name, taken in samples.items()}  # the first compiles
