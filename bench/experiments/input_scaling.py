"""Min-max and z-score scaling of the inputs help.

**The article**, sections 1 and 2: inputs are to be normalised before training, usually by the minimum and maximum, or
to z-scores; it gives no figures. Its reason is that training and test data, and batches, then have one distribution.

**Here**: scikit-learn's wine and breast cancer data, 30 % held out anew in each of five splits of a seed, whose
accuracies are averaged, since 53 wines alone tell little; 16 sigmoids, 300 steps of 32 at each of several rates;
`MinMaxScaler` and `StandardScaler` fitted to the training data. Each is judged at the rate that is best for it on the
test data.
"""

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import Data, scikit_learn, split
from bench.experiments.experiment import Check, mean
from bench.experiments.training import batches, learn
from bench.network import perceptron
from numbanorm import MinMaxScaler, StandardScaler

FAST = True
SETS = ("wine", "breast_cancer")
SCALERS = {"raw": None, "min-max": MinMaxScaler, "z-score": StandardScaler}
COLOURS = {"raw": "#7f7f7f", "min-max": "#17a2a2", "z-score": "#8a5fb5"}
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
HIDDEN, BATCH, STEPS = 16, 32, 300
SPLITS = 5  # by each seed


def run(seed: int) -> dict:
    return {name: {scaling: _mean_sweep(name, scaler, seed) for scaling, scaler in SCALERS.items()} for name in SETS}


def _mean_sweep(name: str, scaler, seed: int) -> dict:
    """The mean over splits, which no other seed makes."""
    sweeps = [_sweep(_data(name, scaler, split), split) for split in range(seed * SPLITS, (seed + 1) * SPLITS)]
    return {
        "accuracy": np.mean([sweep["accuracy"] for sweep in sweeps], axis=0).tolist(),
        "saturated": mean(sweep["saturated"] for sweep in sweeps),
    }


def _data(name: str, scaler, seed: int) -> Data:
    whole = scikit_learn(name)
    rows = [np.concatenate(parts) for parts in ((whole.x, whole.test_x), (whole.labels, whole.test_labels))]
    data = split(*rows, len(whole.test_x), seed)
    if scaler is not None:
        fitted = scaler().fit(data.x)
        data = data._replace(x=fitted.transform(data.x), test_x=fitted.transform(data.test_x))
    return data


def _sweep(data: Data, seed: int) -> dict:
    """Accuracy on the test data by rate, and the share of hidden values that are saturated at first."""
    curve, widths = [], (data.x.shape[1], HIDDEN, int(data.labels.max()) + 1)
    for rate in RATES:
        rng = np.random.default_rng(seed)
        network = perceptron(widths, None, rng)
        network(data.x)
        flat = np.abs(network.layers[1].y - 0.5) > 0.49  # the slope is less than 4 % of the largest
        for _ in learn(network, data, batches(len(data.x), BATCH, STEPS, rng), rate):
            pass
        curve.append(network.evaluate(data.test_x, data.test_labels)[1])
    return {"accuracy": curve, "saturated": float(flat.mean())}


def _best(runs: list[dict], name: str, scaling: str) -> tuple[float, float]:
    """The best mean accuracy, and the first rate that gives it."""
    means = [mean(r[name][scaling]["accuracy"][i] for r in runs) for i in range(len(RATES))]
    return max(means), RATES[means.index(max(means))]


def checks(runs: list[dict]) -> list[Check]:
    def gain(name: str, scaling: str) -> list[float]:
        return [max(r[name][scaling]["accuracy"]) - max(r[name]["raw"]["accuracy"]) for r in runs]

    return [
        Check(f"best accuracy on {name.replace('_', ' ')}, {scaling} - raw", gain(name, scaling), ">=", 0.1)
        for name in SETS
        for scaling in ("min-max", "z-score")
    ]


def findings(runs: list[dict]) -> list[str]:
    sentences = []
    for name in SETS:
        best = {scaling: _best(runs, name, scaling) for scaling in SCALERS}
        sentences.append(
            f"{name.replace('_', ' ').capitalize()}, each at its best rate: "
            + ", ".join(f"{scaling} {accuracy:.1%} (at {rate})" for scaling, (accuracy, rate) in best.items())
            + "."
        )
    flat = {s: mean(r[name][s]["saturated"] for r in runs for name in SETS) for s in SCALERS}
    return [
        *sentences,
        "**Beside the article's reason**: raw rows for training and for tests come from one distribution, too. But the "
        "largest features saturate the sigmoids: before the first step, of the hidden values "
        + ", ".join(f"{share:.0%} with {scaling} inputs" for scaling, share in flat.items())
        + " are within 0.01 of 0 or 1.",
    ]


def draw(runs: list[dict]):
    figure, panels = pictures.new(len(SETS))
    for axes, name in zip(panels, SETS, strict=True):
        for scaling in SCALERS:
            curves = [r[name][scaling]["accuracy"] for r in runs]
            pictures.band(axes, RATES, curves, scaling, color=COLOURS[scaling], marker="o")
        title = f"Test accuracy, {name.replace('_', ' ')}"
        pictures.finish(axes, title, "rate", "", xscale="log", ylim=(0, 1.02))
    return figure
