"""The floors of the house: a module imports from its own floor and from those below, and no import closes a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import numbanorm

PACKAGE = Path(numbanorm.__file__).parent

FLOORS = [  # from the ground up; a name stands for the modules in it, the longest name that fits decides
    ["_types", "_version"],
    ["cpu", "cpu.compiling"],
    ["_math"],
    ["cpu.engine", "cpu.vectors", "cuda", "cuda.launch", "cuda.vectors"],
    ["_states", "cpu.kernels", "cuda.kernels", "cuda.grids"],
    ["cpu.layouts", "cpu.rescaled"],
    [
        "cpu.batchnorm",
        "cpu.batchnorm_halves",
        "cpu.layernorm",
        "cpu.rmsnorm",
        "cuda.batchnorm",
        "cuda.batchnorm_halves",
        "cuda.layernorm",
        "cuda.moments",
        "cuda.scalers",
    ],
    ["_call", "cuda.libraries"],
    ["_scaling"],
    ["batchnorm", "batchnorm_halves", "layernorm", "moments", "rmsnorm", "scalers", "threads"],
    ["layers"],
    ["_operations"],
    ["_info", "_warmup", "__main__", ""],
]


def modules():
    """The name, below the package, of each module, and its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imported(path, names):
    """What a file imports of the package when it is itself imported."""
    tree = ast.parse(path.read_text())
    inside = {
        node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in inside and (node.module or "").startswith("numbanorm"):
            package = node.module.removeprefix("numbanorm").removeprefix(".")
            for alias in node.names:
                below = f"{package}.{alias.name}".removeprefix(".")
                yield below if below in names else package


def floor_of(name):
    fitting = [
        (len(place), i) for i, floor in enumerate(FLOORS) for place in floor if f"{name}.".startswith(f"{place}.")
    ]
    return max(fitting)[1] if name else len(FLOORS) - 1


def graph():
    names = dict(modules())
    return {name: {other for other in imported(path, names) if other != name} for name, path in names.items()}


def test_no_import_runs_to_a_higher_floor():
    wrong = [(name, other) for name, others in graph().items() for other in others if floor_of(other) > floor_of(name)]
    assert wrong == []


def test_no_import_closes_a_circle():
    assert len([*TopologicalSorter(graph()).static_order()]) > 50  # it raises if there is one


def test_each_module_stands_on_a_floor_that_names_it():
    assert [
        name
        for name, _ in modules()
        if name and not any(f"{name}.".startswith(f"{place}.") for floor in FLOORS for place in floor if place)
    ] == []
