"""What a layer keeps of a forward pass for its backward pass, and the check that it has not changed."""

import math
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from functools import cache, lru_cache, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from threading import get_ident
from typing import Any, ParamSpec, TypeVar

import numpy as np

from numbanorm._call import numbers
from numbanorm._types import Array, Shape

P = ParamSpec("P")
R = TypeVar("R")
SAMPLES = 256  # values of an array that are compared
FEW = 1024  # values of an array that is compared whole, which takes no longer

X_ADVICE = "write y = y + ... in place of y += ..., or pass copy=True to the layer's call"
WEIGHT_ADVICE = "update parameters after backward, or pass copy=True to the layer's call"

_is_keeping = ContextVar("_is_keeping", default=True)
_compares_everything = False


class no_grad:
    """A context in which layers keep nothing for `backward`, in training as in evaluation.

    It holds for the thread, or the task of asyncio, that enters it. What a layer kept before stays, and `forward_saved`
    and `forward_parts` return what they keep all the same. ``@no_grad()`` before a function is the same around its
    calls.

    Raises
    ------
    TypeError
        What it stands before is a generator function or a coroutine function; write ``with no_grad():`` within it.

    Examples
    --------
    >>> import numpy as np
    >>> from numbanorm import LayerNorm, no_grad
    >>> layer = LayerNorm(3)
    >>> with no_grad():
    ...     y = layer(np.ones((2, 3), np.float32))
    """

    def __init__(self) -> None:
        self._tokens: list[Token[bool]] = []

    def __enter__(self) -> None:
        self._tokens.append(_is_keeping.set(False))

    def __exit__(self, *_: object) -> None:
        _is_keeping.reset(self._tokens.pop())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function that enters a context of its own at each call."""
        if any(is_kind(function) for is_kind in (isgeneratorfunction, iscoroutinefunction, isasyncgenfunction)):
            name = getattr(function, "__qualname__", function)
            raise TypeError(
                f"no_grad: before {name}, must be before an ordinary function; write `with no_grad():` in it"
            )

        @wraps(function)
        def unkept(*args: P.args, **kwargs: P.kwargs) -> R:
            with no_grad():
                return function(*args, **kwargs)

        return unkept


def is_keeping() -> bool:
    """Return whether layers keep what `backward` needs."""
    return _is_keeping.get()


def set_debug(enabled: bool) -> bool:
    """Choose whether layers copy x in `forward` and compare all of it in `backward`.

    Without that `backward` compares 256 values of x at fixed positions, one at random in each 256th of x, with what
    they were in the forward pass; of an x of up to 1024 values it compares all. It notices every change of neighbours
    (in C order), as of whole rows, that are one value in 128 or more. It misses a change of other values than the 256:
    of one in 768, as of one column of so many, 3 times in 4; of one in a hundred, 1 time in 13; of one in twenty, 2
    times in a million. Of the weight, samples alone are compared, whatever this setting is.

    Parameters
    ----------
    enabled : bool
        Whether they do. It holds for all threads.

    Returns
    -------
    bool
        Whether they did until now.

    Raises
    ------
    TypeError
        `enabled` is not True or False.

    Examples
    --------
    >>> import numbanorm
    >>> numbanorm.set_debug(True)
    False
    >>> numbanorm.set_debug(False)
    True
    """
    global _compares_everything
    numbers.flag("enabled", enabled)
    before, _compares_everything = _compares_everything, bool(enabled)
    return before


class Unchanged:
    """An array that must not change between a forward and its backward pass, or with `copy` a copy of it."""

    __slots__ = ("_samples", "_whole", "value")

    def __init__(self, value: Array, copy: bool) -> None:
        self.value = value.copy() if copy else value
        self._samples = samples(value)
        self._whole = value.copy() if _compares_everything and not copy else None

    def check(self, name: str, advice: str) -> None:
        """Raise a RuntimeError if the array has other values now."""
        if samples(self.value) != self._samples or not self._is_whole():
            raise _changed(name, advice)

    def _is_whole(self) -> bool:
        return self._whole is None or np.array_equal(self.value, self._whole, equal_nan=True)


def _changed(name: str, advice: str) -> RuntimeError:
    return RuntimeError(f"{name}: changed since the forward pass, must be as it was for backward; {advice}")


class AllUnchanged:
    """Several arrays that must not change: the parts of one batch."""

    __slots__ = ("_each",)

    def __init__(self, values: Iterable[Array], copy: bool) -> None:
        self._each = [Unchanged(value, copy) for value in values]

    @property
    def value(self) -> list[Array]:
        """The arrays."""
        return [each.value for each in self._each]

    def check(self, name: str, advice: str) -> None:
        """Raise a RuntimeError if one of the arrays has changed."""
        for i, each in enumerate(self._each):
            each.check(f"{name}[{i}]", advice)


def samples(array: Array) -> bytes:
    """Return the values at the positions that are compared."""
    if array.size <= FEW:
        return array.tobytes()
    if array.flags.c_contiguous:
        return array.take(_positions(array.size)).tobytes()
    return array[_indices(array.shape)].tobytes()


@lru_cache(256)
def _positions(size: int) -> Array:
    """Return random positions, one in each of several runs of equal length. So a change of any pattern meets some."""
    bounds = np.arange(SAMPLES + 1) * size // SAMPLES
    return bounds[:-1] + (_fractions() * np.diff(bounds)).astype(np.intp)


@cache
def _fractions() -> Array:
    """Draw the places within the runs. They are the same for all sizes, since drawing takes longer than a call."""
    return np.random.default_rng(0).random(SAMPLES)


@lru_cache(256)
def _indices(shape: Shape) -> tuple[Array, ...]:
    return np.unravel_index(_positions(math.prod(shape)), shape)


class Saved:
    """A forward pass that waits for its one backward pass. `forward_saved` returns it.

    It holds x until then, and is neither pickled nor copied.
    """

    __slots__ = ("copies", "how", "parameters", "pass_back", "thread", "token", "weight", "x")

    def __init__(self, layer: Any, x: Any, copy: bool) -> None:
        weight, bias = layer._weight, layer._bias
        self.token: object = layer._token  # not the layer, which references its last pass; None after use
        self.thread = get_ident()
        self.copies = copy
        self.x: Any = (AllUnchanged if type(x) is list else Unchanged)(x, copy)
        self.weight = weight if weight is None or not copy else weight.copy()
        self.parameters: dict[str, bytes] = {}  # samples of each, to tell which values the gradients belong to
        if weight is not None:
            self.parameters["weight"] = samples(weight)
        if bias is not None:
            self.parameters["bias"] = samples(bias)
        self.pass_back: Callable[..., Any]  # a function of dy, x, weight, out and `how`
        self.how: dict[str, Any]

    def check(self, weight: Array | None) -> None:
        """Raise a RuntimeError if x has changed, or the weight, which is `weight` now."""
        self.x.check("x", X_ADVICE)
        if weight is None or self.copies:
            return
        if weight is not self.weight:
            raise RuntimeError(f"weight: another array was assigned since the forward pass; {WEIGHT_ADVICE}")
        if samples(weight) != self.parameters["weight"]:
            raise _changed("weight", WEIGHT_ADVICE)

    def gradients(self, dy: Any, out: Any) -> tuple[Any, ...]:
        """Return dx, dweight and, if there is a bias, dbias."""
        return self.pass_back(dy, self.x.value, weight=self.weight, out=out, **self.how)

    def use_up(self) -> None:
        """Let go of all that was kept."""
        self.token = self.x = self.weight = None
        self.how = {}

    def __getstate__(self) -> Any:
        if self.token is not None:
            raise TypeError("Saved: neither pickled nor copied, as it holds a batch; use it for backward, or drop it")
        return super().__getstate__()
