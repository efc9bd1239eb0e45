"""Which engine serves calls, how many threads it has, and what becomes of them when the process forks or ends."""

import atexit
import ctypes
import os
import threading
from abc import abstractmethod
from typing import Any

from llvmlite.binding import ffi
from numba import typeof, types
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as numba_threads

from numbanorm.cpu.compiling.jit import c_address, starting, uninterrupted
from numbanorm.cpu.engine import portable, workers
from numbanorm.cpu.engine.forks import forking, hold_across_forks
from numbanorm.cpu.engine.threads import is_multiprocessing_child, limits, processors, thread_count

_VARIABLE = "NUMBANORM_ENGINE"
_ENTRY = types.void(*[types.intp] * 5)
_ROUTINE = types.intp(types.intp)


class Engine:
    """A pool that stays where it is for ever, with threads or without: its address may be in compiled code's hands."""

    name: str

    def __init__(self) -> None:
        self.pool = workers.new_pool()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.pool))
        with global_compiler_lock:
            typeof(self.pool)  # imports numpy.ma: were it while another thread forks, the child could not
        self.address = int(self.pool.ctypes.data)
        self.process = os.getpid()
        self.asked: tuple[int, set[int]] | None = None  # how many threads, on which processors

    @property
    def threads(self) -> int:
        """How many it has, with the one that calls."""
        return int(self.pool[workers.WORKERS]) + 1

    def set_threads(self, threads: int) -> None:
        """Have so many, with the one that calls, or as many as the system grants."""
        if self.process != os.getpid():
            self.forked()
        asked = threads, processors()
        if asked != self.asked:
            self.asked = None  # for the next call to do it, if a signal handler raises
            self._change_threads(*asked)
            self.asked = asked

    @abstractmethod
    def _change_threads(self, threads: int, allowed: set[int]) -> None: ...

    def forked(self) -> None:
        """Have none but the one that calls, in a child where there are no others."""
        self.pool[list(workers.CHANGING)] = 0
        self.process, self.asked = os.getpid(), None


class Parked(Engine):
    """Threads of its own (`numbanorm.cpu.engine.workers`)."""

    name = "parked"

    def __init__(self) -> None:
        super().__init__()
        self.pool[workers.ENTRY] = c_address(workers.run, _ENTRY)
        self.routine = c_address(workers.work, _ROUTINE)
        workers.set_workers(self.address, 0, self.routine)  # compiles it, for no fork to have to

    def _change_threads(self, threads: int, allowed: set[int]) -> None:
        workers.allow_processors(self.pool, allowed)
        workers.set_workers(self.address, threads - 1, self.routine)


class Portable(Engine):
    """Numba's threads (`numbanorm.cpu.engine.portable`)."""

    name = "prange"

    def __init__(self) -> None:
        super().__init__()
        self.lost = _is_forked and portable.has_started()  # Numba's threads do not survive a fork
        if not self.lost:
            portable.all_take_part.compile((types.intp,))  # starts Numba's threads, which loading a caller does not
        self.pool[workers.ENTRY] = c_address(workers.run if self.lost else portable.run, _ENTRY)

    def _change_threads(self, threads: int, allowed: set[int]) -> None:
        self.pool[workers.WORKERS] = 0 if self.lost else threads - 1

    def forked(self) -> None:
        """The same, for good."""
        super().forked()
        self.lost = True


SERIAL = 0  # the engine that is none
ENGINES = {"parked": Parked, "prange": Portable}

_guard = threading.RLock()  # to start and stop threads
_address = 0  # of the engine in use, while its threads are as many as they should be
_made: dict[str, Engine] = {}
_resting: list[tuple[Engine, int]] = []  # engines that have no threads while the process forks, and how many they had
_asked: tuple[int, int] | None = None  # how many threads, and of which process
_ending, _is_forked = False, False
_PATIENCE = 0.01  # seconds, for another thread that has the guard, before it is seen whether it forks


def engine() -> int:
    """The address of the engine in use; its threads have started. SERIAL where another thread forks meanwhile."""
    if _address:
        return _address
    used = _started()
    return used.address if used else SERIAL


def _started() -> Engine | None:
    """The engine in use, or None.

    It waits for no thread that forks: that one has the guard, and may wait for this one in hooks of others. But a first
    call of a kind does, for the compilers.
    """
    name = engine_name()
    inside = _guard._is_owned()  # in a signal handler or a hook
    try:
        while not forking:
            if name not in _made:
                _made.setdefault(name, uninterrupted(ENGINES[name]))  # others may be here, too
            if inside or _guard.acquire(timeout=_PATIENCE):
                return _start(_made[name])
    finally:
        if not inside:
            # Not `suppress`: a signal handler could raise after that call, before this one.
            try:  # noqa: SIM105
                _guard.release()
            except RuntimeError:  # it was not acquired
                pass
    used = _made.get(name)
    return used if used and used.threads <= thread_count(_asked_here()) else None


def _start(used: Engine) -> Engine:
    """See to its threads, with the guard. Nothing is compiled: who compiles may wait for the guard."""
    global _address
    while True:
        asked = _asked
        used.set_threads(1 if _ending else thread_count(_asked_here()))
        _address = used.address
        if asked is _asked:  # which needs no guard
            return used


def engine_name() -> str:
    """What NUMBANORM_ENGINE says, or the best for this system."""
    usual = "parked" if workers.supported() else "prange"
    name = os.environ.get(_VARIABLE) or usual
    if name not in ENGINES or (name == "parked" and usual != name):
        raise ValueError(f"{_VARIABLE}: {name!r}, must be {' or '.join(e for e in ENGINES if e in ('prange', usual))}")
    return name


def thread_limits() -> dict[str, int]:
    """What limits the number of threads, by its name."""
    return limits(_asked_here())


def _asked_here() -> int | None:
    """A child of multiprocessing does not take over what its parent asked for itself."""
    asked = _asked  # which another thread may set
    if asked is None or (asked[1] != os.getpid() and is_multiprocessing_child()):
        return None
    return asked[0]


def ask_for(number: int | None) -> None:
    """Use at most so many threads from now on, or as many as the other limits allow."""
    global _address, _asked
    _asked, _address = None if number is None else (number, os.getpid()), 0


def thread_count_in_use() -> int:
    """How many threads calls use at most."""
    used = _started()
    return used.threads if used else 1


def _rest() -> None:
    """Parked threads end before the process forks: calls are done by their callers alone."""
    global _address
    _address = 0
    _resting[:] = [(made, made.threads) for made in list(_made.values())]
    for made, _ in _resting:
        made.set_threads(1)


def _resume() -> None:
    """In the parent, also for compiled code that goes on launching. If a handler raises, the next call does it."""
    for made, threads in _resting:
        made.set_threads(threads)
    _resting.clear()


def _begin_anew() -> None:
    """In a child: calls there start threads of its own."""
    global _address, _is_forked
    _address, _is_forked = 0, True
    _resting.clear()
    for made in _made.values():
        made.forked()


def _others_locks() -> list[Any]:
    """Of Numba and LLVM, in the order in which they take them.

    A child could neither compile nor start Numba's threads if another thread was at it.
    """
    compiler = getattr(global_compiler_lock, "_lock", None)
    starter = getattr(numba_threads, "_backend_init_thread_lock", None)
    llvm = getattr(getattr(ffi.lib, "_lock", None), "_lock", None)
    return [lock for lock in (compiler, starter, llvm) if lock is not None]


if hasattr(os, "register_at_fork"):
    hold_across_forks([*_others_locks(), _guard, starting], _rest, _resume, _begin_anew)


def _end() -> None:
    """Let no thread be in compiled code when that goes."""
    global _address, _ending
    with _guard:
        _ending, _address = True, 0
        for made in list(_made.values()):
            made.set_threads(1)


atexit.register(_end)
