"""BN trains faster, and the spread of the last hidden layer's inputs changes little.

**The article**, section 3.5: BN improves the flow of gradients and speeds training up. Section 3.1: the distribution
of each layer's inputs moves as the layers before it train ("internal covariate shift"), which BN is made to prevent.

**The paper** (Ioffe and Szegedy 2015, section 4.1, figure 1): MNIST, three hidden layers of 100 sigmoids, batches of
60; test accuracy over 50,000 steps, and the 15th, 50th and 85th percentiles of a typical sigmoid's input in the last
hidden layer.

**Here**: the same network on 4,000 images, 6,000 steps at a rate of 0.1. The percentiles are those of 1,000 test
images, with BN by their own statistics. Their spread is the 85th minus the 15th percentile; it grows to its largest
from what it was before the first step, in the median over the 100 sigmoids.
"""

from copy import deepcopy

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import NORMS, batches, learn
from bench.network import perceptron

FAST = False
WIDTHS = (784, 100, 100, 100, 10)
BATCH, RATE, STEPS, EVERY, EARLY = 60, 0.1, 6000, 100, 300
LARGE_STD = 0.3  # of first weights that already spread the sigmoids' inputs


def run(seed: int) -> dict:
    kinds = {name: (norm, None) for name, norm in NORMS.items()} | {"none, large weights": (None, LARGE_STD)}
    return {name: _train(norm, std, seed) for name, (norm, std) in kinds.items()}


def _train(norm, std: float | None, seed: int) -> dict:
    data, rng = mnist(seed), np.random.default_rng(seed)
    network = perceptron(WIDTHS, norm, rng, std=std)
    percentiles, curve = [_percentiles(network, data.test_x)], []
    for step in learn(network, data, batches(len(data.x), BATCH, STEPS, rng), RATE):
        if step % EVERY == 0:
            percentiles.append(_percentiles(network, data.test_x))
            curve.append(network.evaluate(data.test_x, data.test_labels)[1])
    spread = np.array(percentiles)[:, 2] - np.array(percentiles)[:, 0]  # (times, sigmoids)
    return {
        "accuracy": curve,
        "percentiles": np.array(percentiles)[:, :, 0].tolist(),
        "growth": float(np.median(spread.max(0) / spread[0])),
    }


def _percentiles(network, x) -> np.ndarray:
    """Of the inputs of the last hidden layer's sigmoids, in training: (3, sigmoids)."""
    for layer in deepcopy(network).layers[:-2]:
        x = layer(x)
    return np.percentile(x, (15, 50, 85), axis=0)


def _early(run: dict, name: str) -> float:
    return run[name]["accuracy"][EARLY // EVERY - 1]


def checks(runs: list[dict]) -> list[Check]:
    ahead = [_early(r, "BatchNorm") - _early(r, "none") for r in runs]
    return [
        Check(f"accuracy at step {EARLY}, BN - none", ahead, ">=", 0.5),
        Check("growth of the spread, BN", [r["BatchNorm"]["growth"] for r in runs], "<=", 2),
        Check("growth of the spread, none", [r["none"]["growth"] for r in runs], ">=", 10),
    ]


def findings(runs: list[dict]) -> list[str]:
    early, end = ({n: mean(at(r, n) for r in runs) for n in runs[0]} for at in (_early, _last))
    growths = {n: mean(r[n]["growth"] for r in runs) for n in runs[0]}
    growth = growths["none, large weights"]
    return [
        f"At step {EARLY} the accuracy is {early['BatchNorm']:.1%} with BN, {early['LayerNorm']:.1%} with LN and "
        f"{early['none']:.1%} with none; at step {STEPS} it is {end['BatchNorm']:.1%}, {end['LayerNorm']:.1%} and "
        f"{end['none']:.1%}. The paper has no figures beside its plot.",
        f"**Beside the article**: with LN the spread grows {growths['LayerNorm']:.1f} times, and it trains about as "
        "fast.",
        "**Against the article**: that a network without a norm is slow, and its distributions drift, hangs on its "
        f"first weights. With a standard deviation of {LARGE_STD} instead of 1 / sqrt(inputs) it has "
        f"{early['none, large weights']:.1%} at step {EARLY} and {end['none, large weights']:.1%} at the end, and its "
        f"spread grows {growth:.1f} times.",
    ]


def _last(run: dict, name: str) -> float:
    return run[name]["accuracy"][-1]


def draw(runs: list[dict]):
    figure, (accuracy, plain, normed) = pictures.new(3)
    steps = range(EVERY, STEPS + 1, EVERY)
    for name in NORMS:
        pictures.band(accuracy, steps, [r[name]["accuracy"] for r in runs], name)
    pictures.finish(accuracy, "Test accuracy", "step", "", ylim=(0, 1))
    for axes, name in ((plain, "none"), (normed, "BatchNorm")):
        for percentile, style in zip(zip(*runs[0][name]["percentiles"], strict=True), (":", "-", "--"), strict=True):
            axes.plot(range(0, STEPS + 1, EVERY), percentile, style, color=pictures.COLOURS[name])
        pictures.finish(axes, f"A last hidden input, {name}: 15, 50, 85 %", "step", "", ylim=(-4, 4))
    return figure
