"""BN needs batches that share a distribution, LN does not.

**The article**, section 1: if each batch holds one class only, the network must adapt to another distribution at each
step, and converges very slowly; shuffled batches resemble each other and the whole. Section 3.5: with BN the training
data can be shuffled thoroughly.

**The paper** (Ioffe and Szegedy 2015, section 4.2.1): shuffling within shards more thoroughly, so that the same
examples do not always meet in a batch, gives "about 1 %" of validation accuracy on ImageNet. It has no batches of one
class.

**Here**: two hidden layers of 100 rectified linear units on 4,000 images of MNIST, 2,000 steps of 40 at a rate of 0.1,
once shuffled and once with the images of one digit in each batch, the digits in random order. Accuracy is the mean of
the last five looks, 100 steps apart.
"""

from collections.abc import Iterator

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import Data, mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import NORMS, accuracies, batches, calibrate, late
from bench.network import Network, Relu, perceptron

FAST = True
WIDTHS = (784, 100, 100, 10)
BATCH, RATE, STEPS, EVERY = 40, 0.1, 2000, 100


def run(seed: int) -> dict:
    return {
        name: {kind: _train(norm, kind, seed) for kind in ("shuffled", "one class")} for name, norm in NORMS.items()
    }


def _train(norm, kind: str, seed: int) -> dict:
    data, rng = mnist(seed), np.random.default_rng(seed)
    network = perceptron(WIDTHS, norm, rng, activation=Relu)
    order = batches(len(data.x), BATCH, STEPS, rng) if kind == "shuffled" else _one_class(data.labels, rng)
    curve = accuracies(network, data, order, RATE, EVERY)
    own = _by_own_statistics(network, data)
    calibrate(network, data.x)
    return {"accuracy": curve, "calibrated": network.evaluate(data.test_x, data.test_labels)[1], "own": own}


def _by_own_statistics(network: Network, data: Data) -> float:
    """Accuracy on test images of one digit after the other, each normalised among its own."""
    digits = [data.test_labels == c for c in np.unique(data.test_labels)]
    right = [(network.train()(data.test_x[of]).argmax(1) == data.test_labels[of]).sum() for of in digits]
    return float(sum(right) / len(data.test_labels))


def _one_class(labels, rng) -> Iterator[np.ndarray]:
    """Batches of a digit that is drawn anew for each."""
    classes = np.unique(labels)
    waiting = {c: batches(int((labels == c).sum()), BATCH, STEPS, rng) for c in classes}
    for c in rng.choice(classes, STEPS):
        yield np.flatnonzero(labels == c)[next(waiting[c])]


def _accuracy(run: dict, name: str, kind: str) -> float:
    return late(run[name][kind]["accuracy"])


def checks(runs: list[dict]) -> list[Check]:
    def drop(name: str) -> list[float]:
        return [_accuracy(r, name, "shuffled") - _accuracy(r, name, "one class") for r in runs]

    return [
        Check("accuracy, BN shuffled - one class in a batch", drop("BatchNorm"), ">=", 0.5),
        Check("the same, LN", drop("LayerNorm"), "<=", 0.1),
    ]


def findings(runs: list[dict]) -> list[str]:
    at = {n: [mean(_accuracy(r, n, kind) for r in runs) for kind in ("shuffled", "one class")] for n in NORMS}
    one_class = [r["BatchNorm"]["one class"] for r in runs]
    calibrated, own = (mean(r[key] for r in one_class) for key in ("calibrated", "own"))
    first = {
        n: " and ".join(f"{mean(r[n][kind]['accuracy'][0] for r in runs):.1%}" for kind in ("shuffled", "one class"))
        for n in ("none", "LayerNorm")
    }
    return [
        "Accuracy shuffled and with one class in each batch: "
        + ", ".join(f"{name} {shuffled:.1%} and {one:.1%}" for name, (shuffled, one) in at.items())
        + ".",
        "Convergence is slower for all with batches of one class, as the article says. **Beside the article**: without "
        "BN the end is nearly the same. The others end within "
        f"{max(abs(at[n][0] - at[n][1]) for n in first):.1%} of what they reach shuffled; after {EVERY} steps, "
        f"shuffled and with one class, they have {first['none']} without a norm and {first['LayerNorm']} with LN.",
        f"What BN learnt from batches of one class it knows by the statistics of such batches alone: with those of all "
        f"training data {calibrated:.1%}, but {own:.1%} if the test images of each digit are normalised among "
        "themselves.",
    ]


def draw(runs: list[dict]):
    figure, (shuffled, one) = pictures.new(2)
    for axes, kind in ((shuffled, "shuffled"), (one, "one class")):
        for name in NORMS:
            pictures.band(axes, range(EVERY, STEPS + 1, EVERY), [r[name][kind]["accuracy"] for r in runs], name)
    pictures.finish(shuffled, "Test accuracy, shuffled batches", "step", "", ylim=(0, 1))
    pictures.finish(one, "and batches of one class", "step", "", ylim=(0, 1))
    return figure
