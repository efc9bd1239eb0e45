"""With BN, gradients reach the first layer.

**The article**, section 3.5: BN improves the gradients that flow through the network.

**The paper** (Ioffe and Szegedy 2015, section 3.3) conjectures that BN gives a layer's Jacobian singular values near
1, "beneficial for training". It gives no figures for it.

**Here**: nine hidden layers of 100 sigmoids on MNIST, batches of 60: the norm of the gradient of each layer's weights,
at the first step and over 20 steps at a rate of 0.1, and its ratio of the first to the last layer.
"""

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import NORMS, batches, learn
from bench.network import Linear, perceptron

FAST = True
HIDDEN, BATCH, RATE, STEPS = 9, 60, 0.1, 20


def run(seed: int) -> dict:
    return {name: _train(norm, seed) for name, norm in NORMS.items()}


def _train(norm, seed: int) -> dict:
    data, rng = mnist(seed), np.random.default_rng(seed)
    network = perceptron((784, *[100] * HIDDEN, 10), norm, rng)
    linear = [layer for layer in network.layers if isinstance(layer, Linear)]
    norms = [
        [float(np.linalg.norm(layer.grads["weight"])) for layer in linear]
        for _ in learn(network, data, batches(len(data.x), BATCH, STEPS, rng), RATE)
    ]
    return {"first step": norms[0], "ratios": [layers[0] / layers[-1] for layers in norms]}


def checks(runs: list[dict]) -> list[Check]:
    ratio = "first to last gradient over all steps"
    return [
        Check(f"smallest ratio of {ratio}, BN", [min(r["BatchNorm"]["ratios"]) for r in runs], ">=", 0.2),
        Check(f"largest ratio of {ratio}, BN", [max(r["BatchNorm"]["ratios"]) for r in runs], "<=", 5),
        Check(f"largest ratio of {ratio}, none", [max(r["none"]["ratios"]) for r in runs], "<=", 1e-4),
    ]


def findings(runs: list[dict]) -> list[str]:
    ratio = {name: mean(r[name]["ratios"][0] for r in runs) for name in NORMS}
    return [
        f"At the first step the ratio is {ratio['BatchNorm']:.2f} with BN and {ratio['none']:.1e} without. "
        f"**Beside the article**: with LN it is {ratio['LayerNorm']:.1e}. In deep networks of sigmoids LN does not do "
        "for the gradients what BN does, which the article's comparison of the two leaves out."
    ]


def draw(runs: list[dict]):
    figure, (axes,) = pictures.new(1)
    for name in NORMS:
        pictures.band(axes, range(1, HIDDEN + 2), [r[name]["first step"] for r in runs], name, marker="o")
    pictures.finish(axes, "Gradient of each layer's weights at the first step", "layer", "norm", yscale="log")
    return figure
