"""BN suffers from sequences of different lengths, LN does not.

**The article**, section 3.6: at late steps few samples of a batch still have values, and their statistics do not tell
of all, so BN is not good there; and for a test sample that is longer than all in training there are no statistics at
all, so BN cannot run. Sections 4 and 5: LN works for recurrent networks.

**The papers**: Ba et al. 2016, section 3.1, give the second reason for LN; their figures 1 to 5 show recurrent
networks that train faster with LN. Cooijmans et al. 2016 train recurrent networks with BN of each step's own
statistics, and give steps beyond the training's those of the last. On utterances neither has figures.

**Here**: JapaneseVowels, 270 utterances of 7 to 26 frames by nine speakers, and 370 of up to 29 frames for tests; a
recurrent network of 32 units with a norm at each step, rate 0.03, 20 epochs with batches of 4 and 40 with 32; accuracy
is the mean of the last five epochs'. "Masked" BN takes a step's statistics of the utterances that last (where only one
does, it takes the running ones), "padded" BN of the whole batch, where those that have ended keep their last state.
"""

import numpy as np

from bench.experiments import pictures
from bench.experiments.data import Utterances, japanese_vowels
from bench.experiments.experiment import Check, mean
from bench.experiments.recurrent import Recurrent, StepNorms
from bench.experiments.training import late
from bench.network import cross_entropy
from numbanorm import BatchNorm, LayerNorm, StandardScaler, batch_norm_forward

FAST = False
KINDS = {"LayerNorm": (LayerNorm, False), "masked BatchNorm": (BatchNorm, True), "padded BatchNorm": (BatchNorm, False)}
HIDDEN, SPEAKERS, RATE = 32, 9, 0.03
EPOCHS = {4: 20, 32: 40}  # by the size of a batch


def run(seed: int) -> dict:
    train, test = _scaled()
    longest = max(map(len, train.frames))
    x, lasts = _padded(train.frames)
    runs = {str(size): {kind: _train(kind, size, longest, seed) for kind in KINDS} for size in EPOCHS}
    return {
        "accuracy": {size: {kind: curve for kind, (curve, _) in of.items()} for size, of in runs.items()},
        "survivors": lasts.sum(0).tolist(),
        "padded mean of ones": batch_norm_forward(lasts.astype(np.float32)).mean.ravel().tolist(),
        "padded mean error": _padded_mean_error(x, lasts),
        "frames beyond training": [len(f) for f in test.frames if len(f) > longest],
        "error beyond training": _error_beyond(test, longest),
        "right beyond training": {kind: right for kind, (_, right) in runs["4"].items()},
    }


def _scaled() -> tuple[Utterances, Utterances]:
    train, test = japanese_vowels()
    scaler = StandardScaler().fit(np.concatenate(train.frames))
    return tuple(part._replace(frames=[scaler.transform(frames) for frames in part.frames]) for part in (train, test))


def _padded(frames) -> tuple[np.ndarray, np.ndarray]:
    """(sequences, steps, features), zeros after the end of each; and where each lasts."""
    lengths = np.array([len(one) for one in frames])
    lasts = np.arange(lengths.max()) < lengths[:, None]
    x = np.zeros((*lasts.shape, frames[0].shape[1]), np.float32)
    x[lasts] = np.concatenate(frames)
    return x, lasts


def _padded_mean_error(x, lasts) -> float:
    """By how much a step's mean over the padded batch differs from that with a mask, times the share that lasts."""
    errors = []
    for t in np.flatnonzero(lasts.sum(0) > 1):
        padded, masked = batch_norm_forward(x[:, t]).mean, batch_norm_forward(x[:, t], mask=lasts[:, t]).mean
        errors.append(np.abs(padded - masked * lasts[:, t].mean()).max())
    return float(max(errors))


def _error_beyond(test: Utterances, longest: int) -> str:
    """What a network says whose norms have statistics of so many steps, if it is given the longest utterance."""
    network = _network("masked BatchNorm", longest, np.random.default_rng(0), beyond="error").train(False)
    try:
        network(*_padded([max(test.frames, key=len)]))
    except ValueError as error:
        return str(error)
    return ""


def _network(kind: str, steps: int, rng, beyond: str) -> Recurrent:
    norm, masked = KINDS[kind]
    return Recurrent(12, HIDDEN, SPEAKERS, StepNorms(norm, HIDDEN, steps, beyond), masked, rng)


def _train(kind: str, size: int, longest: int, seed: int) -> tuple[list[float], int]:
    """Test accuracy after each epoch, and how many of the utterances are right that are longer than all in training."""
    (train, test), rng = _scaled(), np.random.default_rng(seed)
    network, curve = _network(kind, longest, rng, beyond="last"), []
    test_x, test_lasts = _padded(test.frames)
    for _ in range(EPOCHS[size]):
        order = rng.permutation(len(train.frames))
        for start in range(0, len(order) - size + 1, size):
            batch = order[start : start + size]
            scores = network(*_padded([train.frames[i] for i in batch]))
            network.backward(cross_entropy(scores, train.labels[batch])[1])
            network.descend(RATE)
        right = network.train(False)(test_x, test_lasts).argmax(1) == test.labels
        network.train()
        curve.append(float(right.mean()))
    return curve, int(right[test_lasts.sum(1) > longest].sum())


def _accuracy(run: dict, size: int, kind: str) -> float:
    return late(run["accuracy"][str(size)][kind])


def checks(runs: list[dict]) -> list[Check]:
    errors = [[1 - _accuracy(r, 4, kind) for kind in ("LayerNorm", "masked BatchNorm")] for r in runs]
    doublings = [float(np.log2(masked / layer)) for layer, masked in errors]  # errors of masked BN spread widely
    refused = [float("29 steps" in r["error beyond training"]) for r in runs]
    count = runs[0]["survivors"][0]
    exact = [(np.array(r["survivors"]) / count).astype(np.float32) for r in runs]
    off = [float(np.abs(r["padded mean of ones"] - e).max()) for r, e in zip(runs, exact, strict=True)]
    return [
        Check("doublings of the test error with batches of 4, LN to masked BN", doublings, ">=", 0),
        Check(f"padded mean of ones - survivors / {count}, at any step", off, "<=", 0),
        Check("padded mean - masked mean x survivors", [r["padded mean error"] for r in runs], "<=", 1e-6),
        Check("29 frames, statistics of 26: refused (1)", refused, ">=", 1),
    ]


def findings(runs: list[dict]) -> list[str]:
    at = {size: {kind: mean(_accuracy(r, size, kind) for r in runs) for kind in KINDS} for size in EPOCHS}
    frames, right = runs[0]["frames beyond training"], {k: [r["right beyond training"][k] for r in runs] for k in KINDS}
    return [
        "Accuracy: "
        + "; ".join(
            f"batches of {size} " + ", ".join(f"{kind} {accuracy:.1%}" for kind, accuracy in of.items())
            for size, of in at.items()
        )
        + ".",
        "**Beside the article**: the few that last are the greater harm, as the article says: statistics that include "
        "the last states of those that have ended do better, and with batches of 32 padded BN is "
        f"{at[32]['padded BatchNorm'] - at[32]['LayerNorm']:+.1%} beside LN.",
        f"Longer than all in training: {len(frames)} of the test utterances, of {', '.join(map(str, frames))} frames, "
        f'too few to tell anything. The network refuses it: "{runs[0]["error beyond training"]}". With the statistics '
        "of the last step, the policy of Cooijmans et al. (masked BN has none there, as one utterance alone gets so "
        "far), so many are right, by seed: "
        + ", ".join(f"{kind} {' '.join(map(str, counts))}" for kind, counts in right.items())
        + ".",
    ]


def draw(runs: list[dict]):
    figure, (lasting, *panels) = pictures.new(3)
    survivors = np.array(runs[0]["survivors"])
    steps = np.arange(1, len(survivors) + 1)
    lasting.bar(steps, survivors / survivors[0], color="#d0d0d0", label="utterances that last")
    lasting.plot(steps, runs[0]["padded mean of ones"], ".", color="#1f77b4", label="padded mean of ones")
    pictures.finish(lasting, "Training utterances by frame", "frame", "share")
    for axes, (size, epochs) in zip(panels, EPOCHS.items(), strict=True):
        for kind in KINDS:
            pictures.band(axes, range(1, epochs + 1), [r["accuracy"][str(size)][kind] for r in runs], kind)
        pictures.finish(axes, f"Test accuracy, batches of {size}", "epoch", "", ylim=(0, 1))
    return figure
