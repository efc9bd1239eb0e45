"""In convolutional networks BN is better than LN.

**The article**, section 5: LN in CNNs is not as good as BN.

**The paper** (Ba et al. 2016, section 6.7): in preliminary experiments with convolutional networks, LN is faster than
no normalization, and BN does better than both. It has no figures.

**Here**: Fashion-MNIST, two convolutions of 3 x 3 and stride 2 with 16 and 32 channels, a norm (LN over channels and
places, as in the paper) and a rectifier after each; 600 steps of 64 images, each once, at each of four rates. The loss
is that of 10,000 of these in the end, and each network is judged at its best rate.
"""

from itertools import pairwise

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import fashion_mnist
from bench.experiments.experiment import Check, mean
from bench.experiments.training import NORMS, batches, learn
from bench.network import Layer, Linear, Network, Relu
from numbanorm import BatchNorm, LayerNorm

FAST = False
CHANNELS, IMAGE = (1, 16, 32), 28
BATCH, STEPS, RATES = 64, 600, (0.03, 0.1, 0.3, 1.0)
SEEN = BATCH * STEPS  # images, each once
SHOWN = 10_000  # of these, which the loss is taken of


class Convolution(Linear):
    """3 x 3 with a stride of 2 and no padding, of images with the channels last: a product with every patch."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        super().__init__(9 * inputs, outputs, rng, std=(2 / (9 * inputs)) ** 0.5)

    def __call__(self, x):
        self.shape = x.shape
        patches = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].transpose(0, 1, 2, 4, 5, 3)
        N, H, W = patches.shape[:3]
        return super().__call__(patches.reshape(N * H * W, -1)).reshape(N, H, W, -1)

    def backward(self, dy):
        N, H, W, outputs = dy.shape
        patches = super().backward(dy.reshape(-1, outputs)).reshape(N, H, W, 3, 3, -1)
        dx = np.zeros(self.shape, dy.dtype)
        for i, j in np.ndindex(3, 3):
            dx[:, i : i + 2 * H : 2, j : j + 2 * W : 2] += patches[:, :, :, i, j]
        return dx

    def differentiate(self, dy):
        super().differentiate(dy.reshape(-1, dy.shape[-1]))


class Flat(Layer):
    """Each image as a row."""

    def __call__(self, x):
        self.shape = x.shape
        return x.reshape(len(x), -1)

    def backward(self, dy):
        return dy.reshape(self.shape)


def network(norm, rng: np.random.Generator) -> Network:
    layers, size = [], IMAGE
    for inputs, outputs in pairwise(CHANNELS):
        size = (size - 3) // 2 + 1
        layers.append(Convolution(inputs, outputs, rng))
        if norm is BatchNorm:
            layers.append(BatchNorm(outputs, channel_axis=-1))
        elif norm is LayerNorm:
            layers.append(LayerNorm((size, size, outputs)))
        layers.append(Relu())
    return Network([*layers, Flat(), Linear(size * size * CHANNELS[-1], 10, rng)])


def run(seed: int) -> dict:
    return {name: [_train(norm, rate, seed) for rate in RATES] for name, norm in NORMS.items()}


def _train(norm, rate: float, seed: int) -> dict:
    """Loss of training images and accuracy on the test images."""
    data, rng = fashion_mnist(), np.random.default_rng(seed)
    data = data._replace(x=data.x[..., None], test_x=data.test_x[..., None])
    net = network(norm, rng)
    for _ in learn(net, data, batches(SEEN, BATCH, STEPS, rng), rate):
        pass
    return {
        "loss": net.evaluate(data.x[:SHOWN], data.labels[:SHOWN])[0],
        "accuracy": net.evaluate(data.test_x, data.test_labels)[1],
    }


def _best(run: dict, name: str) -> dict:
    return min(run[name], key=lambda one: one["loss"])


def checks(runs: list[dict]) -> list[Check]:
    difference = [_best(r, "BatchNorm")["loss"] - _best(r, "LayerNorm")["loss"] for r in runs]
    return [Check("training loss, BN - LN", difference, "<=", 0)]


def findings(runs: list[dict]) -> list[str]:
    loss, accuracy = ({n: mean(_best(r, n)[key] for r in runs) for n in NORMS} for key in ("loss", "accuracy"))
    gains = [mean(r["none"][i]["loss"] - r["LayerNorm"][i]["loss"] for r in runs) for i in range(len(RATES))]
    return [
        "Training loss and test accuracy, each at its best rate: "
        + ", ".join(f"{name} {loss[name]:.3f} and {accuracy[name]:.1%}" for name in NORMS)
        + ".",
        "**Beside the paper**: by how much the loss with LN is lower than without a norm hangs on the rate: "
        + ", ".join(f"{gain:+.3f} at {rate}" for gain, rate in zip(gains, RATES, strict=True))
        + f". Of each at its best rate it is {loss['none'] - loss['LayerNorm']:+.3f}.",
    ]


def draw(runs: list[dict]):
    figure, (loss, accuracy) = pictures.new(2)
    for name in NORMS:
        pictures.band(loss, RATES, [[one["loss"] for one in r[name]] for r in runs], name, marker="o")
        pictures.band(accuracy, RATES, [[one["accuracy"] for one in r[name]] for r in runs], name, marker="o")
    pictures.finish(loss, f"Training loss after {STEPS} steps", "rate", "", xscale="log")
    pictures.finish(accuracy, "Test accuracy", "rate", "", xscale="log")
    for axes in (loss, accuracy):
        axes.set_xticks(RATES, RATES)
        axes.minorticks_off()
    return figure
