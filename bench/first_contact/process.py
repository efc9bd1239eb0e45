"""One process of a stage: ``python -m bench.first_contact.process MODULE STAGE PART RUN UNTIL OUT [--emulated]``."""

import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

from bench.first_contact.record import Record
from bench.first_contact.steps import STEP_SECONDS, do


def main() -> int:
    """The exit status."""
    module_name, stage, part, run, until, directory, *more = sys.argv[1:]
    module, record = import_module(module_name), Record(Path(directory), float(run), stage, part)
    if "--emulated" in more:
        from bench.first_contact.rehearsal import emulated as around
    else:
        around = nullcontext
    with around():
        return do(record, module.steps(part, float(until)), float(until), getattr(module, "STEP_SECONDS", STEP_SECONDS))


if __name__ == "__main__":
    sys.exit(main())
