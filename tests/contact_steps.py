"""Steps that end in every way, for the tests of `bench.first_contact`."""

import atexit
import os
import signal
import subprocess
import sys
import time

from bench.first_contact.steps import Lacking, need

STEP_SECONDS = 100.0


def right():
    return {"ok": True}


def wrong():
    raise AssertionError("off by 3")


def lacking():
    raise Lacking("no such tool")


def broken():
    raise RuntimeError("the device is lost")


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def hanging():
    time.sleep(1000)


def hanging_child():
    """Whose process would outlive it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    return {"pid": child.pid}


def spoiling_the_end():
    """As a driver may that is taken down."""
    atexit.register(os._exit, 7)
    return {"ok": True}


PARTS = {
    "all": [wrong, lacking, broken, killed, hanging, right],
    "right": [right],
    "no device": [lambda: need("no GPU"), right],
    "waits": [hanging_child, hanging, right],
    "ends badly": [spoiling_the_end],
    "leaves": [hanging_child, killed],
}


def steps(part, until):
    global STEP_SECONDS
    STEP_SECONDS = 3.0 if part == "all" else STEP_SECONDS
    if part == "unable":
        raise ImportError("no such package")
    return {f"{i} {step.__name__}": step for i, step in enumerate(PARTS[part])}
