"""A lock between processes. It dies with the process that has it, and where there are no locks nobody waits."""

import errno
import os
from contextlib import contextmanager, suppress
from time import monotonic, sleep

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 120.0  # seconds, since the process that has the lock may be stopped
_PAUSES = 0.01, 0.1  # seconds between two looks, the first time and at most
_TAKEN = errno.EACCES, errno.EAGAIN


@contextmanager
def locked(path):
    """Hold the lock that is a file, which goes with it, and tell whether another process had it until now.

    For one thread at a time. After PATIENCE, and where the file cannot be made or locked, go on without.
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
                # Who waits for it has it open, and then finds that nothing is left to do, or holds a file that is gone.
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    os.unlink(path)
        os.close(descriptor)


def _open(path):
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600) if fcntl else None
    except OSError:
        return None


def _wait(descriptor):
    """Whether the lock is held now, and whether it was another's before."""
    end, pause, waited = monotonic() + PATIENCE, _PAUSES[0], False
    while monotonic() < end:
        try:
            # The process's own, unlike that of `flock`: a child that is forked meanwhile does not keep it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True, waited
        except OSError as error:
            if error.errno not in _TAKEN:
                return False, waited
        waited = True
        sleep(pause)
        pause = min(2 * pause, _PAUSES[1])
    return False, waited
