"""What an experiment is: a module here whose docstring is its claim, and which has

FAST            whether it takes seconds
run(seed)       what one run measured, as JSON has it: numbers, texts, lists, dicts
checks(runs)    the inequalities that must hold, of the runs of all seeds
findings(runs)  sentences on what was found beside them, with figures
draw(runs)      the picture, a figure of matplotlib
"""

from collections.abc import Iterable
from importlib import import_module
from math import isnan
from operator import ge, le, lt
from typing import NamedTuple

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


class Check(NamedTuple):
    """An inequality: no seed's value may be on the wrong side of the bound."""

    text: str
    values: list[float]
    sign: str  # of the inequality: ">=", "<=" or "<"
    bound: float

    @property
    def worst(self) -> float:
        """NaN, if a seed's value is."""
        return next((v for v in self.values if isnan(v)), min(self.values) if self.sign == ">=" else max(self.values))

    @property
    def holds(self) -> bool:
        return {">=": ge, "<=": le, "<": lt}[self.sign](self.worst, self.bound)


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


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)
