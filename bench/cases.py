"""What is timed: an operation on arrays of one shape, by every system."""

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import NamedTuple

import numpy as np

import numbanorm
from bench import peers
from numbanorm._operations import OPERATIONS

# Of the largest value: the peers' float32 sums over 1e5 values lose so much.
TOLERANCE = 2e-4


class Shape(NamedTuple):
    """The shape of x, and the axis that is normalised (LN) or holds the channels (BN)."""

    network: str  # one that has it
    sizes: tuple[int, ...]
    axis: int
    quick: bool = False  # whether it is in the short selection

    def __str__(self) -> str:
        text = f"{self.network} {' x '.join(map(str, self.sizes))}"
        return text if len(self.sizes) == 2 else f"{text}, axis {self.axis}"


class Operation(NamedTuple):
    """A function of numbanorm, and of each peer."""

    name: str
    axis_name: str
    reads: int  # arrays of x's size that it must read; it writes one

    def arrays(self, shape: Shape) -> tuple[np.ndarray, ...]:
        """Its arguments, float32, by their places: all that it can be given but a mask."""
        generator = np.random.default_rng(0)

        def values(sizes):
            return generator.standard_normal(sizes, np.float32) + 1

        arguments = OPERATIONS[self.name].arguments(values(shape.sizes), shape.axis, values)
        return tuple(a for name, a in arguments.items() if name not in (self.axis_name, "mask"))


# The halves of a backward pass are timed as a whole.
FAMILIES = tuple(dict.fromkeys(one.family for one in OPERATIONS.values() if one.family != "batchnorm_halves"))


def operations(*families: str, training: bool = False) -> tuple[Operation, ...]:
    """Those of the table, or those that give more than y: forward and backward in training."""
    found = (one for family in families for one in OPERATIONS.values() if one.family == family)
    return tuple(
        Operation(one.name, one.axis_name, one.moves - 1) for one in found if len(one.results) > 1 or not training
    )


class Case(NamedTuple):
    """An operation on one shape."""

    operation: Operation
    shape: Shape
    dtype: type = np.float32

    @property
    def nbytes(self) -> int:
        """Of x."""
        return math.prod(self.shape.sizes) * np.dtype(self.dtype).itemsize

    @property
    def megabytes(self) -> float:
        """The fewest that the operation must move."""
        return (self.operation.reads + 1) * self.nbytes / 1e6


def all_cases(dtype: type = np.float32) -> list[Case]:
    """Those of the file of each family."""
    return [case for family in FAMILIES for case in import_module(f"bench.{family}").cases(dtype)]


def calls(case: Case, names: tuple[str, ...] = peers.BASIC) -> dict[str, Callable]:
    """The same call to each system, on the same values; `names` are those of the peers."""
    operation, shape, dtype = case
    arrays = [a.astype(dtype, copy=False) for a in operation.arrays(shape)]
    ours = partial(getattr(numbanorm, operation.name), *arrays, **{operation.axis_name: shape.axis})
    systems: dict[str, Callable] = {"numbanorm": ours, "out=": partial(ours, out=np.empty(shape.sizes, dtype))}
    for name, peer in peers.installed(names).items():
        make = getattr(peer, operation.name, None)
        if make and (call := make(*arrays, shape.axis)):
            systems[name] = call
    return systems


def check_agreement(systems: dict[str, Callable]) -> None:
    """All systems must compute the same before it means anything to time them."""
    expected = _results(systems["NumPy"])
    for name, call in systems.items():
        for ours, theirs in zip(_results(call), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max(), err_msg=name)


def _results(call) -> list[np.ndarray]:
    """y alone, or all results; statistics flat, since some systems keep the reduced axes."""
    result = call()
    results = [np.asarray(a) for a in (result if isinstance(result, tuple) else (result,))]
    return results[:1] + [a.ravel() for a in results[1:]]


def random(seed: int, *sizes: int) -> np.ndarray:
    """Normal values of mean and standard deviation 1."""
    return np.random.default_rng(seed).standard_normal(sizes, np.float32) + 1
