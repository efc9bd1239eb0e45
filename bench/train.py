"""The same network on scikit-learn's digits without norm, with batch and with layer normalization.

All three start from the same weights and see the same batches at the same rate, one at which the network without norm
hardly learns: its sigmoids saturate. Loss and accuracy are those of evaluation, the loss over the training set.
"""

import time
from statistics import median
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from bench.environment import RESULTS, append
from bench.experiments.data import Data, split
from bench.network import perceptron
from bench.tables import Table
from numbanorm import BatchNorm, LayerNorm

NORMS = {"no norm": None, "BatchNorm": BatchNorm, "LayerNorm": LayerNorm}
WIDTHS = (64, 128, 128, 128, 10)
STEPS, EVERY, SHOWN = 600, 20, (0, 40, 100, 200, 400, 600)
BATCH, RATE, SEED = 64, 0.3, 0
TEST_SHARE = 0.2


class Run(NamedTuple):
    """What one training showed, every EVERY steps, and the median time of a step."""

    steps: list[int]
    losses: list[float]
    accuracies: list[float]
    seconds_per_step: float


def load() -> Data:
    """scikit-learn's 1797 images of 8 x 8, shuffled once."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return split((images / 16).astype(np.float32), labels, int(TEST_SHARE * labels.size), SEED)


def train_all(console: Console) -> dict[str, Run]:
    """A run for each norm."""
    data, runs = load(), {}
    # The products are too small for two threads, which wait for each other by spinning: 0.4 ms or 140 ms per step.
    with Progress(console=console) as progress, threadpool_limits(1, "blas"):
        for name, norm in NORMS.items():
            task = progress.add_task(f"digits, {name}", total=STEPS)
            runs[name] = _train(norm, data, lambda task=task: progress.advance(task))
    return runs


def _train(norm, data: Data, advance) -> Run:
    network = perceptron(WIDTHS, norm, np.random.default_rng(SEED))
    batches = np.random.default_rng(SEED).integers(data.labels.size, size=(STEPS, BATCH))
    run, times = Run([], [], [], 0.0), []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            run.steps.append(step)
            run.losses.append(network.evaluate(data.x, data.labels)[0])
            run.accuracies.append(network.evaluate(data.test_x, data.test_labels)[1])
        if step < STEPS:
            images, labels = data.x[batches[step]], data.labels[batches[step]]
            start = time.perf_counter()
            network.step(images, labels, RATE)
            times.append(time.perf_counter() - start)
            advance()
    return run._replace(seconds_per_step=median(times))


def table(runs: dict[str, Run]) -> Table:
    """Loss and accuracy as training went on."""
    header = ["norm", *(f"step {step}" for step in SHOWN), "ms per step"]
    rows = []
    for name, run in runs.items():
        at = [run.steps.index(step) for step in SHOWN]
        cells = [f"{run.losses[i]:.3f}, {run.accuracies[i]:.1%}" for i in at]
        rows.append([name, *cells, f"{run.seconds_per_step * 1e3:.2f}"])
    return Table(f"Digits: training loss, test accuracy (batches of {BATCH}, rate {RATE})", header, rows)


def save(runs: dict[str, Run]):
    """A row per norm and step; returns the path."""
    return append(
        "digits",
        [
            {"norm": name, "step": step, "loss": loss, "accuracy": accuracy, "s per step": run.seconds_per_step}
            for name, run in runs.items()
            for step, loss, accuracy in zip(run.steps, run.losses, run.accuracies, strict=True)
        ],
    )


def plot(runs: dict[str, Run]):
    """Save loss and accuracy over steps; returns the path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (loss, accuracy) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, run in runs.items():
        loss.plot(run.steps, run.losses, label=name)
        accuracy.plot(run.steps, run.accuracies, label=name)
    loss.set(title="training loss", xlabel="step", yscale="log")
    accuracy.set(title="test accuracy", xlabel="step", ylim=(0, 1))
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
    path = RESULTS / "digits.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path
