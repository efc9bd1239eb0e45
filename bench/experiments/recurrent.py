"""A recurrent network over sequences of different lengths, with a norm at each step."""

import numpy as np

from bench.network import Layer, Linear
from numbanorm import BatchNorm, LayerNorm


class StepNorms(Layer):
    """A layer of numbanorm's for each step, and one weight and one bias for all, whose gradients add up.

    So batch normalization has statistics of its own for each step (Cooijmans et al. 2016). A step beyond those has
    none, which is an error, or with `beyond="last"` it takes those of the last step that has.
    """

    def __init__(
        self, kind: type[BatchNorm] | type[LayerNorm], features: int, steps: int, beyond: str = "error"
    ) -> None:
        super().__init__()
        self.steps = [kind(features) for _ in range(steps)]
        for step in self.steps[1:]:
            step.weight, step.bias = self.steps[0].weight, self.steps[0].bias
            step.grads.update(self.steps[0].grads)
        self.grads, self.beyond = self.steps[0].grads, beyond

    def named_parameters(self):
        return self.steps[0].named_parameters()

    def zero_grad(self):
        for step in self.steps:
            step.zero_grad()

    def train(self, mode: bool = True):
        for step in self.steps:
            step.train(mode)
        return self

    def admit(self, steps: int) -> None:
        """Refuse a sequence of more steps than there are statistics of."""
        if steps > len(self.steps) and isinstance(self.steps[0], BatchNorm) and self.beyond == "error":
            raise ValueError(
                f"x: {steps} steps, must be {len(self.steps)} at most: there are no statistics of later ones"
            )

    def at(self, t: int) -> BatchNorm | LayerNorm:
        return self.steps[min(t, len(self.steps) - 1)]


class Recurrent(Layer):
    """h[t] = tanh(norm[t](x[t] @ inner + h[t - 1] @ across)) while a sequence lasts; scores of its last h.

    With `masked`, of batch normalization, the statistics of a step are those of the sequences that last, and where only
    one does, which has no variance, the running ones; without, what comes after the end of a sequence counts as well.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, norms: StepNorms, masked: bool, rng) -> None:
        super().__init__()
        self.inner, self.across, self.out = (
            Linear(*sizes, rng) for sizes in ((inputs, hidden), (hidden, hidden), (hidden, classes))
        )
        self.norms, self.masked = norms, masked

    def train(self, mode: bool = True):
        self.norms.train(mode)
        return self

    def __call__(self, x, lasts):
        """x (sequences, steps, inputs), lasts (sequences, steps): whether a sequence goes on."""
        self.norms.admit(x.shape[1])
        h, self.past = np.zeros((len(x), len(self.across.weight)), x.dtype), []
        for t in range(x.shape[1]):
            a = x[:, t] @ self.inner.weight + h @ self.across.weight
            y, saved = self._normalized(t, a, lasts[:, t])
            new, on = np.tanh(y), lasts[:, t, None]
            self.past.append((x[:, t], on, h, new, saved))
            h = np.where(on, new, h)
        return self.out(h)

    def _normalized(self, t: int, a, lasts):
        norm = self.norms.at(t)
        if not self.masked:
            return norm.forward_saved(a)
        training = norm.training
        result = norm.train(training and lasts.sum() > 1).forward_saved(a, lasts)
        norm.train(training)
        return result

    def backward(self, dy):
        dh, gradients = self.out.backward(dy), []
        for t in reversed(range(len(self.past))):
            x, on, h, new, saved = self.past[t]
            da = self.norms.at(t).backward(np.where(on, dh * (1 - new * new), np.zeros_like(dh)), saved)
            gradients.append((x.T @ da, h.T @ da))
            dh = np.where(on, 0, dh) + da @ self.across.weight.T
        self.inner.grads["weight"], self.across.grads["weight"] = (sum(parts) for parts in zip(*gradients, strict=True))
        return dh

    def descend(self, rate: float) -> None:
        """One step against the gradient. The biases of `inner` and `across` are left at 0: the norm has its own."""
        for layer in (self.inner, self.across, self.norms, self.out):
            for name, parameter in layer.named_parameters():
                if name in layer.grads:
                    parameter -= rate * layer.grads[name]
            layer.zero_grad()
