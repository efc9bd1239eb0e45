"""The floors of the house: a module imports from its own floor and from those below, and no import closes a circle."""

import ast
from fnmatch import fnmatchcase
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import numbanorm
from numbanorm._operations import OPERATIONS

PACKAGE = Path(numbanorm.__file__).parent

FLOORS = [  # from the ground up: names below the package; of those that fit a module, the longest decides
    ["_types", "_version"],
    ["cpu.compiling*"],
    ["_math"],
    ["cpu.engine*", "cpu.vectors*", "cuda", "cuda.compiling", "cuda.cubins", "cuda.launch", "cuda.vectors*"],
    ["_states", "cpu.kernels*", "cuda.kernels*", "cuda.grids"],
    ["cpu.layouts", "cpu.rescaled"],
    ["cpu*", "cuda.*"],  # launchers
    ["_call*", "cuda.libraries"],
    ["_scaling*"],
    ["*"],  # public functions
    ["layers*"],
    ["_operations"],
    ["__init__", "_info", "_warmup", "__main__"],
]


def modules():
    """The name, below the package, of each module, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts), path


def imported(path, names):
    """What a file imports of the package when it is itself imported."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    later = {node for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in later and (node.module or "").startswith("numbanorm"):
            package = node.module.removeprefix("numbanorm").removeprefix(".")
            for alias in node.names:
                below = f"{package}.{alias.name}".removeprefix(".")
                yield below if below in names else package


def floor_of(name):
    return max((len(place), i) for i, floor in enumerate(FLOORS) for place in floor if fnmatchcase(name, place))[1]


@cache
def graph():
    names = dict(modules())
    return {name: {other for other in imported(path, names) if other != name} for name, path in names.items()}


def test_no_import_runs_to_a_higher_floor():
    found = [(name, other) for name, others in graph().items() for other in others]
    assert len(found) > 200
    assert [(name, other) for name, other in found if floor_of(other) > floor_of(name)] == []


def test_no_import_closes_a_circle():
    assert len([*TopologicalSorter(graph()).static_order()]) > 50  # it raises if there is one


def test_what_runs_on_a_device_is_reached_through_calls():
    """Above the launchers, only `_call` imports them. What others import of a device has nothing of an operation."""
    found = {}
    for name, others in graph().items():
        if name.partition(".")[0] not in ("cpu", "cuda", "_call"):
            for other in others:
                if other.partition(".")[0] in ("cpu", "cuda"):
                    found.setdefault(name, set()).add(other)
    assert found == {
        "_math": {"cpu.compiling.jit"},
        "_scaling.device_tables": {"cuda.grids", "cuda.libraries"},
        "threads": {"cpu.engine.engines"},
        "_info": {"cpu.compiling.cache", "cpu.compiling.places", "cpu.engine.engines", "cpu.engine.machine"},
        "__main__": {"cpu.compiling.cache", "cpu.compiling.places"},
    }


def test_launchers_of_both_devices_have_the_same_stems():
    """A call on either device has them by these names."""
    hosts, devices = set(), set()
    for name, others in graph().items():
        if name == "_call.host":
            hosts = {other.removeprefix("cpu.") for other in others if floor_of(other) == floor_of("cpu.layernorm")}
        if name == "_call.device":
            devices = {other.removeprefix("cuda.") for other in others if floor_of(other) == floor_of("cuda.layernorm")}
    stems = {operation.family for operation in OPERATIONS.values()} | {"moments", "scalers"}
    assert hosts == devices == stems


def test_what_compiles_for_a_gpu_is_imported_in_one_place():
    """Numba and NVIDIA's packages by `numbanorm.cuda`; llvmlite by the vectors alone, which build instructions."""
    found = {}
    for name, path in modules():
        if name.partition(".")[0] == "cuda":
            for node in ast.walk(ast.parse(path.read_text())):
                imports = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                imports += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for package in {one.partition(".")[0] for one in imports} & {"numba", "cuda", "llvmlite"}:
                    found.setdefault(package, set()).add(name)
    assert found["numba"] == found["cuda"] == {"cuda"}
    assert {name.rpartition(".")[0] for name in found["llvmlite"]} == {"cuda.vectors"}
