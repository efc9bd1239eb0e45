"""The engine for systems without the semaphores and threads of `numbanorm.cpu.engine.workers`: Numba's own threads.

It has the limits of Numba's threading layers: they do not survive a fork, and one of them, workqueue, ends a process in
which two threads use it at once, or one within itself. One call of this package at a time has them, and whoever comes
meanwhile works alone; other parallel code of Numba's in the process, around a call or beside it, they know nothing of.
"""

import numba
from numba import prange

from numbanorm.cpu.compiling.jit import launcher, parallel
from numbanorm.cpu.engine.atomic import call_kernel, load
from numbanorm.cpu.engine.workers import WORKERS, begin, end, take_part


@launcher
def run(pool, kernel, context, items, grain):
    """The engine's entry, as `numbanorm.cpu.engine.workers.run`."""
    if begin(pool, kernel, context, items, grain):
        all_take_part(pool)
        end(pool)
    else:
        call_kernel(kernel, context, 0, items)


@parallel
def all_take_part(pool):
    """Each in a thread of Numba's."""
    for _ in prange(load(pool, WORKERS) + 1):
        take_part(pool)


def has_started() -> bool:
    """Whether anyone has started Numba's threads."""
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True
