"""BN trains as well where noise shifts the distributions: the article's explanation fails.

**The article**, section 3.1, explains BN by internal covariate shift: a layer must learn anew whenever the
distribution of its inputs moves.

**The paper** (Santurkar et al. 2018, section 2, figure 2): noise of a mean and a variance that change at each step and
for each unit, added after BN, makes the distributions less stable than without any norm, and the network trains almost
as well as with BN alone. That speaks against the explanation; they find smoother losses and gradients instead.

**Here**: the sigmoid network of the experiment above. After each BN, y becomes s * y + m, with m and s drawn for each
value from distributions whose means are drawn for each unit at each step, as in the paper's appendix: from [-0.5, 0.5]
and [1, 1.25], and 0.1 around them.
"""

from copy import deepcopy

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.sigmoid_mnist import BATCH, LARGE_STD, RATE, WIDTHS
from bench.experiments.training import NORMS, batches, late, learn
from bench.network import Layer, perceptron
from numbanorm import BatchNorm

FAST = True
STEPS, EVERY = 600, 20
MEAN, STD, SPREAD = 0.5, 1.25, 0.1
PROBE, PROBED = 200, 150  # images, always the same, and steps at the end
DRAWN = ("none", "BatchNorm", "noisy BatchNorm")


class Noisy(Layer):
    """A norm, and in training noise after it, from another distribution for each unit at each step."""

    def __init__(self, norm: BatchNorm, rng: np.random.Generator) -> None:
        super().__init__()
        self.norm, self.rng, self.grads = norm, rng, norm.grads

    def named_parameters(self):
        return self.norm.named_parameters()

    def zero_grad(self):
        self.norm.zero_grad()

    def train(self, mode: bool = True):
        self.norm.train(mode)
        return self

    def __call__(self, x):
        y = self.norm(x)
        if not self.norm.training:
            return y
        means, stds = self.rng.uniform(-MEAN, MEAN, y.shape[1]), self.rng.uniform(1, STD, y.shape[1])
        self.s = self.rng.normal(stds, SPREAD, y.shape).astype(y.dtype)
        return self.s * y + self.rng.uniform(means - SPREAD, means + SPREAD, y.shape).astype(y.dtype)

    def backward(self, dy):
        return self.norm.backward(dy * self.s)


def run(seed: int) -> dict:
    noise = np.random.default_rng((seed, 1))
    kinds = NORMS | {"noisy BatchNorm": lambda n: Noisy(BatchNorm(n), noise)}
    runs = {name: _train(norm, None, seed) for name, norm in kinds.items()}
    return runs | {"none, large weights": _train(None, LARGE_STD, seed)}


def _train(norm, std: float | None, seed: int) -> dict:
    data, rng = mnist(seed), np.random.default_rng(seed)
    network = perceptron(WIDTHS, norm, rng, std=std)
    curve, means = [], []
    for step in learn(network, data, batches(len(data.x), BATCH, STEPS, rng), RATE):
        if step > STEPS - PROBED:
            probe = deepcopy(network)  # in training, as the next step finds it
            probe(data.x[:PROBE])
            means.append(probe.layers[-2].y.mean(0))  # of the last hidden layer's sigmoids
        if step % EVERY == 0:
            curve.append(network.evaluate(data.test_x, data.test_labels)[1])
    means = np.array(means)
    return {
        "accuracy": curve,
        "mean": means[:, 0].tolist(),
        "jump": float(np.abs(np.diff(means, axis=0)).mean()),
    }


def checks(runs: list[dict]) -> list[Check]:
    def gain(over: str) -> list[float]:
        return [late(r["noisy BatchNorm"]["accuracy"]) - late(r[over]["accuracy"]) for r in runs]

    return [
        Check("accuracy, noisy BN - BN", gain("BatchNorm"), ">=", -0.03),
        Check("accuracy, noisy BN - none", gain("none"), ">=", 0.2),
    ]


def findings(runs: list[dict]) -> list[str]:
    kinds = [
        f"{name} {mean(r[name]['jump'] for r in runs):.4f}, {mean(late(r[name]['accuracy']) for r in runs):.1%}"
        for name in runs[0]
    ]
    return [
        "**Against the article**: how still the distributions are does not tell how well a network learns. By how much "
        f"the mean of a last hidden sigmoid over the same {PROBE} images moves in each of the last {PROBED} steps, on "
        f"average, and the accuracy after {STEPS} steps: {'; '.join(kinds)} (first weights of standard deviation "
        f"{LARGE_STD}).",
    ]


def draw(runs: list[dict]):
    figure, (accuracy, means) = pictures.new(2)
    for name in DRAWN:
        dashed = {"linestyle": "--"} if name == "noisy BatchNorm" else {}
        pictures.band(accuracy, range(EVERY, STEPS + 1, EVERY), [r[name]["accuracy"] for r in runs], name, **dashed)
    last = range(STEPS - PROBED + 1, STEPS + 1)
    for name in reversed(DRAWN):
        means.plot(last, runs[0][name]["mean"], label=name, color=pictures.COLOURS[name], linewidth=0.8)
    pictures.finish(accuracy, "Test accuracy", "step", "", ylim=(0, 1))
    pictures.finish(means, f"Mean of a last hidden sigmoid over {PROBE} images", "step", "", ylim=(0.3, 0.7))
    return figure
