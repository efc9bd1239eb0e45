"""Writes the measured tables into README.md, between its markers."""

import re

from bench.environment import ROOT
from bench.tables import Table


def write(section: str, tables: list[Table], machine: str) -> None:
    """Replace what stands between ``<!-- section:begin -->`` and ``<!-- section:end -->``."""
    path = ROOT / "README.md"
    begin, end = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    blocks = [f"**{table.title}**\n\n{table.markdown()}" for table in tables]
    body = "\n\n".join([begin, *blocks, f"Measured on: {machine}.", end])
    text, found = re.subn(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: body, path.read_text(), flags=re.DOTALL)
    if not found:
        raise ValueError(f"README.md: no markers {begin} and {end}")
    path.write_text(text)
