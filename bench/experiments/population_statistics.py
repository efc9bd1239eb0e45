"""The variance times m / (m - 1) is unbiased, the bias before BN is redundant, gamma and beta can restore the input.

**The article**, section 3.4: for tests, the mean over all batches of their means, and of their unbiased variances,
that is m / (m - 1) times those of batches of m. Section 3.2: BN takes out any bias b added before it, so b can be left
away. Section 3.3: with gamma and beta the layer can learn to restore what it was given.

**The paper** (Ioffe and Szegedy 2015): algorithm 2 (statistics), section 3.2 (the bias), section 3 (gamma =
sqrt(Var[x]) and beta = E[x] "could recover the original activations"). It gives no figures for these.

**Here**: 4,000 images of MNIST through 100 random linear units. Statistics: `BatchNorm(momentum=None)` over batches of
m for 5 epochs, its running variance beside that of all values (`Moments`), on average over the units. Bias: the
largest part of its gradient in 50 steps of training. Restored: weight = sqrt(var + eps), bias = mean. And the test
loss of a network that was trained on batches of m, by the unbiased and by the biased variance.
"""

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import Data, mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import batches, learn
from bench.network import Linear, Relu, cross_entropy, perceptron
from numbanorm import BatchNorm, Moments

FAST = True
SIZES, UNITS, EPOCHS = (2, 4, 8, 32), 100, 5
BATCH, STEPS, RATE = 60, 50, 0.1
TRAIN_EPOCHS = 2


def run(seed: int) -> dict:
    rng = np.random.default_rng(seed)
    x = Linear(784, UNITS, rng)(mnist(seed).x)
    return {
        "ratio": [_ratio(x, size, rng) for size in SIZES],
        "bias gradient": _bias_gradient(mnist(seed), rng),
        "restored": _restored(x),
        "loss": [_losses(size, seed) for size in SIZES],
    }


def _ratio(x, size: int, rng) -> float:
    """The mean of the batches' unbiased variances, divided by the variance of all values."""
    norm = BatchNorm(UNITS, momentum=None)
    for batch in batches(len(x), size, EPOCHS * len(x) // size, rng):
        norm(x[batch])
    return float((norm.running_var / Moments.of(x).var(ddof=1)).mean())


def _bias_gradient(data: Data, rng) -> float:
    network = perceptron((784, UNITS, UNITS, 10), BatchNorm, rng)
    before_norm = [layer for layer in network.layers if isinstance(layer, Linear)][:-1]
    steps = learn(network, data, batches(len(data.x), BATCH, STEPS, rng), RATE)
    return float(max(np.abs(layer.grads["bias"]).max() for _ in steps for layer in before_norm))


def _restored(x) -> float:
    """The largest error of what should be x, as a share of the largest value of x."""
    norm, moments = BatchNorm(UNITS), Moments.of(x)
    norm.weight[:], norm.bias[:] = np.sqrt(moments.var() + norm.eps), moments.mean
    return float(np.abs(norm(x) - x).max() / np.abs(x).max())


def _losses(size: int, seed: int) -> dict:
    """On the test data, with the statistics of an epoch of batches after training, unbiased and biased."""
    data, rng = mnist(seed), np.random.default_rng(seed)
    network, epoch = perceptron((784, UNITS, 10), BatchNorm, rng, activation=Relu), len(data.x) // size
    for _ in learn(network, data, batches(len(data.x), size, TRAIN_EPOCHS * epoch, rng), RATE):
        pass
    (norm,) = (layer for layer in network.layers if isinstance(layer, BatchNorm))
    norm.momentum, norm.num_batches_tracked[...] = None, 0
    for batch in batches(len(data.x), size, epoch, rng):
        network(data.x[batch])
    unbiased = cross_entropy(network.train(False)(data.test_x), data.test_labels)[0]
    norm.running_var *= (size - 1) / size
    return {"unbiased": unbiased, "biased": cross_entropy(network(data.test_x), data.test_labels)[0]}


def checks(runs: list[dict]) -> list[Check]:
    off = [[abs(r["ratio"][i] - 1) for r in runs] for i in range(len(SIZES))]
    return [
        *(
            Check(f"unbiased variance off that of all values, m = {m}", o, "<=", 0.02)
            for m, o in zip(SIZES, off, strict=True)
        ),
        Check("largest gradient of a bias before BN", [r["bias gradient"] for r in runs], "<=", 1e-6),
        Check("error of the restored input", [r["restored"] for r in runs], "<=", 1e-5),
    ]


def findings(runs: list[dict]) -> list[str]:
    def loss(i: int, kind: str) -> float:
        return mean(r["loss"][i][kind] for r in runs)

    worse = [sum(r["loss"][i]["unbiased"] > r["loss"][i]["biased"] for r in runs) for i in range(len(SIZES))]
    return [
        "**Beside the article**: the better estimate of the variance hardly changes the test loss, and not always for "
        "the better. By the unbiased and by the biased variance, on average, and with how many seeds the unbiased one "
        "does worse: "
        + "; ".join(
            f"m = {m} {loss(i, 'unbiased'):.3f} and {loss(i, 'biased'):.3f}, {worse[i]} of {len(runs)}"
            for i, m in enumerate(SIZES)
        )
        + ".",
    ]


def draw(runs: list[dict]):
    figure, (ratio, loss) = pictures.new(2)
    pictures.band(ratio, SIZES, [r["ratio"] for r in runs], "times m / (m - 1)", color="#1f77b4", marker="o")
    biased = [[r["ratio"][i] * (m - 1) / m for i, m in enumerate(SIZES)] for r in runs]
    pictures.band(ratio, SIZES, biased, "biased", color="#7f7f7f", marker="o")
    losses = [[o["unbiased"] / o["biased"] for o in r["loss"]] for r in runs]
    pictures.band(loss, SIZES, losses, "test loss", color="#1f77b4", marker="o")
    loss.axhline(1, color="#7f7f7f", linewidth=1)
    pictures.finish(ratio, "Mean of batch variances / variance of all values", "batch", "", ylim=(0, 1.1))
    pictures.finish(loss, "Test loss by the unbiased / by the biased variance", "batch", "")
    for axes in (ratio, loss):
        axes.set_xscale("log")
        axes.set_xticks(SIZES, SIZES)
        axes.minorticks_off()
    return figure
