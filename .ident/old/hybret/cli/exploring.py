"""The command that shows a stored run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app, one_sentence, shown


@app.command()
@one_sentence
def explore(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, as `hybret sweep --out` wrote it, or one that holds several.")
    ],
    haystack: Annotated[
        str | None, typer.Option(help="The folder of .txt files that the sweep had, for the text around the needle.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write. Default: explorer.html in that folder.")] = None,
) -> None:
    """Write the retrieval maps of a stored run as one page that needs neither kernel nor network; print its path."""
    from ..explorer.maps import explore as view
    from ..explorer.maps import rows_of

    print(shown(view(rows_of(run), haystack=haystack).save(out or run / "explorer.html")))
