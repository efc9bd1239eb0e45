"""The table of the layers beside PyTorch's modules: each row is so, and the documentation has them all.

``python -m tests.test_layers_beside_torch`` writes the table in docs/layers.md anew.
"""

import inspect
import re

import pytest

from numbanorm import BatchNorm, LayerNorm
from tests.beside_torch import construction, modes, parameters, parts, passes, states, table

MODULES = construction, parameters, modes, passes, parts, states


@pytest.mark.parametrize("row", table.ROWS, ids=lambda row: row.shows.__name__)
def test_row(row):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    row.shows(torch)


def test_the_documentation_has_the_rows():
    assert table.in_file() == table.as_markdown(), f"run {table.COMMAND}"


def test_no_function_of_a_row_is_lost_behind_another_of_its_name():
    for module in MODULES:
        shown = [row.shows for row in table.ROWS if row.shows.__module__ == module.__name__]
        assert shown
        assert [getattr(module, function.__name__) for function in shown] == shown


@pytest.mark.parametrize("made", [LayerNorm(5), BatchNorm(3)], ids=["LayerNorm", "BatchNorm"])
def test_each_option_and_method_is_in_the_table(made):
    assert_named([name for name in dir(made) if not name.startswith("_") and name != "forward"])  # layer(x)
    assert_named(inspect.signature(type(made)).parameters)


@pytest.mark.parametrize("name", ["LayerNorm", "BatchNorm1d", "BatchNorm2d", "SyncBatchNorm"])
def test_each_option_of_pytorch_is_in_the_table(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    assert_named(inspect.signature(getattr(torch.nn, name)).parameters)


def assert_named(names):
    written = {*re.findall(r"\w+", " ".join(re.findall(r"`(.*?)`", table.as_markdown())))}
    assert sorted({*names} - written) == []


if __name__ == "__main__":
    table.rewrite()
