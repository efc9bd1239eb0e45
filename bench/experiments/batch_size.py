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
from bench.experiments.experiment import Check, mean
from bench.experiments.training import accuracies, batches, calibrate, late
from bench.network import Relu, perceptron
from numbanorm import BatchNorm, LayerNorm

FAST = False
WIDTHS = (784, 100, 100, 10)
SIZES, EPOCHS, RATE, LOOKS = (2, 4, 8, 16, 32, 128), 4, 0.1, 10  # in an epoch
NORMS = {"BatchNorm": BatchNorm, "LayerNorm": LayerNorm}


def run(seed: int) -> dict:
    runs = {name: [_train(norm, size, seed) for size in SIZES] for name, norm in NORMS.items()}
    return {name: [error for error, _ in errors] for name, errors in runs.items()} | {
        "calibrated": [error for _, error in runs["BatchNorm"]]
    }


def _train(norm, size: int, seed: int) -> tuple[float, float]:
    """Test error with running, and with population statistics."""
    data, rng = mnist(), np.random.default_rng(seed)
    network = perceptron(WIDTHS, norm, rng, activation=Relu)
    epoch = len(data.x) // size
    error = 1 - late(accuracies(network, data, batches(len(data.x), size, EPOCHS * epoch, rng), RATE, epoch // LOOKS))
    calibrate(network, data.x)
    return error, 1 - network.evaluate(data.test_x, data.test_labels)[1]


def checks(runs: list[dict]) -> list[Check]:
    two, many = SIZES.index(2), SIZES.index(32)
    bn, ln = ([r[name] for r in runs] for name in ("BatchNorm", "LayerNorm"))
    return [
        Check("test error, BN with batches of 2 - of 32", [r[two] - r[many] for r in bn], ">=", 0.15),
        Check("difference of the same, LN", [abs(r[two] - r[many]) for r in ln], "<=", 0.02),
        Check(
            "mean over seeds with batches of 32, BN - LN",
            [mean(r[many] for r in bn) - mean(r[many] for r in ln)],
            "<=",
            0,
        ),
    ]


def findings(runs: list[dict]) -> list[str]:
    bn, ln, calibrated = ([mean(r[n][i] for r in runs) for i in range(len(SIZES))] for n in runs[0])
    return [
        "Test errors: "
        + "; ".join(f"batches of {size} BN {b:.1%}, LN {x:.1%}" for size, b, x in zip(SIZES, bn, ln, strict=True))
        + ".",
        f"Exact population statistics leave BN's error with batches of 2 at {calibrated[0]:.1%}: what fails is the "
        f"training, in which two samples are always normalised to plus and minus the same, and not the estimate alone.",
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
