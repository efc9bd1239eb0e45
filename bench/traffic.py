"""How many bytes the CUDA kernels move, beside the fewest that they could: counted as `tests.traffic` says."""

from bench.environment import append
from bench.tables import Table
from tests.traffic import CASES, Case, moved


def table() -> Table:
    """Of all cases."""
    rows = [[case.operation, _named(case), f"{moved(case):.3f}"] for case in CASES]
    return Table(
        "Bytes moved over the fewest, float32, compute capability 8.0", ["operation", "x", "moved / fewest"], rows
    )


def save(table: Table):
    """A row per case; returns the path."""
    return append("traffic", [dict(zip(table.header, row, strict=True)) for row in table.rows])


def _named(case: Case) -> str:
    place = ", channels last" if case.axis == -1 else ", channels first"
    return " x ".join(map(str, case.shape)) + (place if len(case.shape) > 2 else "")
