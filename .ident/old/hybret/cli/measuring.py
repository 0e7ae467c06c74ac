"""Commands that measure: speed, exactness, what a run would take."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import HybretError
from .app import app, numbers, one_sentence, say

MORE = ("scaling", "long")  # what `bench` measures beside whole sweeps
LONG = (16384, 32768, 65536, 131072)


@app.command()
@one_sentence
def bench(
    model: Annotated[str, typer.Option(help="Name, Hugging Face id or folder (see `hybret models`).")] = "griffin-tiny",
    weights: Annotated[
        str, typer.Option(help="checkpoint; or random: one of the paper's models at full size, nothing downloaded.")
    ] = "checkpoint",
    what: Annotated[
        list[str] | None,
        typer.Option(help="figure2, manipulation, scaling or long; repeatable. Default: the first two."),
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
    from ..bench import SWEEPS
    from ..bench import bench as measure
    from ..bench.long import long_maps
    from ..bench.scaling import scaling
    from ..models import device_of, load

    asked = what or [*SWEEPS]
    if unknown := [name for name in asked if name not in (*SWEEPS, *MORE)]:
        raise HybretError(f"unknown benchmark {unknown[0]!r}; choose from {', '.join([*SWEEPS, *MORE])}")
    if stock_prompts < 1 or stock_conditions < 1:
        raise HybretError("the stock path must answer at least one prompt under at least one condition")
    sizes: dict[str, Any] = {"lengths": numbers("lengths", lengths), "depths": numbers("depths", depths)}

    found: dict[str, Any] = {}
    if sweeps := [name for name in asked if name in SWEEPS]:
        subject = load(model, device=device, dtype=dtype, weights=weights, device_map=device_map)
        sizes |= {"stock_prompts": stock_prompts, "stock_conditions": stock_conditions}
        found = measure(subject, sweeps, **sizes, say=say)
    if "long" in asked:
        subject = load(model, device=device, dtype=dtype, weights=weights, device_map=device_map)
        labels = sizes["lengths"] if isinstance(sizes["lengths"], list) else LONG
        found["long"] = long_maps(subject, labels, sizes["depths"], say=say)
    if "scaling" in asked:
        found["scaling"] = scaling(device=device_of(device), say=say)
    if as_json:
        print(json.dumps(found))
        return
    table = Table("sweep", "seconds", "stock path", "ratio", "tokens identical", "memory GiB", "stock GiB", box=None)
    for name in sweeps:
        part, stock = found[name], found[name]["stock"]
        same = f"{part['answers_identical']} of {part['answers_compared']}"
        table.add_row(name, f"{part['seconds']:.1f}", f"{stock['seconds']:.0f} (from {stock['answers']} answers)",
                      f"{part['ratio']:.1f}", same, str(part["memory_gib"]), str(stock["memory_gib"]))  # fmt: skip
    for row in found.get("scaling", {}).get("rows", []):
        table.add_row(
            f"{row['path']}, {row['tokens']} tokens", f"{row['seconds']:.4f}", "", "", "", str(row["extra_gib"])
        )
    for row in found.get("long", {}).get("rows", []):
        what_ran = f"{row['conditions']} conditions, {row['tokens']} tokens"
        table.add_row(what_ran, f"{row['seconds']:.1f}", "", "", "", str(row["memory_gib"]))
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
    from ..verifying import FAIL, shown
    from ..verifying import verify as check

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


@app.command()
@one_sentence
def plan(
    model: Annotated[str, typer.Option(help="Name, Hugging Face id or folder (see `hybret models`).")] = "griffin-tiny",
    notebook: Annotated[str, typer.Option(help="sparsification or manipulation.")] = "sparsification",
    on: Annotated[str, typer.Option(help="h100, h200 or cpu.")] = "h100",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    lengths: Annotated[int, typer.Option(help="How many prompt lengths.")] = 10,
    depths: Annotated[int, typer.Option(help="How many needle depths.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Estimate a notebook's time and memory on a model, without building it."""
    from ..planning import plan as estimate
    from ..planning import shown

    found = estimate(model, notebook, on, dtype, lengths, depths)
    if as_json:
        print(json.dumps({**found.attrs, "sweeps": found.to_dict("records")}))
        return
    Console(highlight=False).print(shown(found))
