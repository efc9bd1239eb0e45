"""Writes the measured tables into README.md, between its markers."""

import re
from pathlib import Path

from bench.tables import Table

README = Path(__file__).parents[1] / "README.md"


def write(section: str, tables: list[Table], machine: str, path: Path = README) -> None:
    """Replace what stands between ``<!-- section:begin -->`` and ``<!-- section:end -->``."""
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    blocks = [f"**{table.title}**\n\n{table.markdown()}" for table in tables]
    body = "\n\n".join([begin, *blocks, f"Measured on: {machine}.", end])
    text, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: body, path.read_text(), flags=re.DOTALL)
    if not found:
        raise ValueError(f"{path.name}: no markers {begin} and {end}")
    path.write_text(text)
