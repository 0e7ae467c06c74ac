"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybret.errors import printable

shown = partial(printable, squeeze=False)


def show(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Print a table, foreign text made printable; where it is too wide, cells break between words and within none."""
    lines, table, console = [[*map(shown, row)] for row in rows], Table(box=None), Console(highlight=False)
    columns = [*zip(head, *lines, strict=True)]
    widths = [max(cell_len(word) for cell in column for word in [*cell.split(), ""]) for column in columns]
    spare = console.width - sum(widths) - 2 * len(widths)
    for column, width in zip(columns, widths, strict=True):
        more = min(max(spare, 0), max(map(cell_len, column)) - width)
        table.add_column(column[0], width=width + more)
        spare -= more
    for line in lines:
        table.add_row(*map(Text, line))
    console.width -= min(spare, 0)
    console.print(table)
