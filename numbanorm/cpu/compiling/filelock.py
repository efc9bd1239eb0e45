"""Hold a lock between processes.

The lock is released when its process ends. Where the system has no such locks, nobody waits.
"""

import errno
import os
from contextlib import contextmanager, suppress
from time import monotonic, sleep

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 120.0  # seconds: the process that holds the lock may have been stopped
_PAUSES = 0.01, 0.1  # seconds between two attempts: at first, and at most
_TAKEN = errno.EACCES, errno.EAGAIN


@contextmanager
def locked(path):
    """Hold a lock, which is a file that exists as long as the lock is held. Yield whether another process held it.

    Only one thread at a time may use it. After PATIENCE seconds, and where the file cannot be created or locked, the
    caller goes on without the lock.
    """
    descriptor = _open(path)
    if descriptor is None:
        yield False
        return
    held, waited = False, False
    try:
        held, waited = _wait(descriptor)
        yield waited
    finally:
        if held:
            with suppress(OSError):
                # A process that waits has the file open, and then locks a deleted file. That is harmless.
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    os.unlink(path)
        os.close(descriptor)


def _open(path):
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600) if fcntl else None
    except OSError:
        return None


def _wait(descriptor):
    """Return whether the lock is held now, and whether another process held it before."""
    end, pause, waited = monotonic() + PATIENCE, _PAUSES[0], False
    while monotonic() < end:
        try:
            # Not `flock`: its lock would pass to a child that is forked meanwhile.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True, waited
        except OSError as error:
            if error.errno not in _TAKEN:
                return False, waited
        waited = True
        sleep(pause)
        pause = min(2 * pause, _PAUSES[1])
    return False, waited
