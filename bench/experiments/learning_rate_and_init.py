"""BN allows larger learning rates, and makes little of the first weights.

**The article**, section 3.5: with BN one can take a large learning rate, which speeds training up, and a small one
still converges fast; BN weakens the strong dependence on the initialisation.

**The paper** (Ioffe and Szegedy 2015, section 3.3): BN of W u is BN of (a W) u, so the scale of the weights changes
neither the layer's output nor what passes back through it. Section 4.2: with BN and 5 times the rate, Inception needs
14 times fewer steps to 72.2 % on ImageNet, and with 30 times the rate it reaches 74.8 %; without BN, 5 times the rate
makes its parameters infinite. (With BN, dropout and others were removed as well.)

**Here**: sigmoid networks of 100 units a layer on 4,000 images of MNIST, batches of 60; accuracy is the mean of the
last five looks, 100 steps apart. Rates: three hidden layers, 1,500 steps, first weights of standard deviation 1 /
sqrt(inputs). Weights: five hidden layers, 2,000 steps at a rate of 3.
"""

from collections.abc import Callable

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import NORMS, accuracies, batches, late
from bench.network import perceptron

FAST = False
BATCH, EVERY = 60, 100
RATES, RATES_STEPS, RATES_HIDDEN = (0.01, 0.3, 3, 30), 1500, 3
STDS, STDS_STEPS, STDS_HIDDEN, STDS_RATE = (0.001, 0.3, 1, 10), 2000, 5, 3


def run(seed: int) -> dict:
    return {
        name: {
            "rates": [_train(norm, seed, RATES_HIDDEN, RATES_STEPS, rate) for rate in RATES],
            "stds": [_train(norm, seed, STDS_HIDDEN, STDS_STEPS, STDS_RATE, std) for std in STDS],
        }
        for name, norm in NORMS.items()
    }


def _train(norm, seed: int, hidden: int, steps: int, rate: float, std: float | None = None) -> float:
    data, rng = mnist(seed), np.random.default_rng(seed)
    network = perceptron((784, *[100] * hidden, 10), norm, rng, std=std)
    return late(accuracies(network, data, batches(len(data.x), BATCH, steps, rng), rate, EVERY))


def checks(runs: list[dict]) -> list[Check]:
    def over(worst: Callable, name: str, sweep: str, points: tuple[int, ...]) -> list[float]:
        return [worst(r[name][sweep][i] for i in points) for r in runs]

    rates, stds = (0, 3), (0, 2, 3)
    return [
        Check("least accuracy at rates 0.01 and 30, BN", over(min, "BatchNorm", "rates", rates), ">=", 0.75),
        Check("largest accuracy there, none", over(max, "none", "rates", rates), "<=", 0.3),
        Check("least accuracy for weights of 0.001, 1 and 10, BN", over(min, "BatchNorm", "stds", stds), ">=", 0.6),
        Check("largest accuracy there, none", over(max, "none", "stds", stds), "<=", 0.3),
    ]


def findings(runs: list[dict]) -> list[str]:
    rates, stds = ({n: [mean(r[n][s][i] for r in runs) for i in range(4)] for n in NORMS} for s in ("rates", "stds"))
    return [
        "**Beside the article**: where its rate and weights suit it, the network without a norm does as well. At a "
        f"rate of 3 it has {rates['none'][2]:.1%}, with BN {rates['BatchNorm'][2]:.1%}; with weights of 0.3 it has "
        f"{stds['none'][1]:.1%}, with BN {stds['BatchNorm'][1]:.1%}. BN widens the range in which training works.",
        f"LN widens it less: {rates['LayerNorm'][0]:.1%} at a rate of 0.01 and {rates['LayerNorm'][3]:.1%} at "
        f"30; with weights of 0.001, 1 and 10 {stds['LayerNorm'][0]:.1%}, {stds['LayerNorm'][2]:.1%} and "
        f"{stds['LayerNorm'][3]:.1%}, where BN has {stds['BatchNorm'][0]:.1%}, {stds['BatchNorm'][2]:.1%} and "
        f"{stds['BatchNorm'][3]:.1%}.",
    ]


def draw(runs: list[dict]):
    figure, (rates, stds) = pictures.new(2)
    for name in NORMS:
        pictures.band(rates, RATES, [r[name]["rates"] for r in runs], name, marker="o")
        pictures.band(stds, STDS, [r[name]["stds"] for r in runs], name, marker="o")
    pictures.finish(rates, "Test accuracy by learning rate", "rate", "", xscale="log", ylim=(0, 1))
    pictures.finish(stds, "and by the first weights", "standard deviation", "", xscale="log", ylim=(0, 1))
    return figure
