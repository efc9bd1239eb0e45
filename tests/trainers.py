"""A transformer and a CNN in NumPy, on layers that are used as the README says: float64, as small as can be."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from numbanorm import BatchNorm


class Model:
    """Weights with gradients that add up, beside the layers' own."""

    def __init__(self, shapes, norms, seed=0):
        rng = np.random.default_rng(seed)
        self.weights = {name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
        self.grads = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.norms = norms

    def zero_grad(self):
        for gradient in self.grads.values():
            gradient.fill(0)
        for norm in self.norms.values():
            norm.zero_grad()

    def named_gradients(self):
        """(parameter, gradient) by name: each array once, also one that layers share."""
        found = {name: (weight, self.grads[name]) for name, weight in self.weights.items()}
        for key, norm in self.norms.items():
            for name, parameter, gradient in norm.named_gradients():
                if all(parameter is not other for other, _ in found.values()):
                    found[f"{key}.{name}"] = parameter, gradient
        return found


class Adam:
    """Kingma and Ba's, with the two moments of each gradient at its place in the list."""

    def __init__(self, model, rate, betas=(0.9, 0.999), eps=1e-8):
        self.pairs = list(model.named_gradients().values())
        self.moments = [np.zeros((2, *parameter.shape)) for parameter, _ in self.pairs]
        self.rate, self.betas, self.eps, self.steps = rate, betas, eps, 0

    def step(self):
        self.steps += 1
        for (parameter, gradient), moments in zip(self.pairs, self.moments, strict=True):
            for moment, power, beta in zip(moments, (gradient, gradient**2), self.betas, strict=True):
                moment += (1 - beta) * (power - moment)
            first, second = (m / (1 - beta**self.steps) for m, beta in zip(moments, self.betas, strict=True))
            parameter -= self.rate * first / (np.sqrt(second) + self.eps)


class Transformer(Model):
    """x + attention(norm(x)), then h + mlp(norm(h)), then a norm and a score for each position.

    `norms` are the layers "attention", "mlp" and "end"; two of them may be the same one.
    """

    def __init__(self, norms, features=8, hidden=16):
        square = dict.fromkeys(("query", "key", "value", "out"), (features, features))
        mlp = {"up": (features, hidden), "down": (hidden, features)}
        super().__init__(square | mlp | {"score": (features, 1)}, norms)

    def forward(self, x):
        """Scores of (sequences, positions, features), and what `backward` needs of this pass."""
        norms, w = self.norms, self.weights
        a, saved_a = norms["attention"].forward_saved(x)
        query, key, value = a @ w["query"], a @ w["key"], a @ w["value"]
        p = softmax(query @ key.mT / np.sqrt(x.shape[-1]))
        o = p @ value
        h = x + o @ w["out"]
        m, saved_m = norms["mlp"].forward_saved(h)
        r = np.maximum(m @ w["up"], 0)
        e, saved_e = norms["end"].forward_saved(h + r @ w["down"])
        return e @ w["score"], (saved_a, a, query, key, value, p, o, saved_m, m, r, saved_e, e)

    def backward(self, dscore, saved):
        saved_a, a, query, key, value, p, o, saved_m, m, r, saved_e, e = saved
        dy = self.norms["end"].backward(self._through("score", e, dscore), saved_e)
        dm = self._through("up", m, self._through("down", r, dy) * (r > 0))
        dh = dy + self.norms["mlp"].backward(dm, saved_m)
        do = self._through("out", o, dh)
        dp = do @ value.mT
        ds = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(a.shape[-1])
        da = self._through("query", a, ds @ key)
        da += self._through("key", a, ds.mT @ query) + self._through("value", a, p.mT @ do)
        return dh + self.norms["attention"].backward(da, saved_a)

    def _through(self, name, x, dy):
        """dx of x @ weight; adds the weight's gradient."""
        self.grads[name] += x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
        return dy @ self.weights[name].T


class Cnn(Model):
    """Two convolutions, each with a norm over channels and a rectifier, then the mean of each channel and scores.

    A batch is a list of its parts, of which each takes the statistics of all.
    """

    def __init__(self, classes=2, channels=4):
        shapes = {"first": (channels, 1, 3, 3), "second": (channels, channels, 3, 3), "score": (channels, classes)}
        super().__init__(shapes, {name: BatchNorm(channels, dtype=np.float64) for name in ("first", "second")})

    def forward(self, parts):
        """Scores of each part, of (images, 1, height, width), and what `backward` needs of this pass."""
        passes = []
        for name, norm in self.norms.items():
            convolved = [convolution(x, self.weights[name]) for x in parts]
            normalized, saved = _normalized(norm, convolved)
            passes.append((name, parts, normalized, saved))
            parts = [np.maximum(y, 0) for y in normalized]
        pooled = [y.mean((2, 3)) for y in parts]
        return [y @ self.weights["score"] for y in pooled], (passes, parts, pooled)

    def backward(self, dscores, saved):
        """dx of each part."""
        passes, last, pooled = saved
        dys = []
        for dscore, y, pool in zip(dscores, last, pooled, strict=True):
            self.grads["score"] += pool.T @ dscore
            dpool = dscore @ self.weights["score"].T / (y.shape[2] * y.shape[3])
            dys.append(np.broadcast_to(dpool[..., None, None], y.shape))
        for name, xs, normalized, saved_norm in reversed(passes):
            dys = [dy * (y > 0) for dy, y in zip(dys, normalized, strict=True)]
            dys = _backward(self.norms[name], dys, saved_norm)
            for dy, x in zip(dys, xs, strict=True):
                self.grads[name] += convolution_dweight(dy, x)
            dys = [convolution_dx(dy, self.weights[name]) for dy in dys]
        return dys

    def train(self, mode=True):
        for norm in self.norms.values():
            norm.train(mode)


def _normalized(norm, parts):
    """y of each, and what `_backward` takes: of one part, None."""
    if len(parts) == 1:
        return [norm(parts[0])], None
    return norm.forward_parts(parts)


def _backward(norm, dys, saved):
    return [norm.backward(dys[0])] if saved is None else norm.backward(dys, saved)


def convolution(x, weight):
    """y[n, o, i, j] = the sum over c, k, l of x[n, c, i + k, j + l] * weight[o, c, k, l]."""
    return np.einsum("ncijkl,ockl->noij", _windows(x), weight, optimize=True)


def convolution_dweight(dy, x):
    return np.einsum("noij,ncijkl->ockl", dy, _windows(x), optimize=True)


def convolution_dx(dy, weight):
    padded = np.pad(dy, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.einsum("noijkl,ockl->ncij", _windows(padded), weight[:, :, ::-1, ::-1], optimize=True)


def _windows(x):
    return sliding_window_view(x, (3, 3), (2, 3))


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
