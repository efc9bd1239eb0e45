"""Threads that wait in compiled code for work, outside of Python and of Numba's threading layers.

A pool is a block of words; its address is an engine (`numbanorm.cpu.engine.parallel`). One launch at a time has it: a
thread that finds it taken, in a nested call or beside another thread, does its work alone. A launch opens the gate,
wakes workers and takes part itself. All who take part claim chunks of items until none is left: large ones first, so
that they are few, then smaller ones, so that all end together. At last the caller shuts the gate and waits for those
that are still at a chunk, never for a worker that has not come: it may not get a core for long.

Workers know nothing but the pool, and are neither Python's threads nor take its signals. They end before a fork.
"""

import ctypes
import signal
import sys

import numpy as np
from numba import types

from numbanorm.cpu.compiling.jit import block, launcher
from numbanorm.cpu.engine.atomic import BYTES, add, call_kernel, load, pause, replace, store
from numbanorm.cpu.engine.control import control, set_control

# The words of a pool, those that change apart from each other in cache lines of their own.
ENTRY, WORKERS, QUIT = 0, 1, 2  # the address of `run`; how many workers there are; whether they are to end
TAKEN = 8  # by a launch
GATE = 16  # OPEN while there is a launch to take part in, + how many workers do, + AWAITED
NEXT = 24  # the first item that nobody has claimed
KERNEL, CONTEXT, ITEMS, GRAIN, CONTROL = range(32, 37)  # of the launch; CONTROL: of who launches
IDLE = 40  # workers that wait at START and that nobody has called
START, DONE = 48, 56  # semaphores: for idle workers; for a caller that waits for the last of them
NAME = 64  # of each worker, for the system's lists of threads
BLOCKED, BEFORE = 72, 88  # sets of signals: those that workers do not take; those that their starter does not
PROCESSORS = 104  # the set of those that workers may run on
THREADS = 120  # from here on the workers' handles
CHANGING = WORKERS, QUIT, GATE, IDLE, TAKEN  # 0 in a pool at rest; TAKEN last, so that no launch meets another

OPEN, AWAITED = 1 << 32, 1 << 33
MOST = 1 << 10  # workers
PROCESSORS_BYTES = 128  # for 1024 of them
_NAME = b"numbanorm"
_FAULTS = "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGTRAP", "SIGABRT", "SIGSYS"  # of a thread's own
SPINS = 1000  # looks for work, or at the gate, some 15 to 25 ns each on x86, before a thread goes to sleep
CHUNKS = 2  # of the items that are left, to each thread
CALLS = 4  # workers that one thread wakes, which takes a microsecond or more for each; those go on waking others
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
    """Whether this system has what the workers are made of; macOS has no such semaphores."""
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
    """Where workers that begin from now on may run."""
    allowed = np.zeros(8 * PROCESSORS_BYTES, np.uint8)
    allowed[[number for number in processors if number < allowed.size]] = 1
    pool[PROCESSORS : PROCESSORS + PROCESSORS_BYTES // BYTES] = np.packbits(allowed, bitorder="little").view(np.intp)


def new_pool() -> np.ndarray:
    """A pool without workers: its launches run in their callers' threads."""
    memory = np.zeros(THREADS + MOST + 8, np.intp)
    pool = memory[-memory.ctypes.data % 64 // BYTES :]
    pool[NAME : NAME + 2].view(np.uint8)[: len(_NAME)] = list(_NAME)
    blocked = signal.valid_signals() - {getattr(signal, name, 0) for name in _FAULTS}
    pool[BLOCKED : BLOCKED + 2].view(np.uint64)[0] = sum(1 << number - 1 for number in blocked)
    return pool


@block
def begin(pool, kernel, context, items, grain):
    """Take the pool for a launch, if it has workers and nobody else has it; whether it is so."""
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
    """Do chunks of the launch until none is left, with floating-point numbers as in the thread that launches."""
    own = control()
    if own != load(pool, CONTROL):
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
    if own != load(pool, CONTROL):
        set_control(own)


@block
def end(pool):
    """Give the pool back."""
    store(pool, TAKEN, 0)


@launcher
def run(pool, kernel, context, items, grain):
    """The engine's entry: kernel(context, lo, hi) for all items, `grain` of them or more at a time."""
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
    """Call idle workers, if there is work for them."""
    most = min(CALLS, (load(pool, ITEMS) - load(pool, NEXT) - 1) // load(pool, GRAIN))
    while most > 0 and _take_one_idle(pool):
        _sem_post(pool + START * BYTES)
        most -= 1


@block
def _take_one_idle(pool):
    """Whether there was a worker to count as idle no more."""
    idle = load(pool, IDLE)
    while idle > 0:
        if replace(pool, IDLE, idle, idle - 1):
            return True
        idle = load(pool, IDLE)
    return False


@block
def _await_workers(pool):
    """Until all that take part have left."""
    for _ in range(SPINS):
        if load(pool, GATE) == 0:
            return
        pause()
    if add(pool, GATE, AWAITED) != 0:
        while _sem_wait(pool + DONE * BYTES) != 0:
            pass  # a signal came
    store(pool, GATE, 0)


@launcher
def work(pool):
    """A worker's life."""
    while load(pool, QUIT) == 0:
        if _come_in(pool):
            _wake(pool)
            take_part(pool)
            if add(pool, GATE, -1) == AWAITED + 1:
                _sem_post(pool + DONE * BYTES)
        elif not _soon(pool):
            add(pool, IDLE, 1)
            if _has_work(pool) and _take_one_idle(pool):  # a launch that began before it could count this worker
                continue
            while _sem_wait(pool + START * BYTES) != 0:
                pass
    return 0


@block
def _has_work(pool):
    return load(pool, GATE) & OPEN != 0 and load(pool, NEXT) < load(pool, ITEMS)


@block
def _come_in(pool):
    """Whether there is work, and this thread now takes part."""
    while _has_work(pool):
        gate = load(pool, GATE)
        if gate & OPEN and replace(pool, GATE, gate, gate + 1):
            return True
    return False


@block
def _soon(pool):
    """Whether there is work before it is worth to sleep."""
    for _ in range(SPINS):
        if _has_work(pool):
            return True
        pause()
    return False


@launcher
def set_workers(pool, workers, routine):
    """End the workers that there are, after the launch that is under way, and begin so many others, or as many as the
    system grants; routine is the address of `work`. All in one call, which no signal handler interrupts.
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
    store(pool, WORKERS, 0)  # for no other to begin
    while not replace(pool, TAKEN, 0, 1):
        _usleep(50)
    store(pool, QUIT, 1)
    for _ in range(workers):
        _sem_post(pool + START * BYTES)
    for i in range(workers):
        _pthread_join(load(pool, THREADS + i), 0)
    for i in CHANGING:
        store(pool, i, 0)
