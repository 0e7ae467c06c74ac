"""Commands that run needles in haystacks."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import HybretError, printable
from .app import app, numbers, one_sentence

if TYPE_CHECKING:
    import pandas as pd

    from ..prompts import Needle


@app.command()
@one_sentence
def sweep(
    model: Annotated[str, typer.Option(help="Name, Hugging Face id or folder (see `hybret models`).")] = "griffin-tiny",
    k: Annotated[list[int] | None, typer.Option(help="Heads kept per layer; repeat for several. Default: all.")] = None,
    during: Annotated[
        str, typer.Option(help="When heads are dropped: generation, prefill, or both (the paper's prefill version).")
    ] = "generation",
    recipe: Annotated[
        str, typer.Option(help="CORRECTED (the paper's text) or PAPER (the authors' code).")
    ] = "CORRECTED",
    template: Annotated[str, typer.Option(help="base, instruct or jrt.")] = "base",
    lengths: Annotated[
        str, typer.Option(help="How many prompt lengths, or labels in tokens: 128,256 (one: 128,).")
    ] = "10",
    depths: Annotated[str, typer.Option(help="How many needle depths, or per cents: 0,50,100 (one: 50,).")] = "10",
    limit: Annotated[int | None, typer.Option(help="Only so many prompts, drawn from the grid with the seed.")] = None,
    haystack: Annotated[str, typer.Option(help="'embedded', 'essays' or a folder of .txt files.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Which embedded haystack.")] = 0,
    needle: Annotated[str | None, typer.Option(help="A sentence to hide instead of the paper's.")] = None,
    question: Annotated[str | None, typer.Option(help="The question that asks for it.")] = None,
    keywords: Annotated[
        str | None, typer.Option(help="Words of it that earn part of the points: 'poplar,iris castle'.")
    ] = None,
    control: Annotated[bool, typer.Option(help="Also run the prompts without the needle: the floor.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the rows (Parquet); a second run resumes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    rows_per_batch: Annotated[int | None, typer.Option(help="Rows that decode together. Default: what fits.")] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: one batch at a time to each worker of a cluster.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Ray: host:port of the head node, or auto.")] = None,
    workers: Annotated[int | None, typer.Option(help="Ray: processes that hold the model. Default: what fits.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(help="Ray: default 1, or 0 without GPUs.")] = None,
) -> None:
    """Needle-in-a-haystack accuracy with only the k most focused heads of every attention layer."""
    from .. import niah
    from ..cluster import Ray
    from ..engine.batches import Budget, budget_of, longest_prompt
    from ..interventions import KeepHeads
    from ..models import load
    from ..prompts import CONTROL
    from ..recipe import recipe as find_recipe
    from ..sweeping import sweep as run
    from ..tables import accuracy, floor

    chosen = find_recipe(recipe)
    if template not in niah.TEMPLATES:
        raise HybretError(f"unknown template {template!r}; choose one of {', '.join(niah.TEMPLATES)}")
    if limit is not None and limit < 1:
        raise HybretError(f"limit is {limit}; give at least 1 prompt")
    sizes = {"lengths": numbers("lengths", lengths), "depths": numbers("depths", depths)}
    if k and len(set(k)) < len(k):
        raise HybretError(f"--k {', '.join(map(str, k))} names a number of heads twice; give each one once")
    for heads in k or []:
        KeepHeads(heads, during=during)  # type: ignore[arg-type]  # checked by the value itself, before loading
    KeepHeads(0, during=during)  # type: ignore[arg-type]
    if engine not in ("local", "ray"):
        raise HybretError(f"unknown engine {engine!r}; choose local or ray")
    if engine == "local" and (address, workers, gpus_per_worker) != (None, None, None):
        raise HybretError("address, workers and gpus-per-worker are for --engine ray")
    if rows_per_batch is not None and rows_per_batch < 1:
        raise HybretError(f"rows-per-batch is {rows_per_batch}; give at least 1 row")
    hidden = _needle(needle, question, keywords)
    # Here a text is meant as a folder; a missing one is said before the model is loaded.
    text = haystack if haystack in ("embedded", "essays", "") else Path(haystack)
    niah.load_haystack(text, seed)
    cluster = Ray(address, workers, gpus_per_worker) if engine == "ray" else None
    subject = (cluster.load if cluster else load)(model, device=device, dtype=dtype)
    budget = Budget(rows_per_batch, budget_of(subject, longest_prompt(subject)).tokens) if rows_per_batch else None
    kept = k if k else range(subject.heads + 1)
    conditions = {c.label: c for c in (KeepHeads(n, during=during) for n in kept)}  # type: ignore[arg-type]
    options: dict[str, Any] = {"template": template, "haystack": text, "seed": seed, "needle": hidden, "recipe": chosen}
    options |= sizes
    prompts = niah.grid(subject, **options)
    if limit is not None and limit < len(prompts):
        prompts = [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]
    if control:
        prompts += niah.grid(subject, control=True, **options)
    shown = sys.stderr.isatty()
    rows = run(subject, prompts, conditions, chosen, out, budget=budget, progress=shown, engine=cluster or "local")
    summary = _summary(accuracy(rows[rows.needle != CONTROL], by=["condition"], seed=seed), conditions)
    if control:
        floors = _summary(floor(rows, by=["condition"]), conditions)
        for name, found in summary.items():
            found["floor"] = floors[name]["accuracy"]
    if as_json:
        print(json.dumps(summary))
        return
    table = Table("condition", "accuracy", "95 % interval", "exact", "n", *(["floor"] if control else []), box=None)
    for name, found in summary.items():
        low, high = found["ci95"]
        ground = [f"{found['floor']:.1%}"] if control else []
        table.add_row(name, f"{found['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", f"{found['exact']:.1%}",
                      str(found["n"]), *ground)  # fmt: skip
    head = f"{subject.name}, recipe {chosen.name}, template {template}, {subject.dtype} on {subject.device}"
    Console().print(printable(head), markup=False)
    Console().print(table)


def _needle(sentence: str | None, question: str | None, keywords: str | None) -> Needle:
    """The needle of three options, named after its sentence; without any of them the paper's."""
    from ..haystack import sha256
    from ..prompts import PAPER_NEEDLE, Needle

    if (sentence, question, keywords) == (None, None, None):
        return PAPER_NEEDLE
    if sentence is None or question is None:
        raise HybretError("a needle of your own is --needle SENTENCE and --question QUESTION; give both, or neither")
    words = tuple(word.strip() for word in keywords.split(",")) if keywords is not None else ()
    return Needle(f"needle-{sha256(sentence.encode())[:8]}", sentence, question, words)


def _summary(table: pd.DataFrame, conditions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Condition to accuracy, exact share, n and interval, in the order asked for."""
    found = table.set_index("condition")
    return {
        name: {
            "accuracy": round(float(found.accuracy[name]), 6),
            "exact": round(float(found.exact[name]), 6),
            "n": int(found.n[name]),
            "ci95": [round(float(found.low[name]), 6), round(float(found.high[name]), 6)],
        }
        for name in conditions
    }
