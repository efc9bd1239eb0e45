"""The main job: numbanorm on real data, its accuracy and its speed."""

import argparse
import sys

import numpy as np
from rich.console import Console

from bench import (
    accuracy,
    gpu,
    growth,
    launch,
    layers,
    memory,
    overhead,
    peers,
    readme,
    scalers,
    soak,
    speed,
    start,
    targets,
    train,
)
from bench.environment import machine_line


def main() -> None:
    """Run the parts that the command line asks for."""
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 250)
    console.print(machine_line(options.peers), soft_wrap=True)
    if options.gpu:
        sys.exit(gpu.run(console, options.quick))
    console.print("The first run compiles, which takes longer than all else; later ones load what it has compiled.")
    for sentence in peers.missing(_peer_names(options)):
        console.print(sentence)
    for name in options.parts or (name for name in PARTS if name not in ("soak", "traffic")):
        PARTS[name](console, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="part",
        help="train: a network on scikit-learn's digits without norm, with BatchNorm and with LayerNorm; "
        "accuracy: the error of y far from zero; "
        "speed: every operation beside NumPy, PyTorch and the memory's ceiling; "
        "scalers: statistics and scalers beside NumPy and scikit-learn; "
        "overhead: tiny arrays, beside the bare kernel, and layers beside functions; "
        "launch: what several threads cost, at once, after a pause and beside a busy core; "
        "growth: time and memory as x grows; "
        "start: imports, first results, compiling. All of these if none is named. "
        "traffic: the bytes that the CUDA kernels move, counted without a GPU (needs numba-cuda); "
        "soak: ten minutes of calls from threads and forked children, all results checked; --quick for one (Linux).",
    )
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument(
        "--peers", action="store_true", help="speed: also beside torch.compile, JAX and ONNX Runtime; and the targets"
    )
    parser.add_argument("--float64", action="store_true", help="speed: arrays of float64")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="alone or with --quick: every operation on an NVIDIA GPU beside PyTorch, other kernels that are installed "
        "and a copy on the device",
    )
    parser.add_argument("--readme", action="store_true", help="also write these tables into README.md")
    options = parser.parse_args()
    if options.gpu and options.parts:
        parser.error(f"--gpu: is a part of its own, not together with {', '.join(options.parts)}")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"part: {', '.join(sorted(unknown))}, must be among {', '.join(PARTS)}")
    return options


def _peer_names(options) -> tuple[str, ...]:
    return peers.ALL if options.peers else peers.BASIC


def _train(console: Console, options) -> None:
    runs = train.train_all(console)
    train.table(runs).show(console)
    console.print(f"Plot: {train.plot(runs)}; all figures: {train.save(runs)}")


def _accuracy(console: Console, options) -> None:
    table = accuracy.table()
    table.show(console)
    console.print(f"All figures: {accuracy.save(table)}")
    if options.readme:
        readme.write("accuracy", [table], machine_line())


def _speed(console: Console, options) -> None:
    names = _peer_names(options)
    results = speed.measure(console, options.quick, np.float64 if options.float64 else np.float32, names)
    for table in speed.tables(results, names):
        table.show(console)
    if options.peers:
        targets.table(results).show(console)
    console.print(f"All figures: {speed.save(results)}")
    if options.readme:
        short = [result for result in results if result.case.shape.quick]
        readme.write("speed", speed.tables(short, names), machine_line(options.peers))


def _scalers(console: Console, options) -> None:
    results = scalers.measure(console, options.quick)
    table = scalers.table(results)
    table.show(console)
    console.print(f"All figures: {scalers.save(results)}")
    if options.readme:
        readme.write("scalers", [table], machine_line())


def _overhead(console: Console, options) -> None:
    results = overhead.measure(options.quick)
    overhead.table(results).show(console)
    console.print(f"All figures: {overhead.save(results)}")
    passes = layers.measure(options.quick)
    layers.table(passes).show(console)
    console.print(f"All figures: {layers.save(passes)}")


def _launch(console: Console, options) -> None:
    results = launch.measure(options.quick)
    launch.table(results).show(console)
    console.print(f"All figures: {launch.save(results)}")


def _soak(console: Console, options) -> None:
    record = soak.run(console, options.quick)
    soak.table(record).show(console)
    console.print(f"All figures: {soak.save(record)}")
    for fault in record.faults[:10]:
        console.print(fault)
    if not record.passed:
        sys.exit(1)


def _growth(console: Console, options) -> None:
    for part in (growth, memory):
        results = part.measure(console, options.quick)
        part.table(results).show(console)
        console.print(f"All figures: {part.save(results)}")


def _traffic(console: Console, options) -> None:
    from bench import traffic  # which needs numba-cuda

    table = traffic.table()
    table.show(console)
    console.print(f"All figures: {traffic.save(table)}")
    if options.readme:
        readme.write("traffic", [table], machine_line())


def _start(console: Console, options) -> None:
    figures = start.measure(options.quick)
    start.table(figures).show(console)
    console.print(f"All figures: {start.save(figures)}")


PARTS = {
    "train": _train,
    "accuracy": _accuracy,
    "speed": _speed,
    "scalers": _scalers,
    "overhead": _overhead,
    "launch": _launch,
    "growth": _growth,
    "start": _start,
    "traffic": _traffic,
    "soak": _soak,
}

if __name__ == "__main__":
    main()
