"""The command that compares two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .app import app, one_sentence, shown

if TYPE_CHECKING:
    from ..differing import Diff


@app.command()
@one_sentence
def diff(
    a: Annotated[Path, typer.Argument(help="Folder of a run (the --out of a sweep), or a Parquet file of rows.")],
    b: Annotated[Path, typer.Argument(help="Another one.")],
    limit: Annotated[int, typer.Option(help="Cells to print; --json has them all.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Say what made two runs different and which cells changed; status 0 if no cell did, 1 if one did."""
    from ..differing import diff as compare

    found = compare(a, b)
    if as_json:
        cells, conditions = (json.loads(part.to_json(orient="records")) for part in (found.cells, found.conditions))
        provenance = {field: {"a": values[0], "b": values[1]} for field, values in found.provenance.items()}
        print(json.dumps({"same": found.same, "provenance": provenance, "conditions": conditions, "cells": cells}))
    else:
        _print(found, limit)
    if not found.same:
        raise typer.Exit(1)


def _print(found: Diff, limit: int) -> None:
    console = Console(highlight=False)

    def table(*head: str, rows: list[list[Any]]) -> None:
        lines = Table(*head, box=None, header_style="bold")
        for row in rows:
            lines.add_row(*(Text(shown(cell)) for cell in row))
        console.print(lines)

    if found.provenance:
        values = [[field, *(", ".join(map(str, v)) or "not recorded" for v in pair)]
                  for field, pair in found.provenance.items()]  # fmt: skip
        table("made with", "a", "b", rows=values)
    else:
        console.print("both were made with the same")
    counts = found.conditions.round(3).to_numpy().tolist()
    table("condition", "cells", "score", "answer", "only in a", "only in b", "mean a", "mean b", rows=counts)
    if found.same:
        console.print("no cell differs")
        return
    for cell in found.cells.head(limit).fillna("").to_dict("records"):
        head = f"{cell['condition']}, prompt {cell['prompt']} ({cell['length']} tokens, depth {cell['depth']}): "
        console.print(Text(shown(head + cell["change"]), style="bold"), soft_wrap=True)
        for side in "ab":
            line = f"  {side}: {cell[f'score_{side}']}  {cell[f'answer_{side}']}"
            console.print(Text(shown(line)), soft_wrap=True)
    if len(found.cells) > limit:
        console.print(f"and {len(found.cells) - limit} more (--limit, --json)")
