"""Start threads that wait for work in compiled code. They belong neither to Python nor to Numba's threading layers.

A pool is a block of words; its address is an engine (`numbanorm.cpu.engine.parallel`). One launch at a time has the
pool. A thread that finds it taken, in a nested call or by another thread, does its work alone.

A launch opens the gate, wakes workers and takes part itself. All that take part claim chunks of items until none is
left. The first chunks are large, so that there are few; the last are small, so that all threads end together. Then the
caller shuts the gate and waits for the workers that still do a chunk. It does not wait for workers that have not come
in, since the system may give them no core for a long time.

Workers know nothing but the pool. They block Python's signals, and end before the process forks.
"""

import ctypes
import signal
import sys

import numpy as np
from numba import types

from numbanorm.cpu.compiling.jit import block, launcher
from numbanorm.cpu.engine.atomic import BYTES, add, call_kernel, load, pause, replace, store
from numbanorm.cpu.engine.control import control, set_control

# The words of a pool. Words that change at different times lie in different cache lines.
ENTRY, WORKERS, QUIT = 0, 1, 2  # the address of `run`; the number of workers; whether they have to end
TAKEN = 8  # whether a launch has the pool
GATE = 16  # OPEN while workers may come in, plus the number of workers inside, plus AWAITED
NEXT = 24  # the first item that no thread has claimed
KERNEL, CONTEXT, ITEMS, GRAIN, CONTROL = range(32, 37)  # the launch: its arguments, and the `control` of its caller
IDLE = 40  # the number of workers that wait at START and that no thread has called
START, DONE = 48, 56  # semaphores: at START idle workers wait, at DONE the caller waits for the last worker to leave
NAME = 64  # the name of all workers in the system's list of threads
BLOCKED, BEFORE = 72, 88  # sets of signals: those that workers block; those that the thread which starts them blocks
PROCESSORS = 104  # the set of processors that workers may run on
THREADS = 120  # the first of the workers' handles
CHANGING = WORKERS, QUIT, GATE, IDLE, TAKEN  # 0 in a pool at rest; TAKEN last, so that no launch is too early

OPEN, AWAITED = 1 << 32, 1 << 33
MOST = 1 << 10  # workers
PROCESSORS_BYTES = 128  # a set of 1024 processors
_NAME = b"numbanorm"
_FAULTS = "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS"  # caused by a thread's own code
SPINS = 1000  # how often a thread looks for work, or at the gate, before it sleeps; a look takes 15 to 25 ns on x86
CHUNKS = 2  # chunks to each thread, into which the items that are left are divided
CALLS = 4  # how many workers a thread wakes, at a microsecond or more for each; these wake further ones
_SIG_BLOCK, _SIG_SETMASK = (int(getattr(signal, name, 0)) for name in ("SIG_BLOCK", "SIG_SETMASK"))

_sem_init = types.ExternalFunction("sem_init", types.int32(types.intp, types.int32, types.uint32))
_sem_wait = types.ExternalFunction("sem_wait", types.int32(types.intp))
_sem_post = types.ExternalFunction("sem_post", types.int32(types.intp))
_pthread_create = types.ExternalFunction("pthread_create", types.int32(*[types.intp] * 4))
_pthread_join = types.ExternalFunction("pthread_join", types.int32(types.intp, types.intp))
_pthread_sigmask = types.ExternalFunction("pthread_sigmask", types.int32(types.int32, types.intp, types.intp))
_pthread_setname = types.ExternalFunction("pthread_setname_np", types.int32(types.intp, types.intp))
_pthread_setaffinity = types.ExternalFunction("pthread_setaffinity_np", types.int32(types.intp, types.intp, types.intp))
_usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


def supported() -> bool:
    """Return whether this system has the functions that workers need. macOS has no such semaphores."""
    needed = (
        _sem_init,
        _sem_wait,
        _sem_post,
        _pthread_create,
        _pthread_join,
        _pthread_sigmask,
        _pthread_setname,
        _pthread_setaffinity,
        _usleep,
    )
    return sys.platform == "linux" and BYTES == 8 and all(hasattr(ctypes.pythonapi, f.symbol) for f in needed)


def allow_processors(pool: np.ndarray, processors: set[int]) -> None:
    """Set the processors on which workers may run that are started later."""
    allowed = np.zeros(8 * PROCESSORS_BYTES, np.uint8)
    allowed[[number for number in processors if number < allowed.size]] = 1
    pool[PROCESSORS : PROCESSORS + PROCESSORS_BYTES // BYTES] = np.packbits(allowed, bitorder="little").view(np.intp)


def new_pool() -> np.ndarray:
    """Make a pool without workers. Its launches run in the threads that call."""
    memory = np.zeros(THREADS + MOST + 8, np.intp)
    pool = memory[-memory.ctypes.data % 64 // BYTES :]
    pool[NAME : NAME + 2].view(np.uint8)[: len(_NAME)] = list(_NAME)
    blocked = signal.valid_signals() - {getattr(signal, name, 0) for name in _FAULTS}
    pool[BLOCKED : BLOCKED + 2].view(np.uint64)[0] = sum(1 << number - 1 for number in blocked)
    return pool


@block
def begin(pool, kernel, context, items, grain):
    """Take the pool for a launch, if it has workers and no other launch has it. Return whether it was taken."""
    if load(pool, WORKERS) == 0 or not replace(pool, TAKEN, 0, 1):
        return False
    store(pool, KERNEL, kernel)
    store(pool, CONTEXT, context)
    store(pool, ITEMS, items)
    store(pool, GRAIN, grain)
    store(pool, CONTROL, control())
    store(pool, NEXT, 0)
    return True


@block
def take_part(pool):
    """Do chunks of the launch until none is left, with the floating-point `control` of the thread that launches."""
    control_before = control()
    if control_before != load(pool, CONTROL):
        set_control(load(pool, CONTROL))
    kernel, context = load(pool, KERNEL), load(pool, CONTEXT)
    items, grain = load(pool, ITEMS), load(pool, GRAIN)
    share = CHUNKS * (load(pool, WORKERS) + 1) * grain
    lo = load(pool, NEXT)
    while lo < items:
        hi = lo + max(1, (items - lo) // share) * grain
        if replace(pool, NEXT, lo, hi):
            call_kernel(kernel, context, lo, min(hi, items))
        lo = load(pool, NEXT)
    if control_before != load(pool, CONTROL):
        set_control(control_before)


@block
def end(pool):
    """Give the pool back."""
    store(pool, TAKEN, 0)


@launcher
def run(pool, kernel, context, items, grain):
    """Call kernel(context, lo, hi) for all items, `grain` of them or more at a time. This is the engine's entry."""
    if not begin(pool, kernel, context, items, grain):
        call_kernel(kernel, context, 0, items)
        return
    store(pool, GATE, OPEN)
    _wake(pool)
    take_part(pool)
    if add(pool, GATE, -OPEN) != OPEN:
        _await_workers(pool)
    end(pool)


@block
def _wake(pool):
    """Wake idle workers, if there is work for them."""
    most = min(CALLS, (load(pool, ITEMS) - load(pool, NEXT) - 1) // load(pool, GRAIN))
    while most > 0 and _take_one_idle(pool):
        _sem_post(pool + START * BYTES)
        most -= 1


@block
def _take_one_idle(pool):
    """Take one worker off the number of idle ones. Return whether there was one."""
    idle = load(pool, IDLE)
    while idle > 0:
        if replace(pool, IDLE, idle, idle - 1):
            return True
        idle = load(pool, IDLE)
    return False


@block
def _await_workers(pool):
    """Wait until all workers that take part have left."""
    for _ in range(SPINS):
        if load(pool, GATE) == 0:
            return
        pause()
    if add(pool, GATE, AWAITED) != 0:
        while _sem_wait(pool + DONE * BYTES) != 0:
            pass  # a signal has interrupted the wait
    store(pool, GATE, 0)


@launcher
def work(pool):
    """Do what a worker does from its start to its end."""
    while load(pool, QUIT) == 0:
        if _come_in(pool):
            _wake(pool)
            take_part(pool)
            if add(pool, GATE, -1) == AWAITED + 1:
                _sem_post(pool + DONE * BYTES)
        elif not _soon(pool):
            add(pool, IDLE, 1)
            if _has_work(pool) and _take_one_idle(pool):  # the launch began before this worker was counted as idle
                continue
            while _sem_wait(pool + START * BYTES) != 0:
                pass
    return 0


@block
def _has_work(pool):
    return load(pool, GATE) & OPEN != 0 and load(pool, NEXT) < load(pool, ITEMS)


@block
def _come_in(pool):
    """Come in through the gate, if there is work. Return whether this thread takes part now."""
    while _has_work(pool):
        gate = load(pool, GATE)
        if gate & OPEN and replace(pool, GATE, gate, gate + 1):
            return True
    return False


@block
def _soon(pool):
    """Look for work for a short time. Return whether there is some."""
    for _ in range(SPINS):
        if _has_work(pool):
            return True
        pause()
    return False


@launcher
def set_workers(pool, workers, routine):
    """End all workers, and begin as many new ones as asked for, or as the system grants.

    A launch that is under way ends first. `routine` is the address of `work`. All happens in one compiled call, which
    no signal handler interrupts.
    """
    _end_workers(pool)
    if workers > 0:
        _begin_workers(pool, min(workers, MOST), routine)


@block
def _begin_workers(pool, workers, routine):
    _sem_init(pool + START * BYTES, 0, 0)
    _sem_init(pool + DONE * BYTES, 0, 0)
    _pthread_sigmask(_SIG_BLOCK, pool + BLOCKED * BYTES, pool + BEFORE * BYTES)
    begun = 0
    while begun < workers:
        if _pthread_create(pool + (THREADS + begun) * BYTES, 0, routine, pool) != 0:
            break
        handle = load(pool, THREADS + begun)
        _pthread_setname(handle, pool + NAME * BYTES)
        _pthread_setaffinity(handle, PROCESSORS_BYTES, pool + PROCESSORS * BYTES)
        begun += 1
    _pthread_sigmask(_SIG_SETMASK, pool + BEFORE * BYTES, 0)
    store(pool, WORKERS, begun)


@block
def _end_workers(pool):
    workers = load(pool, WORKERS)
    store(pool, WORKERS, 0)  # so that no other launch takes the pool
    while not replace(pool, TAKEN, 0, 1):
        _usleep(50)
    store(pool, QUIT, 1)
    for _ in range(workers):
        _sem_post(pool + START * BYTES)
    for i in range(workers):
        _pthread_join(load(pool, THREADS + i), 0)
    for i in CHANGING:
        store(pool, i, 0)
