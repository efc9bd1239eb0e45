"""Locks that no other thread has at the moment when the process forks: a child would wait for it for ever.

A signal handler can interrupt what Python calls before a fork and after it; if the handler raises, Python goes on
without what that was to do. So the locks are taken and given back by functions of C alone, between which Python runs no
handler; and while they are taken signals are held back, since Python runs handlers also where it waits for a lock.
"""

import ctypes
import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

_SIGNALS_BYTES = 128  # of a set of them, in every C library

forking: list[bool] = []  # not empty while a thread waits to fork, or does


def hold_across_forks(
    locks: list[Any],
    before: Callable[[], object],
    after_in_parent: Callable[[], object],
    after_in_child: Callable[[], object],
) -> None:
    """Take reentrant locks, in this order, before each fork, and then call `before`; both sides release them at last.

    Python calls what is registered last first before a fork, and last after it.
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
    """Take the locks, for them to be released, in a child whose parent called nothing before it forked, as uWSGI."""
    if not forking:
        for lock in locks:
            if not lock._is_owned():
                lock._at_fork_reinit()  # who had it is not here
            lock.acquire()


class _Signals(threading.local):
    """Those that each thread has blocked: all for a while, and then as before.

    Made as a thread first forks, in Python: if a handler raises there, this fork does without.
    """

    def __init__(self) -> None:
        every, before = (ctypes.create_string_buffer(_SIGNALS_BYTES) for _ in range(2))
        change = ctypes.pythonapi.pthread_sigmask
        change(signal.SIG_BLOCK, None, before)
        ctypes.pythonapi.sigfillset(every)
        self.hold_back = partial(change, signal.SIG_BLOCK, every, before)
        self.restore = partial(change, signal.SIG_SETMASK, before, None)
