"""The command line of `bench.first_contact`."""

import argparse
import signal
import sys
import time
from pathlib import Path

import bench.first_contact
from bench.first_contact import correctness, sanitizer
from bench.first_contact.record import FILE, is_right, is_wrong, lines
from bench.first_contact.supervise import Stage, run

BUDGET = 540  # seconds in which all of it fits, on one H100 and 16 processors
ROOM = "bench.first_contact"
STAGES = (
    Stage("probe", f"{ROOM}.probe", 30),
    Stage("correctness", f"{ROOM}.correctness", 140, tuple(correctness.FAMILIES)),
    Stage("sanitizer", f"{ROOM}.sanitizer", 130, sanitizer.TOOLS),
    Stage("bandwidth", f"{ROOM}.bandwidth", 130),
    Stage("host", f"{ROOM}.host", 30),
    Stage("cpu", f"{ROOM}.cpu", 60),
)
MUST_BE_RIGHT = "correctness"  # the stage without whose results nothing is known


def main() -> int:
    """The exit status."""
    options = _options()
    if options.readme:
        from bench.first_contact import tables

        tables.write(options.readme)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes of a stage are ended too
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.time()
    stages = [stage for stage in STAGES if stage.name in (options.stages or [stage.name])]
    more = ("--emulated",) if options.emulated else ()
    try:
        run(stages, options.out, started, options.budget, *more)
    finally:
        status = summary(stages, options.out, started)
    return status


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.first_contact",
        description=bench.first_contact.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [stage.name for stage in STAGES]
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"{', '.join(names)}; all of them if none is named")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds for all of it ({BUDGET})")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", type=Path, help="the directory for the results")
    where.add_argument(
        "--readme", type=Path, metavar="FILE", help="run nothing; write the tables of these results into both READMEs"
    )
    parser.add_argument("--emulated", action="store_true", help="a rehearsal without a GPU; it says nothing of one")
    options = parser.parse_args()
    if unknown := set(options.stages) - set(names):
        parser.error(f"stage: {', '.join(sorted(unknown))}, must be among {', '.join(names)}")
    return options


def summary(stages: list[Stage], directory: Path, started: float) -> int:
    """Print what became of each stage; the exit status, which is 1 where a result is wrong or missing."""
    found = lines(directory, started)
    print(f"\n{'stage':12} right wrong lacking not reached")
    for stage in stages:
        own = [line for line in found if line["stage"] == stage.name]
        left = sum(len(line.get("left", ())) for line in own)
        counts = sum(map(is_right, own)), sum(map(is_wrong, own)), sum("lacks" in line for line in own), left
        print("{:12} {:5} {:5} {:7} {:11}".format(stage.name, *counts))
    for line in filter(is_wrong, found):
        print(f"WRONG: {line['stage']}, {line.get('part', '')}: {line.get('step')}: {_reason(line)}")
    for reason in dict.fromkeys(line["lacks"] for line in found if "lacks" in line):
        print(f"lacking: {reason}")
    print(f"all lines: {directory / FILE}")
    proved = any(is_right(line) for line in found if line["stage"] == MUST_BE_RIGHT)
    wanted = any(stage.name == MUST_BE_RIGHT for stage in stages)
    return int(any(map(is_wrong, found)) or (wanted and not proved))


def _reason(line: dict) -> str:
    return line.get("failed") or line.get("error", "")


if __name__ == "__main__":
    sys.exit(main())
