"""The steps of a stage, one after another in one process.

A stage's module has `steps(part, until)`: the name and the function of each step. A function returns the fields of its
line, `ok` among them where results were held against something. It raises `AssertionError` for a wrong result, and
`Lacking` where something it needs is not there. After any other exception the device may be in no state to go on: the
process ends, and `supervise` starts another for the steps that are left.
"""

import faulthandler
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

from bench.first_contact.record import Record

ANEW = 3  # the exit status that asks for another process
STEP_SECONDS = 60  # of one step, which is then taken for one that hangs; a module may have its own
LONGEST = 500  # characters of an error

Steps = dict[str, Callable[[], dict[str, Any]]]


class Lacking(Exception):
    """What a step needs is not there."""


class NoDevice(Lacking):
    """Nor is what all other steps need."""


def need(sentence: str) -> None:
    """`sentence` says why there is no device for any step; it is empty if there is one."""
    if sentence:
        raise NoDevice(sentence)


def do(record: Record, steps: Steps, until: float, seconds: float) -> int:
    """Those that have no line yet, until it is time to stop; the exit status. None may last longer than `seconds`."""
    said = {line.get("step") for line in record.lines()}
    left, status = [name for name in steps if name not in said], 0
    with record.log.open("a") as log:
        while left and not status:
            if time.time() >= until:
                record.say(stopped="no time left", left=left)
                break
            record.running.write_text(left[0])
            faulthandler.dump_traceback_later(seconds, exit=True, file=log)
            start = time.perf_counter()
            try:
                fields, status = _outcome(steps[left[0]], log)
            except NoDevice as lacking:
                record.say(lacks=str(lacking), left=left)
                break
            finally:
                faulthandler.cancel_dump_traceback_later()
            record.say(step=left.pop(0), **fields, seconds=round(time.perf_counter() - start, 2))
    if not status:
        record.running.write_text("")  # nothing is being done any more
    return status


def _outcome(step: Callable[[], dict[str, Any]], log: TextIO) -> tuple[dict[str, Any], int]:
    """The fields of a step's line, and the exit status if the process must end after it."""
    try:
        return step(), 0
    except NoDevice:
        raise
    except Lacking as lacking:
        return {"lacks": str(lacking)}, 0
    except AssertionError as error:
        return {"ok": False, "error": str(error)[:LONGEST]}, 0
    except Exception as error:
        traceback.print_exc(file=log)
        return {"failed": f"{type(error).__name__}: {error}"[:LONGEST]}, ANEW
