"""A small trainer: networks of NumPy and of numbanorm's layers. Its own layers have the methods of theirs."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

Norm = Callable[[int], object]  # a layer that normalises so many features


class Layer:
    """What a layer without parameters has, to which others add theirs."""

    def __init__(self) -> None:
        self.grads: dict[str, np.ndarray] = {}

    def named_parameters(self) -> Iterator[tuple[str, np.ndarray]]:
        named = ((name, getattr(self, name, None)) for name in ("weight", "bias"))
        return ((name, parameter) for name, parameter in named if parameter is not None)

    def zero_grad(self) -> None:
        """Nothing to do: `backward` replaces gradients."""

    def train(self, mode: bool = True):
        return self


class Linear(Layer):
    """y = x @ weight + bias, the weights at first normal with a standard deviation of `std` or 1 / sqrt(inputs)."""

    def __init__(self, inputs: int, outputs: int, rng: np.random.Generator, std: float | None = None) -> None:
        super().__init__()
        self.weight = rng.normal(0, inputs**-0.5 if std is None else std, (inputs, outputs)).astype(np.float32)
        self.bias = np.zeros(outputs, np.float32)

    def __call__(self, x):
        self.x = x
        return x @ self.weight + self.bias

    def backward(self, dy):
        self.differentiate(dy)
        return dy @ self.weight.T

    def differentiate(self, dy) -> None:
        """The parameters' gradients alone. A network's first layer needs no more, and dx costs as much as these."""
        self.grads = {"weight": self.x.T @ dy, "bias": dy.sum(0)}


class Sigmoid(Layer):
    """y = 1 / (1 + exp(-x)): it saturates where its input strays, which a norm in front of it prevents."""

    def __call__(self, x):
        self.y = 0.5 * np.tanh(0.5 * x) + 0.5  # the same, and no exponential can overflow
        return self.y

    def backward(self, dy):
        return dy * self.y * (1 - self.y)


class Relu(Layer):
    """y = max(x, 0)."""

    def __call__(self, x):
        self.y = np.maximum(x, 0)
        return self.y

    def backward(self, dy):
        return dy * (self.y > 0)


class Network(Layer):
    """Layers one after the other: a linear one first, and a last one that gives a score for each class."""

    def __init__(self, layers: list) -> None:
        super().__init__()
        self.layers = layers

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def train(self, mode: bool = True):
        for layer in self.layers:
            layer.train(mode)
        return self

    def step(self, x, labels, rate: float) -> float:
        """One step of gradient descent; the loss before it."""
        for layer in self.layers:
            layer.zero_grad()
        loss, dy = cross_entropy(self(x), labels)
        first, *others = self.layers
        for layer in reversed(others):
            dy = layer.backward(dy)
        first.differentiate(dy)
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                parameter -= rate * layer.grads[name]
        return loss

    def evaluate(self, x, labels) -> tuple[float, float]:
        """Loss and accuracy, with batch normalization's running statistics."""
        scores = self.train(False)(x)
        self.train()
        return cross_entropy(scores, labels)[0], float((scores.argmax(1) == labels).mean())


def perceptron(
    widths: tuple[int, ...],
    norm: Norm | None,
    rng: np.random.Generator,
    *,
    std: float | None = None,
    activation: type[Layer] = Sigmoid,
) -> Network:
    """Linear layers, between two of them a norm (unless None) and an activation: with one seed, the same weights."""
    layers: list = []
    for inputs, outputs in pairwise(widths):
        after = [norm(outputs), activation()] if norm else [activation()]
        layers += [Linear(inputs, outputs, rng, std), *after]
    del layers[-len(after) :]
    return Network(layers)


def cross_entropy(scores, labels):
    """The mean loss, and its gradient with respect to the scores."""
    rows = np.arange(labels.size)
    shifted = scores - scores.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[rows, labels] -= 1
    return float(-log_p[rows, labels].mean()), gradient / np.float32(labels.size)
