"""A table of texts, for the terminal and for Markdown."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console


class Table(NamedTuple):
    """Columns after the first are numbers, and stand to the right."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def show(self, console: "Console") -> None:
        from rich.table import Table as RichTable  # Markdown needs no rich

        rich = RichTable(title=self.title, title_justify="left", title_style="bold")
        for i, name in enumerate(self.header):
            rich.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row in self.rows:
            rich.add_row(*row)
        console.print(rich)

    def markdown(self) -> str:
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (self.header, rule, *self.rows))
