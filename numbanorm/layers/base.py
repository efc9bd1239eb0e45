"""What all layers have: a mode, parameters with gradients, forward and backward passes, and a state."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import starmap
from operator import call
from threading import get_ident
from typing import Any, NamedTuple, Self

import numpy as np

from numbanorm._call import numbers, overlap
from numbanorm._call.advice import shown
from numbanorm._types import Array, Shape
from numbanorm.layers import state as states
from numbanorm.layers.arrays import Checked, Grads, LayerArray, zeros_like
from numbanorm.layers.saved import Saved

# Why no forward pass waits for its backward pass, and what to do.
NOT_CALLED = "the layer was not called since it was made, copied or unpickled; call it first"
USED = "the last one has had its backward pass; for several, keep what forward_saved returns"
DROPPED = "train() or eval() has changed the mode since; call them after backward, or keep what forward_saved returns"
NOT_KEPT = "the last one was under no_grad(); call the layer outside of it"
HANDED_OUT = "its handle was returned; call backward(dy, saved) with it"
OF_ANOTHER_THREAD = "the last one is of another thread; give each thread a layer, or keep what forward_saved returns"


NOT_TAKEN_ALONG = "_grads", "_grads_of", "_last", "_why_none", "_token"  # when a layer is pickled or copied


class NamedGradient(NamedTuple):
    """A parameter of a layer and its gradient. Both arrays stay the same from step to step."""

    name: str
    parameter: Array
    gradient: Array


def _mode(layer: Any, mode: Any) -> bool:
    """Check a new value of `training`, and return it. A change of mode drops the pass that waits."""
    numbers.flag("training", mode)
    if layer._last is not None and bool(mode) != layer.training:
        layer._last, layer._why_none = None, DROPPED
    return bool(mode)


class Layer(ABC):
    """A layer with a weight and a bias, or one of them, or none."""

    weight = LayerArray("The array that x_hat is multiplied by, of the layer's dtype; None if there is none.")
    bias = LayerArray("The array that is added then, of the layer's dtype; None if there is none.")
    training: Any = Checked("Whether statistics are those of each batch; `train` and `eval` set it.", _mode)
    eps: Any = Checked("Added to the variance.", lambda layer, value: numbers.eps(value))

    def __init__(self, shape: Shape, dtype: np.dtype[Any], weight: bool, bias: bool) -> None:
        self.dtype = dtype
        self._last: Saved | None = None
        self.training = True
        self._weight = np.ones(shape, dtype) if weight else None
        self._bias = np.zeros(shape, dtype) if bias else None
        self._begin()

    def _begin(self) -> None:
        """Set the attributes that are not taken along when a layer is pickled or copied."""
        self._grads = zeros_like(dict(self.named_parameters()))
        self._grads_of: dict[str, bytes] | None = None  # samples of the parameters they belong to; None: all are zero
        self._token = object()  # by which passes know their layer
        self._last = None  # the last forward pass that waits for its backward pass
        self._why_none = NOT_CALLED

    def __init_subclass__(cls) -> None:
        """Make a call of the layer `forward` itself, whichever class has it."""
        cls.__call__ = cls.forward  # type: ignore[method-assign]

    @abstractmethod
    def forward(self, x: Array, *, copy: bool = False, out: Array | None = None) -> Array:
        """Return y of x."""

    def backward(self, dy: Any, saved: Saved | None = None, *, out: Any = None) -> Any:
        """Return the gradient with respect to x, and add those with respect to the parameters to `grads`.

        Parameters
        ----------
        dy : ndarray
            The gradient with respect to y, of its shape and dtype.
        saved : Saved, optional
            What `forward_saved` returned; the last `forward` if left out. Each pass has one backward pass.
        out : ndarray of x's shape and dtype, optional
            Receives dx. It may be dy or x itself; it may not overlap an input otherwise.

        Returns
        -------
        ndarray
            dx, of the shape and dtype of x; `out` if given.

        Raises
        ------
        RuntimeError
            No forward pass waits for this; x or the weight has changed since (see `set_debug` for what can be missed);
            or a parameter has been updated while its gradient in `grads` was of the old values, and has not been set to
            zero.
        TypeError, ValueError
            dy, saved or out is of the wrong type, dtype or shape. In all cases nothing has been written, and the pass
            still waits.
        """
        waiting = self._waiting(saved)
        waiting.check(self._weight)
        self._check_grads(waiting.parameters)
        if out is not None:
            self._check_out(out)
        dx, *gradients = waiting.gradients(dy, out)
        self._add(waiting, gradients)
        waiting.use_up()
        if waiting is self._last:
            self._last, self._why_none = None, USED
        return dx

    def _waiting(self, saved: Any) -> Saved:
        if saved is None:
            last, why = self._last, self._why_none
            if last is not None and last.token is None:
                last, why = None, USED  # an exception came before it was dropped
            if last is not None and last.thread == get_ident():
                return last
            raise RuntimeError(f"backward: no forward pass waits: {why if last is None else OF_ANOTHER_THREAD}")
        if not isinstance(saved, Saved):
            raise TypeError(f"saved: {type(saved).__qualname__}, must be what forward_saved returned")
        if saved.token is None:
            raise RuntimeError("saved: has had its backward pass, must be of one that waits for it")
        if saved.token is not self._token:
            raise ValueError("saved: of a forward pass of another layer, must be of this one")
        return saved

    def _check_grads(self, parameters: dict[str, bytes]) -> None:
        if self._grads_of is None or self._grads_of == parameters:
            return
        for name, current in self._grads.data.items():
            if parameters[name] != self._grads_of[name] and current.any():
                must = f"must be zero: call zero_grad() after each update of {name}, then backward"
                raise RuntimeError(f"grads[{name!r}]: of the values that {name} had before it was updated, {must}")

    def _check_out(self, out: Any) -> None:
        for name, gradient in self._grads.data.items():
            if isinstance(out, np.ndarray) and overlap.overlap(out, gradient):
                raise ValueError(f"out: overlaps grads[{name!r}], must have memory of its own")

    def _add(self, waiting: Saved, gradients: list[Array]) -> None:
        """Add the gradients of the parameters, and mark the pass as used, in one step that no signal interrupts."""
        self._grads_of, totals = waiting.parameters, self._grads.data
        steps: list[tuple[Any, ...]] = [(setattr, waiting, "token", None)]
        for name, gradient in zip(("weight", "bias"), gradients, strict=False):
            if name in totals:
                steps.append((np.add, totals[name], gradient, totals[name]))
        list(starmap(call, steps))

    def _keep(self, x: Any, copy: bool, out: Any) -> Saved:
        """Keep what `backward` will need of x and the parameters, before a forward pass writes into `out`."""
        if copy is not False:
            numbers.flag("copy", copy)
        if not copy and isinstance(out, np.ndarray) and overlap.overlap(out, x):
            raise ValueError("out: overlaps x, which backward needs, must have memory of its own; or pass copy=True")
        return Saved(self, x, copy)

    def _hand_out(self, saved: Saved, pass_back: Callable[..., Any], how: dict[str, Any]) -> Saved:
        """Add to a pass what `backward` needs of the results, and return it. No earlier pass waits any more."""
        saved.pass_back, saved.how = pass_back, how
        self._last, self._why_none = None, HANDED_OUT
        return saved

    @property
    def grads(self) -> Grads:
        """The gradients with respect to the parameters, by name. They are sums since the last `zero_grad`."""
        return self._grads

    @grads.setter
    def grads(self, value: Mapping[str, Array]) -> None:
        if not isinstance(value, Mapping) or value.keys() != self._grads.keys():
            keys = sorted(self._grads)
            raise ValueError(
                f"grads: {shown(value)}, must be a mapping with the keys {keys}; zero_grad() sets all to zero"
            )
        self._grads.update(value)

    def zero_grad(self) -> None:
        """Set the gradients to zero, in their memory."""
        for gradient in self._grads.data.values():
            gradient.fill(0)
        self._grads_of = None

    def parameters(self) -> Iterator[Array]:
        """Yield the arrays to train. Update them in place."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Array]]:
        """Yield each parameter after its name, which begins with `prefix`."""
        named = ("weight", self._weight), ("bias", self._bias)
        return ((prefix + name, parameter) for name, parameter in named if parameter is not None)

    def named_gradients(self, prefix: str = "") -> Iterator[NamedGradient]:
        """Yield name, parameter and gradient of each parameter. The arrays stay the same from step to step."""
        named = self.named_parameters()
        return (NamedGradient(prefix + name, parameter, self._grads[name]) for name, parameter in named)

    def train(self, mode: bool = True) -> Self:
        """Use the statistics of each batch, as a new layer does. Return the layer.

        A change of mode drops what was kept for `backward`, except what `forward_saved` has returned.
        """
        numbers.flag("mode", mode)
        self.training = mode
        return self

    def eval(self) -> Self:
        """Use the population's statistics if the layer has them. Return the layer."""
        return self.train(False)

    def _buffers(self) -> dict[str, Array]:
        return {}

    def _arrays(self) -> dict[str, Array]:
        return dict(self.named_parameters()) | self._buffers()

    def state_dict(self, prefix: str = "") -> dict[str, Array]:
        """Return copies of the arrays by the keys that PyTorch uses. Each key begins with `prefix`."""
        return {prefix + key: value.copy() for key, value in self._arrays().items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, prefix: str = "") -> states.LoadedKeys:
        """Copy arrays in from `state_dict` of this class or of PyTorch's. All are checked before any is copied.

        Parameters
        ----------
        state : mapping from str to array
            The values may be of any library whose arrays NumPy reads without a copy to the host, and of any dtype that
            loses no more than precision. A state with running statistics and no ``num_batches_tracked``, as PyTorch
            had them before 0.4.1, leaves the layer's own count as it is.
        strict : bool
            Whether other keys than the layer's are an error; if not, what fits is loaded.
        prefix : str
            What stands before the keys of this layer in the state of a whole network, as ``"encoder.norm1."``. Keys
            that begin otherwise are left alone.

        Returns
        -------
        LoadedKeys
            `missing_keys` and `unexpected_keys`, of which there are none if `strict`.

        Raises
        ------
        TypeError
            Not a mapping, or an array in it is masked or of a dtype that would lose more than precision.
        KeyError
            It has other keys than the layer.
        ValueError
            An array in it has another shape.
        """
        numbers.flag("strict", strict)
        return states.load(self._arrays(), state, bool(strict), prefix)

    def _shown(self, size: Any, options: dict[str, Any], others: dict[str, tuple[Any, Any]]) -> str:
        """Return the text of a layer. Of the `others`, (value, default) by name, show those that are no default."""
        unusual = {name: value for name, (value, default) in others.items() if value != default}
        named = ", ".join(f"{name}={value}" for name, value in (options | unusual).items())
        dtype = f", dtype=np.{self.dtype}" if self.dtype != np.float32 else ""
        return f"{type(self).__name__}({size}, {named}{dtype})"

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in NOT_TAKEN_ALONG}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()
