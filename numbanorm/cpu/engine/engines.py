"""Choose the engine that serves calls, give it its threads, and end them when the process forks or ends."""

import atexit
import ctypes
import os
import threading
from abc import abstractmethod

from numba import typeof, types
from numba.extending import overload

from numbanorm.cpu.compiling.jit import c_address, starting, uninterrupted
from numbanorm.cpu.compiling.numba_internals import fork_locks, global_compiler_lock
from numbanorm.cpu.engine import cells, portable, workers
from numbanorm.cpu.engine.atomic import load
from numbanorm.cpu.engine.forks import forking, hold_across_forks
from numbanorm.cpu.engine.threads import is_multiprocessing_child, limits, processors, thread_count

_VARIABLE = "NUMBANORM_ENGINE"
_ENTRY = types.void(*[types.intp] * 5)
_ROUTINE = types.intp(types.intp)


class Engine:
    """Hold a pool of threads, which may have none. It is never freed, since compiled code may hold its address."""

    name: str

    def __init__(self) -> None:
        self.pool = workers.new_pool()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.pool))
        with global_compiler_lock:
            typeof(self.pool)  # imports numpy.ma now: while another thread forks, that import would hang in the child
        self.address = int(self.pool.ctypes.data)
        self.process = os.getpid()
        self.asked: tuple[int, set[int]] | None = None  # the last request: how many threads, on which processors

    @property
    def threads(self) -> int:
        """Return the number of threads, including the one that calls."""
        return int(self.pool[workers.WORKERS]) + 1

    def set_threads(self, threads: int) -> None:
        """Change to so many threads, including the one that calls, or to as many as the system grants."""
        if self.process != os.getpid():
            self.forked()
        asked = threads, processors()
        if asked != self.asked:
            self.asked = None  # if a signal handler raises here, the next call does it
            self._change_threads(*asked)
            self.asked = asked

    @abstractmethod
    def _change_threads(self, threads: int, allowed: set[int]) -> None: ...

    def forked(self) -> None:
        """Count only the thread that calls: in a child, no other thread exists."""
        self.pool[list(workers.CHANGING)] = 0
        self.process, self.asked = os.getpid(), None


class Parked(Engine):
    """This engine has threads of its own (`numbanorm.cpu.engine.workers`)."""

    name = "parked"

    def __init__(self) -> None:
        super().__init__()
        self.pool[workers.ENTRY] = c_address(workers.run, _ENTRY)
        self.routine = c_address(workers.work, _ROUTINE)
        workers.set_workers(self.address, 0, self.routine)  # compiles it now: a fork cannot

    def _change_threads(self, threads: int, allowed: set[int]) -> None:
        workers.allow_processors(self.pool, allowed)
        workers.set_workers(self.address, threads - 1, self.routine)


class Portable(Engine):
    """This engine uses Numba's threads (`numbanorm.cpu.engine.portable`)."""

    name = "prange"

    def __init__(self) -> None:
        super().__init__()
        self.lost = _is_forked and portable.has_started()  # Numba's threads do not survive a fork
        if not self.lost:
            portable.all_take_part.compile((types.intp,))  # starts Numba's threads
        self.pool[workers.ENTRY] = c_address(workers.run if self.lost else portable.run, _ENTRY)

    def _change_threads(self, threads: int, allowed: set[int]) -> None:
        self.pool[workers.WORKERS] = 0 if self.lost else threads - 1

    def forked(self) -> None:
        """Stop using Numba's threads, which do not exist in a child."""
        super().forked()
        self.lost = True


SERIAL = 0  # no engine: the caller does all the work
ENGINES = {"parked": Parked, "prange": Portable}

_guard = threading.RLock()  # held while threads are started or stopped
_address = 0  # of the engine in use, or 0 if its number of threads has to be looked at first
_made: dict[str, Engine] = {}  # the engines that have been used, by name
_resting: list[tuple[Engine, int]] = []  # while the process forks: the engines, and how many threads each had
_asked: tuple[int, int] | None = None  # how many threads were asked for, and in which process
_ending, _is_forked = False, False
_PATIENCE = 0.01  # seconds to wait for the guard, before looking whether the thread that holds it forks


def engine() -> int:
    """Start the engine in use and return its address. Return SERIAL while another thread forks.

    In compiled code, return SERIAL until Python code has started the engine.
    """
    if _address:
        return _address
    used = _started()
    return used.address if used else SERIAL


@overload(engine)
def _compiled_engine():
    def engine():
        return load(cells.address(), cells.ENGINE)

    return engine


def _started() -> Engine | None:
    """Start the engine in use and return it. Return None if another thread forks and the engine is not ready.

    A thread that forks holds the guard, and may wait in somebody's hook for this thread. So this thread does not wait
    for it, except in a first call of a kind, which waits for the compiler.
    """
    name = engine_name()
    inside = _guard._is_owned()  # this code runs in a signal handler or a hook
    try:
        while not forking:
            if name not in _made:
                _made.setdefault(name, uninterrupted(ENGINES[name]))  # another thread may do so, too
            if inside or _guard.acquire(timeout=_PATIENCE):
                return _start(_made[name])
    finally:
        if not inside:
            # Not `suppress`: a signal handler could raise between entering it and this call.
            try:  # noqa: SIM105
                _guard.release()
            except RuntimeError:  # the guard was not acquired
                pass
    used = _made.get(name)
    return used if used and used.threads <= thread_count(_asked_here()) else None


def _start(used: Engine) -> Engine:
    """Give an engine its threads. The caller holds the guard, so nothing is compiled: a compiling thread may wait."""
    global _address
    while True:
        asked = _asked
        used.set_threads(1 if _ending else thread_count(_asked_here()))
        _address = cells.words[cells.ENGINE] = used.address  # in this order: see `ask_for`
        if asked is _asked:  # `ask_for` sets it without the guard
            return used


def engine_name() -> str:
    """Return the name of the engine: NUMBANORM_ENGINE if it is set, or else the best one for this system."""
    usual = "parked" if workers.supported() else "prange"
    name = os.environ.get(_VARIABLE) or usual
    if name not in ENGINES or (name == "parked" and usual != name):
        raise ValueError(f"{_VARIABLE}: {name!r}, must be {' or '.join(e for e in ENGINES if e in ('prange', usual))}")
    return name


def thread_limits() -> dict[str, int]:
    """Return the limits on the number of threads, by name."""
    return limits(_asked_here())


def _asked_here() -> int | None:
    """Return the number of threads that this process asked for, or None.

    A child of multiprocessing does not take over what its parent asked for.
    """
    asked = _asked  # one reading, since another thread may set it
    if asked is None or (asked[1] != os.getpid() and is_multiprocessing_child()):
        return None
    return asked[0]


def ask_for(number: int | None) -> None:
    """Use at most so many threads from now on. None means as many as the other limits allow."""
    global _address, _asked
    _asked = None if number is None else (number, os.getpid())
    # In this order: if `_start` sets both in another thread meanwhile, the cell is not left at 0 beside an address.
    cells.words[cells.ENGINE] = _address = SERIAL


def thread_count_in_use() -> int:
    """Return the number of threads that calls use at most."""
    used = _started()
    return used.threads if used else 1


def _rest() -> None:
    """End all threads before the process forks. Calls then do their work in the thread that calls.

    So do those of compiled code, which keeps the address of the engine: `_resume` gives them their threads back.
    """
    global _address
    _address = 0
    _resting[:] = [(made, made.threads) for made in list(_made.values())]
    for made, _ in _resting:
        made.set_threads(1)


def _resume() -> None:
    """Start the threads again in the parent, where compiled code may go on launching.

    If a signal handler raises here, the next call starts them.
    """
    for made, threads in _resting:
        made.set_threads(threads)
    _resting.clear()


def _begin_anew() -> None:
    """Forget the parent's threads in a child. Calls there start new ones."""
    global _address, _is_forked
    cells.words[cells.ENGINE] = _address = SERIAL
    _is_forked = True
    _resting.clear()
    for made in _made.values():
        made.forked()


if hasattr(os, "register_at_fork"):
    # Without Numba's locks, a child could neither compile nor start Numba's threads if another thread was doing so.
    hold_across_forks([*fork_locks(), _guard, starting], _rest, _resume, _begin_anew)


def _end() -> None:
    """End all threads before the interpreter frees the code that they run."""
    global _address, _ending
    with _guard:
        _ending = True
        cells.words[cells.ENGINE] = _address = SERIAL
        for made in list(_made.values()):
            made.set_threads(1)


atexit.register(_end)
