"""The command `hybret`: a thin layer over the package."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from .errors import HybretError

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    help="In hybrid language models, which part does the retrieving? Run the experiments and build the book.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def one_sentence(command: Callable[..., None]) -> Callable[..., None]:
    """Bad input ends with its one sentence on stderr and status 2; a run that was interrupted with status 130."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HybretError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted: finished batches are kept when --out was given", file=sys.stderr)
            raise typer.Exit(130) from None

    return run


@app.command()
@one_sentence
def models() -> None:
    """List the models that can be named, and what each needs."""
    from . import presets
    from .families import FAMILIES
    from .sources import organisms

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
    haystack: Annotated[str, typer.Option(help="'embedded', or a folder of .txt files.")] = "embedded",
    seed: Annotated[int, typer.Option(help="Which embedded haystack.")] = 0,
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
    from . import niah
    from .batches import Budget, budget_of, longest_prompt
    from .cluster import Ray
    from .interventions import KeepHeads
    from .models import load
    from .recipe import recipe as find_recipe
    from .sweeping import sweep as run
    from .tables import accuracy

    chosen = find_recipe(recipe)
    if template not in niah.TEMPLATES:
        raise HybretError(f"unknown template {template!r}; choose one of {', '.join(niah.TEMPLATES)}")
    if limit is not None and limit < 1:
        raise HybretError(f"limit is {limit}; give at least 1 prompt")
    sizes = {"lengths": _numbers("lengths", lengths), "depths": _numbers("depths", depths)}
    for heads in k or []:
        KeepHeads(heads, during=during)  # type: ignore[arg-type]  # checked by the value itself, before loading
    KeepHeads(0, during=during)  # type: ignore[arg-type]
    if engine not in ("local", "ray"):
        raise HybretError(f"unknown engine {engine!r}; choose local or ray")
    if engine == "local" and (address, workers, gpus_per_worker) != (None, None, None):
        raise HybretError("address, workers and gpus-per-worker are for --engine ray")
    if rows_per_batch is not None and rows_per_batch < 1:
        raise HybretError(f"rows-per-batch is {rows_per_batch}; give at least 1 row")
    cluster = Ray(address, workers, gpus_per_worker) if engine == "ray" else None
    subject = (cluster.load if cluster else load)(model, device=device, dtype=dtype)
    budget = Budget(rows_per_batch, budget_of(subject, longest_prompt(subject)).tokens) if rows_per_batch else None
    kept = k if k else range(subject.heads + 1)
    conditions = {c.label: c for c in (KeepHeads(n, during=during) for n in kept)}  # type: ignore[arg-type]
    options: dict[str, Any] = {"template": template, "haystack": haystack, "seed": seed, "recipe": chosen, **sizes}
    prompts = niah.grid(subject, **options)
    if limit is not None and limit < len(prompts):
        prompts = [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), limit))]
    if control:
        prompts += niah.grid(subject, needle=None, **options)
    shown = sys.stderr.isatty()
    rows = run(subject, prompts, conditions, chosen, out, budget=budget, progress=shown, engine=cluster or "local")
    summary = _summary(accuracy(rows[rows.needle != "none"], by=["condition"], seed=seed), conditions)
    if control:
        floors = _summary(accuracy(rows[rows.needle == "none"], by=["condition"], seed=seed), conditions)
        for name, found in summary.items():
            found["floor"] = floors[name]["accuracy"]
    if as_json:
        print(json.dumps(summary))
        return
    table = Table("condition", "accuracy", "95 % interval", "exact", "n", *(["floor"] if control else []), box=None)
    for name, found in summary.items():
        low, high = found["ci95"]
        floor = [f"{found['floor']:.1%}"] if control else []
        table.add_row(name, f"{found['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", f"{found['exact']:.1%}",
                      str(found["n"]), *floor)  # fmt: skip
    Console().print(f"{subject.name}, recipe {chosen.name}, template {template}, {subject.dtype} on {subject.device}")
    Console().print(table)


@app.command()
@one_sentence
def bench(
    model: Annotated[str, typer.Option(help="Name, Hugging Face id or folder (see `hybret models`).")] = "griffin-tiny",
    weights: Annotated[
        str, typer.Option(help="checkpoint; or random: one of the paper's models at full size, nothing downloaded.")
    ] = "checkpoint",
    what: Annotated[
        list[str] | None, typer.Option(help="figure2, manipulation or scaling; repeatable. Default: the first two.")
    ] = None,
    lengths: Annotated[str, typer.Option(help="How many prompt lengths, or labels in tokens.")] = "10",
    depths: Annotated[str, typer.Option(help="How many needle depths, or per cents.")] = "10",
    stock_prompts: Annotated[int, typer.Option(help="Prompts that the stock path answers.")] = 5,
    stock_conditions: Annotated[int, typer.Option(help="Conditions that the stock path answers.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
) -> None:
    """Time whole sweeps against transformers' own path in the same run, and compare their tokens."""
    from .bench import SWEEPS
    from .bench import bench as measure
    from .models import device_of, load
    from .scaling import scaling

    asked = what or [*SWEEPS]
    if unknown := [name for name in asked if name not in (*SWEEPS, "scaling")]:
        raise HybretError(f"unknown benchmark {unknown[0]!r}; choose from {', '.join([*SWEEPS, 'scaling'])}")
    if stock_prompts < 1 or stock_conditions < 1:
        raise HybretError("the stock path must answer at least one prompt under at least one condition")
    sizes: dict[str, Any] = {"lengths": _numbers("lengths", lengths), "depths": _numbers("depths", depths)}

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    found: dict[str, Any] = {}
    if sweeps := [name for name in asked if name in SWEEPS]:
        subject = load(model, device=device, dtype=dtype, weights=weights)
        sizes |= {"stock_prompts": stock_prompts, "stock_conditions": stock_conditions}
        found = measure(subject, sweeps, **sizes, say=say)
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
    Console().print(table)


@app.command()
@one_sentence
def verify(
    model: Annotated[
        str, typer.Argument(help="Name, Hugging Face id or folder; or a family such as bamba: tiny, random weights.")
    ],
    tokens: Annotated[int | None, typer.Option(help="Length of the prompt. Default: past the window.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32; bfloat16 and float16 tell gross errors only.")] = "float32",
) -> None:
    """Check on a model what hybret rests on, and print the measured errors; status 1 if a check fails."""
    from .verifying import FAIL, shown
    from .verifying import verify as check

    found = check(model, tokens, device, dtype, lambda name: print(name, file=sys.stderr, flush=True))
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
    from .planning import plan as estimate
    from .planning import shown

    found = estimate(model, notebook, on, dtype, lengths, depths)
    if as_json:
        print(json.dumps({**found.attrs, "sweeps": found.to_dict("records")}))
        return
    Console(highlight=False).print(shown(found))


@app.command()
@one_sentence
def fetch(
    benchmark: Annotated[str, typer.Argument(help="glue or mmlu.")],
) -> None:
    """Download the data of a benchmark once, into $HYBRET_CACHE or the user's cache."""
    from .fetching import fetch as download

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    print(download(benchmark, say=say))


@app.command()
@one_sentence
def book(
    model: Annotated[str | None, typer.Option(help="Run every notebook on this model, beside the book's runs.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this notebook and those it needs; repeatable.")] = None,
    force: Annotated[bool, typer.Option(help="Run although nothing changed.")] = False,
    jobs: Annotated[int, typer.Option(help="Notebooks at a time; they share the cores.")] = 2,
) -> None:
    """Run the notebooks that changed and build the book."""
    from .book import BuildError, build

    try:
        build(model=model, only=only, force=force, jobs=jobs)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)
def train(context: typer.Context) -> None:
    """Train an organism from scratch (see `hybret train --help`)."""
    from .organisms.train import main

    raise typer.Exit(main(context.args))


def _numbers(name: str, text: str) -> int | list[int]:
    """A count, or a list of labels separated by commas."""
    try:
        values = [int(part) for part in text.removesuffix(",").split(",")]
    except ValueError:
        raise HybretError(f"{name} is {text!r}; give a count such as 10, or labels such as 128,256") from None
    return values if "," in text else values[0]


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
