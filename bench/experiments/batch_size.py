"""BN fails with small batches, LN does not care.

**The article**, section 3.6: the mean and variance of few samples do not tell of all, so BN gets very bad with small
batches. Section 4: LN does not depend on them. Section 5: with large batches LN is not as good as BN.

**The papers**: Ba et al. 2016, figure 6: on MNIST, LN trains faster than BN with batches of 128, and much better with
batches of 4. Wu and He 2018, table 2 (ResNet-50, ImageNet): BN's validation error is 23.6 % with 32 images per GPU,
27.3 % with 4 and 34.7 % with 2; group normalization's stays at 24.0 to 24.2 %.

**Here**: two hidden layers of 100 rectified linear units on 4,000 images of MNIST, four epochs at a rate of 0.1,
whatever the batch. The test error is the mean of five looks in the last half of an epoch; BN's is also shown with
exact population statistics (`BatchNorm.calibrate`) in place of the running ones.
"""

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import mnist
from bench.experiments.experiment import Check, mean, spread
from bench.experiments.training import accuracies, batches, calibrate, late
from bench.network import Relu, perceptron
from numbanorm import BatchNorm, LayerNorm

FAST = False
WIDTHS = (784, 100, 100, 10)
SIZES, EPOCHS, RATE, LOOKS = (2, 4, 8, 16, 32, 128), 4, 0.1, 10  # in an epoch
SLOWLY = 0.01
NORMS = {"BatchNorm": BatchNorm, "LayerNorm": LayerNorm}


def run(seed: int) -> dict:
    runs = {name: [_train(norm, size, RATE, seed) for size in SIZES] for name, norm in NORMS.items()}
    return {name: [one["error"] for one in of] for name, of in runs.items()} | {
        "calibrated": [one["calibrated"] for one in runs["BatchNorm"]],
        "pairs": runs["BatchNorm"][0]["own statistics"],
        "slowly": _train(BatchNorm, 2, SLOWLY, seed)["error"],
    }


def _train(norm, size: int, rate: float, seed: int) -> dict:
    """Test errors with running statistics, with population statistics, and with each batch's own as in training."""
    data, rng = mnist(seed), np.random.default_rng(seed)
    network, epoch = perceptron(WIDTHS, norm, rng, activation=Relu), len(data.x) // size
    curve = accuracies(network, data, batches(len(data.x), size, EPOCHS * epoch, rng), rate, epoch // LOOKS)
    own = [
        (network(data.test_x[batch]).argmax(1) == data.test_labels[batch]).mean()
        for batch in batches(len(data.test_x), size, len(data.test_x) // size, rng)
    ]
    calibrate(network, data.x)
    return {
        "error": 1 - late(curve),
        "own statistics": float(1 - np.mean(own)),
        "calibrated": 1 - network.evaluate(data.test_x, data.test_labels)[1],
    }


def checks(runs: list[dict]) -> list[Check]:
    two, many = SIZES.index(2), SIZES.index(32)
    bn, ln = ([r[name] for r in runs] for name in ("BatchNorm", "LayerNorm"))
    return [
        Check("test error, BN with batches of 2 - of 32", [r[two] - r[many] for r in bn], ">=", 0.15),
        Check("the same, LN", [r[two] - r[many] for r in ln], "<=", 0.05),
    ]


def findings(runs: list[dict]) -> list[str]:
    bn, ln, calibrated = ([mean(r[n][i] for r in runs) for i in range(len(SIZES))] for n in (*NORMS, "calibrated"))
    differences = [
        f"batches of {size} {spread([r['BatchNorm'][i] - r['LayerNorm'][i] for r in runs])}"
        for i, size in enumerate(SIZES)
        if size >= 8
    ]
    pairs, slowly = (mean(r[key] for r in runs) for key in ("pairs", "slowly"))
    return [
        "Test errors: "
        + "; ".join(f"batches of {size} BN {b:.1%}, LN {x:.1%}" for size, b, x in zip(SIZES, bn, ln, strict=True))
        + ".",
        f"After the last step with batches of 2, BN's error is {calibrated[0]:.1%} with exact population statistics "
        f"and {pairs:.1%} if the test images are normalised in pairs, as in training: it is the training that fails, "
        f"not only the running estimate. At a rate of {SLOWLY} it is {slowly:.1%}.",
        "**Beside the article**: that LN is not as good as BN with large batches is a small difference here, if it is "
        f"one. BN's test error less LN's, and its standard error: {'; '.join(differences)}. With 128 the paper of Ba "
        "et al. compares the speed.",
    ]


def draw(runs: list[dict]):
    figure, (axes,) = pictures.new(1)
    for name in NORMS:
        pictures.band(axes, SIZES, [r[name] for r in runs], name, marker="o")
    calibrated = [r["calibrated"] for r in runs]
    pictures.band(axes, SIZES, calibrated, "BatchNorm, calibrated", color="#8fbfe0", marker="o", linestyle="--")
    pictures.finish(axes, "Test error after four epochs", "batch", "", xscale="log", ylim=(0, None))
    axes.set_xticks(SIZES, SIZES, minor=False)
    axes.minorticks_off()
    return figure
