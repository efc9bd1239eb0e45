"""States of layers: the keys that are PyTorch's, what is missing, and loading all or nothing."""

from collections.abc import Iterable, Mapping
from itertools import starmap
from operator import setitem
from typing import Any, NamedTuple

from numbanorm import _checks
from numbanorm._types import Array

COUNT = "num_batches_tracked"  # which PyTorch has had since version 0.4.1
STATISTICS = "running_mean", "running_var", COUNT


class LoadedKeys(NamedTuple):
    """What of a layer a state did not have, and what it had that the layer has not."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(own: Mapping[str, Array], state: Any, strict: bool, prefix: str) -> LoadedKeys:
    """Copy arrays in; all are checked before any is copied."""
    given = _without_prefix(state, prefix)
    found = _compared(own, given)
    if strict and (found.missing_keys or found.unexpected_keys):
        raise KeyError(_other_keys(own, given, found, prefix))
    pairs = [
        (own[key], ..., _checks.converted(f"state[{prefix + key!r}]", given[key], own[key]))
        for key in own
        if key in given
    ]
    list(starmap(setitem, pairs))  # no signal comes between
    return LoadedKeys(*([prefix + key for key in keys] for keys in found))


def _without_prefix(state: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: {type(prefix).__qualname__}, must be a str")
    if not isinstance(state, Mapping):
        raise TypeError(f"state: {type(state).__qualname__}, must be a mapping from names to arrays")
    return {str(key).removeprefix(prefix): value for key, value in state.items() if str(key).startswith(prefix)}


def _compared(own: Iterable[str], given: Mapping[str, Any]) -> LoadedKeys:
    """A state of statistics without a count is one of an old PyTorch: the layer's own count stays."""
    missing = [key for key in own if key not in given]
    if missing == [COUNT]:
        missing = []
    return LoadedKeys(missing, [key for key in given if key not in own])


def _other_keys(own: Mapping[str, Array], given: Mapping[str, Any], found: LoadedKeys, prefix: str) -> str:
    about = [f"{what} {sorted(keys)}" for what, keys in zip(("lacks", "has beside them"), found, strict=True) if keys]
    at = f" after the prefix {prefix!r}" if prefix else ""
    said = f"state: keys {sorted(given)}{at}, must be {sorted(own)}; it {' and '.join(about)}: {_advice(given, found)}"
    return said


def _advice(given: Mapping[str, Any], found: LoadedKeys) -> str:
    longer = sorted({key.rpartition(".")[0] + "." for key in found.unexpected_keys if "." in key})
    if longer and found.missing_keys:
        return f"pass prefix={longer[0]!r}, or another, for one layer of several"
    if set(found.missing_keys) & set(STATISTICS) and not found.unexpected_keys:
        return "pass strict=False to keep the layer's own, or make the layer with track_running_stats=False"
    if found.unexpected_keys and set(found.unexpected_keys) <= set(STATISTICS) and not found.missing_keys:
        return "pass strict=False to leave these out, or make the layer with track_running_stats=True"
    return "pass strict=False to load what fits"
