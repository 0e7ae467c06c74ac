"""Commands that measure: speed, exactness, what a run would take."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hybret.cli.app import app, numbers, one_sentence, say
from hybret.errors import HybretError


@app.command()
@one_sentence
def bench(
    model: Annotated[str, typer.Option(help="Name, Hugging Face id or folder (see `hybret models`).")] = "griffin-tiny",
    weights: Annotated[
        str, typer.Option(help="checkpoint; or random: one of the paper's models at full size, nothing downloaded.")
    ] = "checkpoint",
    what: Annotated[
        list[str] | None,
        typer.Option(help="figure2 or manipulation; repeatable. Default: both."),
    ] = None,
    lengths: Annotated[str, typer.Option(help="How many prompt lengths, or labels in tokens.")] = "10",
    depths: Annotated[str, typer.Option(help="How many needle depths, or per cents.")] = "10",
    stock_prompts: Annotated[int, typer.Option(help="Prompts that the stock path answers.")] = 5,
    stock_conditions: Annotated[int, typer.Option(help="Conditions that the stock path answers.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[str | None, typer.Option(help="auto or balanced: spread the model over all GPUs.")] = None,
) -> None:
    """Time whole sweeps against transformers' own path in the same run, and compare their tokens."""
    from book.speed.bench import SWEEPS
    from book.speed.bench import bench as measure
    from hybret.models import load

    sweeps = what or [*SWEEPS]
    if unknown := [name for name in sweeps if name not in SWEEPS]:
        raise HybretError(f"unknown benchmark {unknown[0]!r}; choose from {', '.join(SWEEPS)}")
    if stock_prompts < 1 or stock_conditions < 1:
        raise HybretError("the stock path must answer at least one prompt under at least one condition")
    sizes: dict[str, Any] = {"lengths": numbers("lengths", lengths), "depths": numbers("depths", depths)}
    subject = load(model, device=device, dtype=dtype, weights=weights, device_map=device_map)
    found = measure(subject, sweeps, **sizes, stock_prompts=stock_prompts, stock_conditions=stock_conditions, say=say)
    if as_json:
        print(json.dumps(found))
        return
    table = Table("sweep", "seconds", "stock path", "ratio", "tokens identical", "memory GiB", "stock GiB", box=None)
    for name in sweeps:
        part, stock = found[name], found[name]["stock"]
        same = f"{part['answers_identical']} of {part['answers_compared']}"
        table.add_row(name, f"{part['seconds']:.1f}", f"{stock['seconds']:.0f} (from {stock['answers']} answers)",
                      f"{part['ratio']:.1f}", same, str(part["memory_gib"]), str(stock["memory_gib"]))  # fmt: skip
    Console().print(table)


@app.command()
@one_sentence
def verify(
    name: Annotated[str | None, typer.Argument(metavar="[--model] MODEL", hidden=True)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name, Hugging Face id, folder, or family such as bamba (tiny, random). Default: griffin-tiny."
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Length of the prompt. Default: past the window.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32; bfloat16 and float16 tell gross errors only.")] = "float32",
) -> None:
    """Check on a model what hybret rests on, and print the measured errors; status 1 if a check fails."""
    from hybret.verifying import FAIL, shown
    from hybret.verifying import verify as check

    if name is not None and model is not None:
        raise HybretError(f"verify is given two models, {name!r} and {model!r}; give one, with --model or without")
    chosen = name if model is None else model
    found = check("griffin-tiny" if chosen is None else chosen, tokens, device, dtype, sys.stderr.isatty())
    if as_json:
        print(found.to_json(orient="records"))
    else:
        Console(highlight=False).print(shown(found))
    failed = (found["verdict"] == FAIL).any()
    if failed:
        raise typer.Exit(1)
