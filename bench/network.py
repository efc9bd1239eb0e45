"""A small trainer: a network of NumPy and of numbanorm's layers. Its own layers have the methods of theirs."""

from itertools import pairwise

import numpy as np

from numbanorm import BatchNorm, LayerNorm

WIDTHS = (64, 128, 128, 128, 10)


class Linear:
    """y = x @ weight + bias."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator) -> None:
        self.weight = rng.normal(0, inputs**-0.5, (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)
        self.grads: dict[str, np.ndarray] = {}

    def parameters(self):
        return {"weight": self.weight, "bias": self.bias}

    def __call__(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, dy):
        self.grads = {"weight": self.x.T @ dy, "bias": dy.sum(0)}
        return dy @ self.weight.T


class Sigmoid:
    """y = 1 / (1 + exp(-x)): it saturates where its input strays, which a norm in front of it prevents."""

    def parameters(self):
        return {}

    def __call__(self, x):
        self.y = 1 / (1 + np.exp(-x))
        return self.y

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


class Network:
    """Linear layers with a norm (None, `BatchNorm` or `LayerNorm`) and a sigmoid after each but the last."""

    def __init__(self, norm, seed: int) -> None:
        rng = np.random.default_rng(seed)  # the same weights for every norm
        self.layers: list = []
        for inputs, outputs in pairwise(WIDTHS):
            after = [norm(outputs), Sigmoid()] if norm else [Sigmoid()]
            self.layers += [Linear(inputs, outputs, rng), *after]
        del self.layers[-len(after) :]

    def step(self, x, labels, rate: float) -> float:
        """One step of gradient descent; the loss before it."""
        loss, gradient = cross_entropy(self._forward(x), labels)
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        for layer in self.layers:
            for key, parameter in layer.parameters().items():
                parameter -= rate * layer.grads[key]
        return loss

    def evaluate(self, x, labels) -> tuple[float, float]:
        """Loss and accuracy, with batch normalization's running statistics."""
        norms = [layer for layer in self.layers if isinstance(layer, BatchNorm | LayerNorm)]
        for layer in norms:
            layer.eval()
        scores = self._forward(x)
        for layer in norms:
            layer.train()
        return cross_entropy(scores, labels)[0], float((scores.argmax(1) == labels).mean())

    def _forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def cross_entropy(scores, labels):
    """The mean loss, and its gradient with respect to the scores."""
    rows = np.arange(labels.size)
    shifted = scores - scores.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), gradient / np.float32(labels.size)
