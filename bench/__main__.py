"""The main job: numbanorm on real data, its accuracy and its speed."""

import argparse
import sys

from rich.console import Console

from bench import accuracy, peers, readme, speed, train
from bench.environment import machine_line

PARTS = ("train", "accuracy", "speed")


def main() -> None:
    """Run the parts that the command line asks for."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(machine_line(), soft_wrap=True)
    console.print("The first run compiles, which takes longer than all else; later ones load what it has compiled.")
    if peers.MISSING:
        console.print(peers.MISSING)
    parts = {"train": _train, "accuracy": _accuracy, "speed": _speed}
    for name in options.parts or PARTS:
        parts[name](console, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help="train: a network on scikit-learn's digits without norm, with BatchNorm and with LayerNorm; "
        "accuracy: the error of y far from zero; "
        "speed: every operation beside NumPy, PyTorch and the memory's ceiling. All three if none is named.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds: within a minute on 2 cores")
    parser.add_argument("--readme", action="store_true", help="also write the accuracy and speed tables into README.md")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"part: {', '.join(sorted(unknown))}, must be among {', '.join(PARTS)}")
    return options


def _train(console: Console, options) -> None:
    runs = train.train_all(console)
    train.table(runs).show(console)
    console.print(f"Plot: {train.plot(runs)}; all figures: {train.save(runs)}")


def _accuracy(console: Console, options) -> None:
    table = accuracy.table()
    table.show(console)
    console.print(f"All figures: {accuracy.save(table)}")
    if options.readme:
        readme.write("accuracy", [table])


def _speed(console: Console, options) -> None:
    results = speed.measure(console, options.quick)
    for table in speed.tables(results):
        table.show(console)
    console.print(f"All figures: {speed.save(results)}")
    if options.readme:
        readme.write("speed", speed.tables([result for result in results if result.case.shape.quick]))


if __name__ == "__main__":
    main()
