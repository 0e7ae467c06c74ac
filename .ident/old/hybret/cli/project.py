"""Commands around the experiments: models, data, the book, training."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ..errors import HybretError
from .app import app, one_sentence, say


@app.command()
@one_sentence
def models() -> None:
    """List the models that can be named, and what each needs."""
    from .. import presets
    from ..families import FAMILIES
    from ..sources import organisms

    table = Table("name", "what", "where", box=None, header_style="bold")
    for name in organisms():
        table.add_row(name, "organism, trained by this project", "shipped")
    for name in (*presets.RANDOM_MODELS, *FAMILIES):
        table.add_row(name, "tiny, random weights, for trying the code", "made on the spot")
    for name, title in presets.PAPER_MODELS.items():
        table.add_row(name, f"{title}, studied in the paper", "Hugging Face")
    Console().print(table)


@app.command()
@one_sentence
def fetch(
    what: Annotated[
        str, typer.Argument(help="glue, mmlu, essays, or a model on Hugging Face: owner/name or owner/name@revision.")
    ],
) -> None:
    """Download what runs need, once: a model's weights, a benchmark's data, the essays. Goes on where it stopped."""
    from .. import essays, fetching, snapshots

    bars = sys.stderr.isatty()
    if what == "essays":
        print(essays.fetch(progress=bars))
    elif what in fetching.SOURCES:
        print(fetching.fetch(what, say=say))
    elif "/" in what:
        print(snapshots.fetch(what, progress=bars, say=say))
    else:
        known = ", ".join(["essays", *fetching.SOURCES])
        raise HybretError(f"there is nothing to fetch for {what!r}; give {known} or a Hugging Face id (owner/name)")


@app.command()
@one_sentence
def book(
    model: Annotated[str | None, typer.Option(help="Run every notebook on this model, beside the book's runs.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this notebook and those it needs; repeatable.")] = None,
    force: Annotated[bool, typer.Option(help="Run although nothing changed.")] = False,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time; they share the cores.")] = 2,
    publish: Annotated[
        bool, typer.Option(help="With --model: put its runs into book/published, where the book shows them.")
    ] = False,
) -> None:
    """Run the notebooks that changed and build the book."""
    from ..book import BuildError, build

    try:
        build(model=model, only=only, force=force, jobs=jobs, publish=publish)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train an organism from scratch (see `hybret train --help`)."""
    from ..organisms.train import main

    raise typer.Exit(main(context.args))
