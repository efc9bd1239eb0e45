"""Training as the experiments do it: batches, steps, accuracies on the way."""

from collections.abc import Iterable, Iterator

import numpy as np

from bench.experiments.data import Data
from bench.network import Network
from numbanorm import BatchNorm, LayerNorm

NORMS = {"none": None, "BatchNorm": BatchNorm, "LayerNorm": LayerNorm}


def batches(rows: int, size: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of the rows of each batch: epoch after epoch, shuffled anew. What fills no batch waits for the next."""
    for step in range(steps):
        at = step % (rows // size)
        if at == 0:
            order = rng.permutation(rows)
        yield order[at * size : (at + 1) * size]


def learn(network: Network, data: Data, order: Iterable[np.ndarray], rate: float) -> Iterator[int]:
    """Descend the gradient of each batch; after each, the number of steps so far."""
    for step, batch in enumerate(order, 1):
        network.step(data.x[batch], data.labels[batch], rate)
        yield step


def accuracies(network: Network, data: Data, order: Iterable[np.ndarray], rate: float, every: int) -> list[float]:
    """On the test data, after every so many steps."""
    steps = learn(network, data, order, rate)
    return [network.evaluate(data.test_x, data.test_labels)[1] for step in steps if step % every == 0]


def calibrate(network: Network, x: np.ndarray) -> None:
    """Give each BN, from the first to the last, the statistics of all values that x brings to it."""
    for layer in network.train(False).layers:
        if isinstance(layer, BatchNorm):
            layer.calibrate([x])
        x = layer(x)
    network.train()


def late(curve: list[float], count: int = 5) -> float:
    """The mean of the last few, which chance moves less than the last."""
    return float(np.mean(curve[-count:]))
