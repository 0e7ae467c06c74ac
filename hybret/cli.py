"""The command `hybret`: a thin layer over the package."""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text
from typer import Argument, Option

import hybret as hb
from hybret.errors import HybretError, one_of, printable
from hybret.terminal import show, shown

app = typer.Typer(
    help="In hybrid language models, which part does the retrieving? Run the experiments and build the book.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# What an interrupted command leaves for its next run.
KEPT = {"sweep": "with --out, finished answers are", "book": "finished notebooks are", "fetch": "finished files are"}

During = Literal["generation", "prefill", "both"]
ModelName = Annotated[str, Option(help="Name, Hugging Face id or folder (see `hybret models`).")]
Device = Annotated[str, Option(help="auto, cpu, cuda, ...")]
DType = Annotated[str, Option(help="auto, float32, bfloat16 or float16.")]
Json = Annotated[bool, Option("--json", help="Print one JSON object instead of a table.")]
Lengths = Annotated[str, Option(help="How many prompt lengths, or labels in tokens: 128,256 (one: 128,).")]
Depths = Annotated[str, Option(help="How many needle depths, or per cents: 0,50,100 (one: 50,).")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A command of the application: a `HybretError` ends in its sentence and status, Ctrl-C in status 130.

    A warning is one line on stderr, without the place in the code that Python adds.
    """

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_, **__: say(f"warning: {message}")
                function(*args, **kwargs)
        except HybretError as error:
            say(f"error: {error}")
            raise typer.Exit(error.status) from None
        except ModuleNotFoundError as missing:  # the wheel holds the library alone
            if (missing.name or "").partition(".")[0] != "book":
                raise
            say("error: this command needs a clone of the project; run it there, after `pip install -e '.[book]'`")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say(f"interrupted: {KEPT.get(function.__name__, 'nothing is')} kept; the same command computes the rest")
            raise typer.Exit(130) from None

    return app.command()(run)


def say(line: str) -> None:
    """Progress, on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def report(result: Any, as_json: bool, head: Iterable[str], rows: Iterable[Iterable[Any]], title: str) -> None:
    """The result of a command as one JSON object, or as a table below its title."""
    if as_json:
        print(json.dumps(result))
    else:
        Console(highlight=False).print(printable(title), markup=False)
        show(head, rows)


def numbers(name: str, text: str) -> int | list[int]:
    """A count of lengths or depths, or a list of them separated by commas."""
    try:
        values = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise HybretError(f"{name} is {text!r}; give a count such as 10, or values such as 50,100") from None
    return values if "," in text else values[0]


@command
def sweep(
    model: ModelName = "griffin-tiny",
    k: Annotated[list[int] | None, Option(min=0, help="Heads kept per layer; repeatable. Default: all.")] = None,
    during: Annotated[During, Option(help="When heads are dropped; both: the paper's prefill version.")] = "generation",
    recipe: Annotated[Literal["CORRECTED", "PAPER"], Option(help="The paper's text, or its code.")] = "CORRECTED",
    template: Annotated[Literal["base", "instruct", "jrt"], Option(help="base, instruct or jrt.")] = "base",
    lengths: Lengths = "10",
    depths: Depths = "10",
    limit: Annotated[int | None, Option(min=1, help="Only so many prompts, drawn from the grid with the seed.")] = None,
    haystack: Annotated[str, Option(help="embedded, britannica, essays or a folder of .txt.")] = "embedded",
    seed: Annotated[int, Option(help="Which embedded haystack.")] = 0,
    needle: Annotated[str | None, Option(help="A sentence to hide instead of the paper's.")] = None,
    question: Annotated[str | None, Option(help="The question that asks for it.")] = None,
    keywords: Annotated[str | None, Option(help="Words of it that earn points: 'poplar,iris castle'.")] = None,
    control: Annotated[bool, Option(help="Also run the prompts without the needle.")] = False,
    out: Annotated[Path | None, Option(help="Folder for the rows (Parquet); a second run resumes.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say how much there is to compute, and how long.")] = False,
    as_json: Json = False,
    device: Device = "auto",
    dtype: DType = "auto",
    rows_per_batch: Annotated[int | None, Option(min=1, help="Most rows of a batch. Default: what fits.")] = None,
    engine: Annotated[Literal["local", "ray"], Option(help="ray: batches go to the workers of a cluster.")] = "local",
    address: Annotated[str | None, Option(help="Ray: host:port of the head node, or auto.")] = None,
    workers: Annotated[int | None, Option(help="Ray: processes that hold the model. Default: what fits.")] = None,
    gpus_per_worker: Annotated[float | None, Option(help="Ray: default 1, or 0 without GPUs.")] = None,
) -> None:
    """Needle-in-a-haystack accuracy with only the k most focused heads of every attention layer."""
    from hybret.devices import Budget, budget_of
    from hybret.engine.decode import MAX_NEW_TOKENS
    from hybret.engine.schedule import estimated_seconds, schedule, workload
    from hybret.families import known_as
    from hybret.resolving import resolve
    from hybret.tasks.haystack import TEXTS

    if engine == "local" and (address, workers, gpus_per_worker) != (None, None, None):
        raise HybretError("address, workers and gpus-per-worker are for --engine ray")
    text = haystack if haystack in ("embedded", *TEXTS, "") else Path(haystack)
    options: dict[str, Any] = {
        "lengths": numbers("lengths", lengths), "depths": numbers("depths", depths), "template": template,
        "haystack": text, "seed": seed, "needle": _needle(needle, question, keywords), "recipe": recipe,
    }  # fmt: skip
    hb.niah.load_haystack(text, seed)  # a missing folder is an error before the model is loaded
    cluster: Any = hb.Ray(address, workers, gpus_per_worker) if engine == "ray" else "local"
    subject = hb.load(model, device=device, dtype=dtype)
    conditions = {c.label: c for c in (hb.KeepHeads(n, during=during) for n in k or range(subject.heads + 1))}
    prompts = hb.niah.grid(subject, **options)
    if limit is not None and limit < len(prompts):
        prompts = [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]
    if control:
        prompts += hb.niah.grid(subject, control=True, **options)
    fits = budget_of(subject)
    budget = Budget(rows_per_batch or fits.max_sequences, fits.max_tokens)
    head = f"{known_as(subject.name)}, recipe {recipe}, template {template}, {subject.dtype} on {subject.device}"
    if dry_run:
        chosen = hb.RECIPES[recipe]
        resolved = [resolve(condition, subject, chosen) for condition in conditions.values()]
        plan = schedule(subject, prompts, resolved, chosen, MAX_NEW_TOKENS, budget)
        work = workload(subject, plan) | {"estimated_seconds": round(estimated_seconds(subject, plan))}
        lines: list[list[Any]] = [[name.replace("_", " "), f"{value:,}"] for name, value in work.items()]
        report(work, as_json, ("to compute", ""), lines, head)
        return
    options = {"budget": budget, "progress": sys.stderr.isatty(), "engine": cluster}
    rows = hb.sweep(subject, prompts, conditions, recipe, out, **options)
    table: Any = hb.metrics.accuracy(rows, "condition", seed=seed).set_index("condition")
    floors: Any = hb.metrics.floor(rows, "condition").set_index("condition")["accuracy"] if control else {}
    summary, lines = dict[str, dict[str, Any]](), list[list[Any]]()
    for name in conditions:
        accuracy, exact, low, high = (round(float(table.loc[name, c]), 6) for c in ("accuracy", "exact", "low", "high"))
        n = int(table.loc[name, "n"])
        summary[name] = {"accuracy": accuracy, "exact": exact, "n": n, "ci95": [low, high]}
        lines.append([name, f"{accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{exact:.1%}", n])
        if control:
            summary[name]["floor"] = floor = round(float(floors[name]), 6)
            lines[-1].append(f"{floor:.1%}")
    columns = ("condition", "accuracy", "95 % interval", "exact", "n", *(["floor"] if control else []))
    report(summary, as_json, columns, lines, head)


def _needle(sentence: str | None, question: str | None, keywords: str | None) -> hb.Needle:
    """The needle of three options, named after its sentence; without any of them the paper's."""
    from hybret.files import digest

    if (sentence, question, keywords) == (None, None, None):
        return hb.PAPER_NEEDLE
    if sentence is None or question is None:
        raise HybretError("a needle of your own is --needle SENTENCE and --question QUESTION; give both, or neither")
    words = tuple(word.strip() for word in keywords.split(",")) if keywords is not None else ()
    return hb.Needle(f"needle-{digest(sentence, digits=8)}", sentence, question, words)


@command
def bench(
    model: ModelName = "griffin-tiny",
    weights: Annotated[Literal["checkpoint", "random"], Option(help="random: full size, no download.")] = "checkpoint",
    what: Annotated[list[str] | None, Option(help="figure2 or manipulation; repeatable. Default: both.")] = None,
    lengths: Lengths = "10",
    depths: Depths = "10",
    stock_prompts: Annotated[int, Option(min=1, help="Prompts that the stock path answers.")] = 5,
    stock_conditions: Annotated[int, Option(min=1, help="Conditions that the stock path answers.")] = 4,
    as_json: Json = False,
    device: Device = "auto",
    dtype: DType = "auto",
    device_map: Annotated[str | None, Option(help="auto or balanced: spread the model over all GPUs.")] = None,
) -> None:
    """Time whole sweeps against transformers' own path in the same run, and compare their tokens."""
    from book.speed import bench as measuring
    from hybret.families import known_as

    grid = numbers("lengths", lengths), numbers("depths", depths)
    stock = {"stock_prompts": stock_prompts, "stock_conditions": stock_conditions}
    sweeps = [one_of("sweep", name, measuring.SWEEPS) for name in what or measuring.SWEEPS]
    subject = hb.load(model, device=device, dtype=dtype, weights=weights, device_map=device_map)
    measured = measuring.bench(subject, sweeps, *grid, **stock, say=say)
    lines = [
        [name, f"{part['seconds']:.1f}", f"{part['stock']['seconds']:.0f} (from {part['stock']['answers']} answers)",
         f"{part['ratio']:.1f}", f"{part['answers_identical']} of {part['answers_compared']}", part["memory_gib"],
         part["stock"]["memory_gib"]]
        for name, part in measured.items() if name in sweeps
    ]  # fmt: skip
    columns = ("sweep", "seconds", "stock path", "ratio", "tokens identical", "memory GiB", "stock GiB")
    report(measured, as_json, columns, lines, f"{known_as(subject.name)}, {subject.dtype} on {subject.device}")


@command
def verify(
    name: Annotated[str | None, Argument(metavar="[--model] MODEL", hidden=True)] = None,
    model: Annotated[str | None, Option(help="Name, id, folder, or a family (tiny). Default: griffin-tiny.")] = None,
    tokens: Annotated[int | None, Option(help="Length of the prompt. Default: past the window.")] = None,
    as_json: Json = False,
    device: Device = "auto",
    dtype: Annotated[str, Option(help="float32; bfloat16 and float16 tell gross errors only.")] = "float32",
) -> None:
    """Check on a model what hybret rests on, and print the measured errors; status 1 if a check fails."""
    from hybret import verifying

    if name is not None and model is not None:
        raise HybretError(f"verify is given two models, {name!r} and {model!r}; give one, with --model or without")
    chosen = next((n for n in (name, model) if n is not None), "griffin-tiny")
    table = verifying.verify(chosen, tokens, device, dtype, sys.stderr.isatty())
    if as_json:
        print(table.to_json(orient="records"))
    else:
        Console(highlight=False).print(verifying.shown(table))
    if (table["verdict"] == verifying.FAIL).any():
        raise typer.Exit(1)


@command
def diff(
    a: Annotated[Path, Argument(help="Folder of a run (the --out of a sweep), or a Parquet file of rows.")],
    b: Annotated[Path, Argument(help="Another one.")],
    limit: Annotated[int, Option(help="Cells to print; --json has them all.")] = 20,
    as_json: Json = False,
) -> None:
    """Say what made two runs different and which cells changed; status 0 if no cell did, 1 if one did."""
    difference = hb.diff(a, b)
    if as_json:
        parts = (difference.cells, difference.conditions)
        cells, conditions = (json.loads(part.to_json(orient="records")) for part in parts)
        provenance = {field: {"a": values[0], "b": values[1]} for field, values in difference.provenance.items()}
        print(json.dumps({"same": difference.same, "provenance": provenance, "conditions": conditions, "cells": cells}))
    else:
        _print_diff(difference, limit)
    if not difference.same:
        raise typer.Exit(1)


def _print_diff(difference: hb.Diff, limit: int) -> None:
    console = Console(highlight=False)
    if pairs := difference.provenance:
        made = [[field, *(", ".join(map(str, v)) or "not recorded" for v in pair)] for field, pair in pairs.items()]
        show(("made with", "a", "b"), made)
    else:
        console.print("both were made with the same")
    head = ("condition", "cells", "score", "answer", "only in a", "only in b", "mean a", "mean b")
    show(head, difference.conditions.round(3).to_numpy().tolist())
    for cell in difference.cells.head(limit).fillna("").to_dict("records"):
        line = f"{cell['condition']}, prompt {cell['prompt']} ({cell['length']} tokens, depth {cell['depth']}): "
        console.print(Text(shown(line + cell["change"]), style="bold"), soft_wrap=True)
        for side in "ab":
            line = f"  {side}: {cell[f'score_{side}']}  {cell[f'answer_{side}']}"
            console.print(Text(shown(line)), soft_wrap=True)
    more = len(difference.cells) - limit
    if more > 0 or difference.same:
        console.print("no cell differs" if difference.same else f"and {more} more (--limit, --json)")


@command
def explore(
    run: Annotated[Path, Argument(help="A run's folder, as `hybret sweep --out` wrote it, or one that holds several.")],
    out: Annotated[Path | None, Option(help="The page to write. Default: explorer.html in that folder.")] = None,
) -> None:
    """Write the retrieval maps of a stored run as one page that needs neither kernel nor network; print its path."""
    from hybret.store import rows_of

    print(shown(hb.explore(rows_of(run)).save(out or run / "explorer.html")))


@command
def models() -> None:
    """List the models that can be named, and what each needs."""
    from hybret.checkpoints import KNOWN, organisms
    from hybret.families import FETCHED, PAPER_MODELS

    shipped = [(name, "small model, trained by this project", "shipped") for name in organisms()]
    random_ones = [(name, "tiny, random weights, for trying the code", "made on the spot") for name in KNOWN]
    papers = [(name, f"{title}, studied in the paper", "Hugging Face") for name, title in PAPER_MODELS.items()]
    others = [(name, "pretrained, attention only", f"hybret fetch {key}") for name, key in FETCHED.items()]
    show(("name", "what", "where"), shipped + random_ones + papers + others)


@command
def fetch(
    what: Annotated[list[str], Argument(help="smollm2, britannica, essays, glue, mmlu, or owner/name@revision.")],
) -> None:
    """Download what runs need, once: a model's weights, a benchmark's data, a text. Goes on where it stopped."""
    from hybret import data

    for name in what:
        print(data.fetch(name, say=say, progress=sys.stderr.isatty()))


@command
def book(
    model: Annotated[str | None, Option(help="Run every notebook on this model, beside the book's runs.")] = None,
    only: Annotated[list[str] | None, Option(help="Only this notebook and those it needs; repeatable.")] = None,
    force: Annotated[bool, Option(help="Run although nothing changed.")] = False,
    jobs: Annotated[int, Option(help="Notebooks at a time; they share the cores.")] = 2,
    publish: Annotated[bool, Option(help="With --model: put its runs into book/published.")] = False,
) -> None:
    """Run the notebooks that changed and build the book."""
    from book.runner.build import build

    build(model=model, only=only, force=force, jobs=jobs, publish=publish)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def train(context: typer.Context) -> None:
    """Train a small model from scratch (see `hybret train --help`)."""
    from hybret.organisms.training.train import main

    raise typer.Exit(main(context.args))
