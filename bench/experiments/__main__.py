"""Run the experiments: each claim of the article on real data, checked and drawn."""

import argparse
import json
import sys

from rich.console import Console

from bench.environment import RESULTS, environment, machine_line
from bench.experiments import experiment, page
from bench.experiments.experiment import NAMES, Result
from bench.experiments.runs import measure

FOLDER = RESULTS / "experiments"


def main() -> None:
    """Run what the command line asks for."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(machine_line(), soft_wrap=True)
    results = measure(console, options.experiments, options.seeds)
    page.table(results).show(console)
    for result in results:
        for finding in result.findings:
            console.print(f"[bold]{result.name}[/bold]: {finding}", highlight=False, soft_wrap=True)
    for result in results:
        if result.runs:
            save(result)
    console.print(f"Pictures and all figures: {FOLDER}")
    missing = [result.name for result in results if result.missing]
    if options.readme and missing:
        sys.exit(f"Not written, for data are missing: {', '.join(missing)}")
    if options.readme:
        console.print(f"Written: {page.write(results, machine_line())}")
    if options.check and not all(result.holds for result in results):
        sys.exit(1)
    if options.require_data and missing:
        sys.exit(f"Data are missing: {', '.join(missing)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.experiments", description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="name", help=f"all if none is named: {', '.join(NAMES)}")
    parser.add_argument("--fast", action="store_true", help="those that take seconds")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each, with seeds 0 to N - 1 (5)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if an inequality does not hold")
    parser.add_argument("--require-data", action="store_true", help="exit with 1, too, if data are not installed")
    parser.add_argument("--readme", action="store_true", help="also write bench/experiments/README.md and its pictures")
    options = parser.parse_args()
    if unknown := set(options.experiments) - set(NAMES):
        parser.error(f"name: {', '.join(sorted(unknown))}, must be among {', '.join(NAMES)}")
    if options.seeds < 2:
        parser.error(f"--seeds: {options.seeds}, must be at least 2: one run does not tell what chance does")
    if options.readme and (options.experiments or options.fast):
        parser.error("--readme: writes of all experiments, not together with names or --fast")
    names = dict.fromkeys(options.experiments or NAMES)
    options.experiments = [name for name in names if not options.fast or experiment.module(name).FAST]
    if not options.experiments:
        parser.error(f"--fast: {', '.join(names)} take longer than seconds, must be left out or named without --fast")
    return options


def save(result: Result) -> None:
    """Everything that was measured, and a picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    record = environment() | {
        "experiment": result.name,
        "holds": result.holds,
        "checks": [c._asdict() | {"mean": c.mean, "error": c.error, "holds": c.holds} for c in result.checks],
        "findings": result.findings,
        "seconds": result.seconds,
        "runs": result.runs,
    }
    (FOLDER / f"{result.name}.json").write_text(json.dumps(record, indent=1))
    result.module.draw(result.runs).savefig(FOLDER / f"{result.name}.png", dpi=90)


if __name__ == "__main__":
    main()
