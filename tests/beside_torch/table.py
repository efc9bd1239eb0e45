"""The rows of the table beside PyTorch's modules, and the table as Markdown.

A row is a function that takes the module `torch` and shows by numbers (or by what both raise) that the row is so.
"""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

PATH = Path(__file__).parents[2] / "docs" / "layers.md"
BEGIN, END = "<!-- beside-torch:begin -->\n", "<!-- beside-torch:end -->"
COMMAND = "python -m tests.test_layers_beside_torch"

SAME = "the same"

TOPICS = (
    "Making a layer",
    "Training and evaluation",
    "Backward passes",
    "Parameters and gradients",
    "States and copies",
    "A batch in parts",
)


class Row(NamedTuple):
    topic: str
    what: str
    theirs: str
    ours: str
    verdict: str
    shows: Callable[[Any], None]


ROWS: list[Row] = []


def topic(name):
    """A decorator for the functions that show the rows of this topic."""

    def row(what, theirs, ours, verdict=SAME):
        def register(shows):
            ROWS.append(Row(name, what, theirs, ours, verdict, shows))
            return shows

        return register

    return row


def as_markdown():
    rows = sorted(ROWS, key=lambda row: TOPICS.index(row.topic))
    return "\n".join(part for name, of_it in groupby(rows, lambda row: row.topic) for part in _of_topic(name, of_it))


def _of_topic(name, rows):
    yield f"### {name}\n"
    yield "| | PyTorch | numbanorm | compared |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row.what} | {row.theirs} | {row.ours} | {row.verdict} |"
    yield ""


def in_file():
    """The table as it stands in the documentation."""
    return PATH.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def rewrite():
    """Put the table of the rows into the documentation."""
    before, begin, rest = PATH.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PATH}: must have the lines {BEGIN.strip()} and {END}")
    PATH.write_text(before + begin + as_markdown() + end + after, encoding="utf-8")
