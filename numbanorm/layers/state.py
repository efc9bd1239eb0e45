"""States of layers: their keys are PyTorch's, and loading copies all arrays or none."""

from collections.abc import Iterable, Mapping, Set
from itertools import starmap
from operator import setitem
from typing import Any, NamedTuple

from numbanorm._types import Array
from numbanorm.layers import arguments as layer_arguments

COUNT = "num_batches_tracked"  # which PyTorch has had since version 0.4.1
STATISTICS = "running_mean", "running_var", COUNT
MOST_KEYS = 12  # of a list in a message


class LoadedKeys(NamedTuple):
    """The keys of a layer that a state lacked, and the keys of the state that the layer does not know."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(current: Mapping[str, Array], state: Any, strict: bool, prefix: str) -> LoadedKeys:
    """Copy arrays in. All are checked before any is copied."""
    given = _without_prefix(state, prefix)
    found = _compared(current, given)
    if strict and (found.missing_keys or found.unexpected_keys):
        at = f" after the prefix {prefix!r}" if prefix else ""
        advice = _advice(current, given, found, {str(key) for key in state})
        raise KeyError(f"state: {_difference(current, given, found, at)}: {advice}")
    pairs = [
        (current[key], ..., layer_arguments.converted(f"state[{prefix + key!r}]", given[key], current[key]))
        for key in current
        if key in given
    ]
    list(starmap(setitem, pairs))  # no signal comes between
    return LoadedKeys(*([prefix + key for key in keys] for keys in found))


def _without_prefix(state: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: {type(prefix).__qualname__}, must be a str")
    if not isinstance(state, Mapping):
        raise TypeError(f"state: {type(state).__qualname__}, must be a mapping from names to arrays")
    # Of a file that reads an array when it is asked for, only those of this layer are read.
    return {str(key).removeprefix(prefix): state[key] for key in state if str(key).startswith(prefix)}


def _compared(current: Iterable[str], given: Mapping[str, Any]) -> LoadedKeys:
    """Compare the keys of a layer and of a state.

    A state of statistics without a count of batches is one of an old PyTorch. It lacks nothing: the layer's count
    stays.
    """
    missing = [key for key in current if key not in given]
    if missing == [COUNT]:
        missing = []
    return LoadedKeys(missing, [key for key in given if key not in current])


def _difference(current: Mapping[str, Any], given: Mapping[str, Any], found: LoadedKeys, at: str) -> str:
    about = [f"{what} {_listed(keys)}" for what, keys in zip(("lacks", "has beside them"), found, strict=True) if keys]
    return f"keys {_listed(given)}{at}, must be {_listed(current)}; it {' and '.join(about)}"


def _listed(keys: Iterable[str]) -> str:
    found = sorted(keys)
    return f"{found[:MOST_KEYS]}" + (f" and {len(found) - MOST_KEYS} more" if len(found) > MOST_KEYS else "")


def _advice(current: Mapping[str, Any], given: Mapping[str, Any], found: LoadedKeys, keys: Set[str]) -> str:
    missing, unexpected, statistics = {*found.missing_keys}, {*found.unexpected_keys}, {*STATISTICS}
    if missing and (prefixes := _prefixes(current, keys)):
        return f"pass prefix={prefixes[0]!r}" + (f", or another of {_listed(prefixes)}" if len(prefixes) > 1 else "")
    if missing and current.keys().isdisjoint(given):
        return "nothing in it is of such a layer; pass another state"
    if missing == statistics and not unexpected:
        return "pass strict=False to keep the layer's own, or make the layer with track_running_stats=False"
    if not missing and unexpected in (statistics, statistics - {COUNT}):
        return "pass strict=False to leave these out, or make the layer with track_running_stats=True"
    return "pass strict=False to load what fits"


def _prefixes(current: Iterable[str], keys: Set[str]) -> list[str]:
    """Return the prefixes with which a state has all the keys that such a layer needs."""
    first, *others = (key for key in current if key != COUNT)
    found = {key.removesuffix(first) for key in keys if key.endswith(first)}
    return sorted(prefix for prefix in found if all(prefix + other in keys for other in others))
