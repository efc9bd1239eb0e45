"""Define the engine for systems without the semaphores and threads of `numbanorm.cpu.engine.workers`.

It uses Numba's own threads, and has the limits of Numba's threading layers. They do not survive a fork. One of them,
workqueue, ends the process when two threads use it at once, or when one uses it within itself. So one call of this
package at a time uses the threads, and a call that comes meanwhile does its work alone. This engine knows nothing of
the user's own parallel Numba code.
"""

import numba
from numba import prange

from numbanorm.cpu.compiling.jit import launcher, parallel
from numbanorm.cpu.engine.atomic import call_kernel, load
from numbanorm.cpu.engine.workers import WORKERS, begin, end, take_part


@launcher
def run(pool, kernel, context, items, grain):
    """Call kernel(context, lo, hi) for all items.

    This is the engine's entry, with the arguments of `numbanorm.cpu.engine.workers.run`.
    """
    if begin(pool, kernel, context, items, grain):
        all_take_part(pool)
        end(pool)
    else:
        call_kernel(kernel, context, 0, items)


@parallel
def all_take_part(pool):
    """Let each of Numba's threads take part."""
    for _ in prange(load(pool, WORKERS) + 1):
        take_part(pool)


def has_started() -> bool:
    """Return whether any code in the process has started Numba's threads."""
    try:
        numba.threading_layer()
    except ValueError:
        return False
    return True
