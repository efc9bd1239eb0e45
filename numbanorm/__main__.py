"""Compile the kernels ahead of their first use, or tell what the package finds on this machine."""

import argparse
import sys
from collections.abc import Iterable

import numpy as np

from numbanorm import _info, _warmup
from numbanorm.cpu.compiling import cache, places


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m numbanorm", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    warmup = commands.add_parser("warmup", help="compile the kernels of the common calls, and keep them")
    warmup.add_argument("--dtype", nargs="+", choices=["float32", "float64"], default=["float32", "float64"])
    commands.add_parser("info", help="processor, engine, threads, cache and GPUs")
    options = parser.parse_args()
    if options.command == "info":
        for name, value in _info.lines():
            print(f"{name + ':':<18}{value}")
    else:
        _warm_up(options.dtype)


def _warm_up(dtypes: list[str]) -> None:
    calls = {name: call for dtype in dtypes for name, call in _warmup.calls(np.dtype(dtype)).items()}
    for name in _with_progress(calls):
        calls[name]()
    kept = {directory: found for directory in places.directories() if (found := cache.contents(directory)[0])}
    for directory, found in kept.items():
        print(f"{found} kernels in {directory}")
    if not kept:
        sys.exit("No directory could be written to keep kernels in: set NUMBA_CACHE_DIR to one")


def _with_progress(names: Iterable[str]) -> Iterable[str]:
    """Yield the names, and show each while it is worked on."""
    names = list(names)
    try:
        from rich.progress import Progress
    except ImportError:
        for i, name in enumerate(names):
            print(f"{i + 1} of {len(names)}: {name}", flush=True)
            yield name
        return
    with Progress() as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            progress.update(task, description=name)
            yield name
            progress.advance(task)


if __name__ == "__main__":
    main()
