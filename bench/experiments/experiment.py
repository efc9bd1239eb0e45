"""What an experiment is: a module here whose docstring is its claim, and which has

FAST            whether it takes seconds
run(seed)       what one run measured, as JSON has it: numbers, texts, lists, dicts
checks(runs)    the inequalities that must hold, of the runs of all seeds
findings(runs)  sentences on what was found beside them, with figures
draw(runs)      the picture, a figure of matplotlib
"""

import math
from collections.abc import Iterable
from importlib import import_module
from typing import NamedTuple

import numpy as np

NAMES = (
    "sigmoid_mnist",
    "noisy_bn",
    "learning_rate_and_init",
    "gradient_flow",
    "batch_size",
    "population_statistics",
    "shuffling",
    "input_scaling",
    "variable_length",
    "cnn",
)
STANDARD_ERRORS = 3  # by which a mean must be on its side of a bound


class Check(NamedTuple):
    """An inequality of the mean over seeds, kept by STANDARD_ERRORS at least.

    Another processor rounds otherwise, after which training takes another way, as with another seed. What holds by a
    chance of the seeds would not hold there.
    """

    text: str
    values: list[float]  # one for each seed, two at least
    sign: str  # of the inequality: ">=" or "<="
    bound: float

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def error(self) -> float:
        return standard_error(self.values)

    @property
    def margin(self) -> float:
        """By how many standard errors the mean is on its side of the bound; infinite if all values are the same."""
        beyond = self.mean - self.bound if self.sign == ">=" else self.bound - self.mean
        if self.error == 0:
            return math.inf if beyond >= 0 else -math.inf
        return beyond / self.error

    @property
    def holds(self) -> bool:
        return self.margin >= STANDARD_ERRORS


class Result(NamedTuple):
    """Of an experiment, the runs of all seeds and their times; none, and why, if its data are not installed."""

    name: str
    runs: list[dict]
    seconds: list[float]
    missing: str = ""

    @property
    def module(self):
        return module(self.name)

    @property
    def checks(self) -> list[Check]:
        return self.module.checks(self.runs) if self.runs else []

    @property
    def findings(self) -> list[str]:
        return self.module.findings(self.runs) if self.runs else [f"Not run: {self.missing}."]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)


def module(name: str):
    """The module of an experiment."""
    return import_module(f"bench.experiments.{name}")


def text(name: str) -> tuple[str, str]:
    """An experiment's title and what it is about, from its docstring."""
    title, _, rest = module(name).__doc__.partition("\n")
    return title.rstrip("."), rest.strip()


def standard_error(values: list[float]) -> float:
    """Of the mean."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5


def spread(shares: list[float]) -> str:
    """Their mean and its standard error, in percent."""
    return f"{mean(shares):+.1%} ± {standard_error(shares):.1%}"


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
