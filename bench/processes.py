"""Python processes of their own, for what one that has run before can no longer show."""

import json
import os
import subprocess
import sys
import time

from bench.environment import ROOT


def run(*arguments: str, **environment: str):
    """What ``python arguments`` prints, as JSON; None if it is silent."""
    command = [sys.executable, *arguments]
    whole = os.environ | environment
    whole.pop("PYTHONDONTWRITEBYTECODE", None)  # each would compile all of Python's source that is not installed
    finished = subprocess.run(command, cwd=ROOT, env=whole, stdout=subprocess.PIPE, check=True)
    return json.loads(finished.stdout) if finished.stdout else None


def seconds(*arguments: str) -> float:
    """From the start of the process to its end."""
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start
