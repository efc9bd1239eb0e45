"""Hold locks while the process forks, so that no other thread holds one of them then.

A child that is forked while another thread holds a lock would wait for that lock for ever.

Python calls registered functions before and after a fork. A signal handler can interrupt one of them, and if the
handler raises, Python goes on without the rest of that function. So only functions written in C take and release the
locks, since Python runs no handler between these. Signals are blocked meanwhile, since Python also runs handlers while
it waits for a lock.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

_SIGNALS_BYTES = 128  # of a set of signals, in every C library

forking: list[bool] = []  # not empty while a thread forks, or waits for the locks to do so


def hold_across_forks(
    locks: list[Any],
    before: Callable[[], object],
    after_in_parent: Callable[[], object],
    after_in_child: Callable[[], object],
) -> None:
    """Take reentrant locks before each fork, in this order, and then call `before`.

    After the fork, parent and child call their function, and then release the locks.

    Python calls functions before a fork in the reverse order of their registration, and functions after it in that
    order.
    """
    os.register_at_fork(after_in_child=partial(_make_up_for_before, locks))
    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)
    signals = _Signals()
    os.register_at_fork(before=partial(methodcaller("restore"), signals))
    for lock in reversed(locks):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    os.register_at_fork(before=partial(methodcaller("hold_back"), signals))
    os.register_at_fork(before=partial(forking.append, True), after_in_parent=forking.pop, after_in_child=forking.clear)


def _make_up_for_before(locks: list[Any]) -> None:
    """Take the locks in a child whose parent called no function before it forked, as uWSGI does.

    What is called next releases them.
    """
    if not forking:
        for lock in locks:
            if not lock._is_owned():
                lock._at_fork_reinit()  # the thread that held it does not exist in the child
            lock.acquire()


class _Signals(threading.local):
    """Hold the sets of signals that a thread blocks.

    `hold_back` blocks all signals, and `restore` blocks those that were blocked before. A thread's object is created in
    Python when the thread first forks. If a handler raises there, this fork happens without blocking signals.
    """

    def __init__(self) -> None:
        every, before = (ctypes.create_string_buffer(_SIGNALS_BYTES) for _ in range(2))
        change = ctypes.pythonapi.pthread_sigmask
        change(signal.SIG_BLOCK, None, before)
        ctypes.pythonapi.sigfillset(every)
        self.hold_back = partial(change, signal.SIG_BLOCK, every, before)
        self.restore = partial(change, signal.SIG_SETMASK, before, None)
