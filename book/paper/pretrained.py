"""A pretrained model: retrieval and language as its heads are removed, here and on the whole grid.

Both are a dictionary of tables: `once` and `twice` (rows of `KeepHeads` on prompts read once and read twice), `table1`,
and `losses` (of `hybret.language.predict`: prose, the right answer, and the same answer without the needle).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import hybret as hb
from book.paper.chapter import Chapter, in_nats, keep_heads, percent, with_interval
from hybret.families import known_as
from hybret.figures import style
from hybret.store import rows_of

Tables = Mapping[str, pd.DataFrame]
SWEEPS = {"once": "figure2", "twice": "jrt", "table1": "table1"}  # folders of the published grid
LOSSES = {"prose": "prose", "answers": "answer", "without": "control"}  # its files of losses, and their kinds
KEPT = r"^KeepHeads\(k=(?P<k>\d+), metric='(?P<metric>entropy|random)', during='(?P<during>\w+)'"
CHOSEN = {"entropy": "of lowest entropy (the paper's)", "random": "at random"}


def few(heads: int) -> list[int]:
    """All heads, one and two fewer, two thirds, and none: where a model of attention alone changes."""
    return sorted({heads, heads - 1, heads - 2, 2 * heads // 3, 0}, reverse=True)


def measure(chapter: Chapter, hybrid: hb.Model, passages: int) -> dict[str, pd.DataFrame]:
    """The tables of a model on the chapter's grid; conditions that read it anew do so at the shortest length."""
    chapter, ks = chapter.apart("pretrained"), few(hybrid.heads)
    shortest: dict[str, Any] = {"lengths": hybrid.lengths[:1], "depths": [0]}
    answering, throughout = keep_heads(hybrid, "generation", ks=ks), keep_heads(hybrid, "both", ks=[ks[1], 0])
    once = chapter.sweep(hybrid, chapter.prompts(hybrid, control=False), answering)
    asked, bare = (chapter.prompts(hybrid, control=False, **shortest), chapter.controls(hybrid, **shortest))
    twice = chapter.sweep(hybrid, chapter.prompts(hybrid, "jrt", control=False, **shortest), answering)
    more = chapter.sweep(hybrid, asked, throughout | hb.table1_conditions())  # a batch costs by its longest answer
    both, table1 = (more[more["condition"].isin(which)] for which in (throughout, hb.table1_conditions()))
    texts = [hb.language.prose(hybrid, passages, 128, chapter.haystack, chapter.seed)]
    texts += [hb.language.answers(hybrid, prompts) for prompts in (asked, bare)]
    losses = [hb.language.predict(hybrid, read, answering, chapter.decisions) for read in texts]
    rows = pd.concat([once, both], ignore_index=True)
    rows.attrs["made"] = more.attrs["made"] | once.attrs["made"]
    return {"once": rows, "twice": twice, "table1": table1} | _named(losses)


def built_in(chapter: Chapter, hybrid: hb.Model, passages: int) -> dict[str, pd.DataFrame]:
    """`once` and `losses` of a model in the language that it was trained on, and `real`: retrieval in real prose."""
    own = replace(chapter, model=hybrid.name, lengths=10, depths=10, haystack="embedded")
    kept = keep_heads(hybrid, "generation")
    prose = hb.language.prose(hybrid, passages, seed=chapter.seed)
    ends = keep_heads(hybrid, "generation", ks=[hybrid.heads, 0])
    return {
        "once": own.sweep(hybrid, own.prompts(hybrid, control=False), kept),
        "losses": hb.language.predict(hybrid, prose, kept, chapter.decisions),
        "real": chapter.apart("pretrained").sweep(
            hybrid, chapter.prompts(hybrid, control=False, lengths=5, depths=5), ends
        ),
    }


def published(folder: str | Path, model: str) -> dict[str, pd.DataFrame]:
    """The tables of a model on the paper's whole grid; empty where none were published."""
    place = Path(folder) / Path(model).name / "grid"
    if not place.is_dir():
        return {}
    losses = [pd.read_parquet(place / "language" / f"{name}.parquet") for name in LOSSES]
    rows = {name: rows_of(place / job).sort_values(["during", "k"], ascending=False) for name, job in SWEEPS.items()}
    return rows | _named(losses)


def _named(losses: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Losses as one table, each under its kind."""
    parts = [part.assign(kind=kind) for part, kind in zip(losses, LOSSES.values(), strict=True)]
    return {"losses": pd.concat(parts, ignore_index=True)}


def by_k(tables: Tables) -> pd.DataFrame:
    """Retrieval and language over the heads kept, each mean with its 95 % interval.

    Columns: model, k; accuracy inside the window, exact, prompts; language (nats per token of prose), same (share of
    next tokens that stay), lost (nats more than with all heads), worth (nats per token of the answer that the needle
    gives), passages. What was not measured is missing.
    """
    rows = hb.metrics.with_needle(tables["once"])
    rows = rows[rows["in_window"] & (rows["during"] == "generation")]
    table = hb.metrics.accuracy(rows, by=["model", "k"]).sort_values("k", ascending=False)
    losses = _kept(tables["losses"])
    lines = [_means(losses, k) for k in table["k"]]
    table = table.merge(pd.DataFrame(lines), on="k")
    return table.assign(lost=table["language"] - table["language"].iloc[0])


def _kept(losses: pd.DataFrame) -> pd.DataFrame:
    """Losses under `KeepHeads`, with its k (text), metric and phase as columns."""
    return losses.assign(**losses["intervention"].str.extract(KEPT)).dropna(subset=["k"])


def _means(losses: pd.DataFrame, k: int, metric: str = "entropy") -> dict[str, Any]:
    """Language and what the needle is worth with k heads, each mean with its interval; draws of heads are averaged."""
    group = losses[(losses["k"] == str(k)) & (losses["during"] == "generation") & (losses["metric"] == metric)]
    means = group.groupby(["kind", "passage"])[["nats", "same"]].mean()
    prose, told, bare = (means[means.index.get_level_values("kind") == kind] for kind in ("prose", "answer", "control"))
    each = np.arange(len(told)) // max(1, len(told) // max(1, len(bare)))  # a control for each length
    worth = bare["nats"].to_numpy()[each] - told["nats"].to_numpy()
    line = {"k": k, "same": prose["same"].mean(), "passages": len(prose)}
    for name, values in (("language", prose["nats"].to_numpy()), ("worth", worth)):
        if len(values) > 1:
            line |= with_interval(name, values, (values.min(), values.max()))
        else:
            mean = values.mean() if len(values) else np.nan
            line |= {name: mean, f"{name}_low": np.nan, f"{name}_high": np.nan}
    return line


def choices(tables: Tables) -> pd.DataFrame:
    """`by_k` without retrieval, where heads were chosen at random, too: a line for each way and number of heads."""
    losses = _kept(tables["losses"])
    drawn = sorted(losses.loc[losses["metric"] == "random", "k"].unique(), reverse=True)
    return pd.DataFrame(
        {"heads that stay": CHOSEN[metric], **_means(losses, int(k), metric=metric)} for k in drawn for metric in CHOSEN
    )


def shown(numbers: pd.DataFrame) -> pd.DataFrame:
    """`by_k` or `choices` as a page shows it: each mean with its interval, if it has one."""
    spread = {name: in_nats(numbers, name) for name in ("language", "worth")}
    if "accuracy" in numbers:
        spread["accuracy"] = [percent(line) for line in numbers.to_dict("records")]
    for name in {"exact", "same"} & {*numbers}:
        spread[name] = [f"{100 * share:.0f} %" for share in numbers[name]]
    columns = ["heads that stay", "k", "accuracy", "exact", "language", "same", "worth"]
    return numbers.assign(**spread)[[name for name in columns if name in numbers]]


def said(rows: pd.DataFrame, by: str = "k", most: int = 3) -> pd.DataFrame:
    """The most frequent answers in each group, in the order of the rows; beside the first those of a twentieth or more.

    Columns: `by`, answer, score (points), times, of (prompts).
    """
    groups = rows.groupby([by, "answer"], sort=False).agg(score=("score", "first"), times=("prompt", "size"))
    groups = groups.reset_index().sort_values("times", ascending=False, kind="stable")
    rank = groups.groupby(by).cumcount()
    groups = groups.assign(of=groups[by].map(rows[by].value_counts()))
    often = (groups["times"] > 1) & (groups["times"] >= groups["of"] / 20)
    groups = groups[(rank == 0) | ((rank < most) & often)]
    order = list(dict.fromkeys(rows[by]))
    return groups.sort_values(by, key=lambda values: values.map(order.index), kind="stable")


def again(here: Tables, elsewhere: Tables) -> pd.DataFrame:
    """The prompts that two machines answered under the same conditions: how many answers are the same.

    Columns: what (the table, of `once` its version), answers, same, exact_here, exact_there (all counts).
    """
    keys = ["prompt", "intervention"]
    parts = []
    for name in SWEEPS:
        there = elsewhere[name].drop_duplicates(keys)[[*keys, "answer", "exact"]]
        part = here[name].drop_duplicates(keys).merge(there, on=keys, suffixes=("_here", "_there"))
        words = {"twice": "read twice", "table1": "Table 1"}.get(name)
        parts.append(part.assign(what=words or part["during"].map(style.VERSIONS)))
    both = pd.concat(parts, ignore_index=True)
    both["same"] = both["answer_here"] == both["answer_there"]
    counts = {name: (name, "sum") for name in ("same", "exact_here", "exact_there")}
    return both.groupby("what", sort=False).agg(answers=("same", "size"), **counts).reset_index()


def real_prose(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in per cent of the built-in models with all heads and with none, inside the window and beyond it."""
    heads = np.where(rows["k"] == 0, "no heads", "all heads")
    sides = rows.assign(window=np.where(rows["in_window"], "inside", "beyond"), heads=heads)
    table = hb.metrics.accuracy(sides, by=["model", "window", "heads"])
    table["accuracy"] = [percent(line) for line in table.to_dict("records")]
    wide = table.pivot(index=["model", "window", "prompts"], columns="heads", values="accuracy").reset_index()
    return wide.sort_values(["model", "window"], ascending=[True, False])


@style.styled
def paths(table: pd.DataFrame, note: str) -> Figure:
    """Accuracy over what the loss on prose has grown by: one path a model, from all heads to none.

    `table` is from `by_k`, of several models; the first one's points are numbered by k.
    """
    figure = style.canvas(4.0)
    axes = figure.subplots()
    models = list(dict.fromkeys(table["model"]))
    for i, model in enumerate(models):
        path = table[table["model"] == model].sort_values("k", ascending=False)
        style.band(axes, path["lost"], path, i, 0.15, label=known_as(model), clip_on=False, zorder=4)
        for line in path.itertuples() if i == 0 else ():
            axes.annotate(f"{line.k}", (line.lost, 100 * line.accuracy), (4, 4), textcoords="offset points", fontsize=8)
    style.percent_axis(axes)
    axes.set_ylabel("retrieval (% of the maximum score)")
    axes.axvline(0, color=style.PALE, linewidth=0.8, zorder=1)
    figure.legend(loc="outside upper center", ncols=2)
    style.footnote(figure, note, "language lost: loss on prose, more than with all heads (nats per token)")
    return figure
