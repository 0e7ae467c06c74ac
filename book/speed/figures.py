"""Figures of measurements: where a sweep's seconds go, and how one attention layer scales with the prompt.

They draw what `book.speed.bench.bench` and `book.speed.scaling.scaling` return, here or in a file from another machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from pandas.io.formats.style import Styler

from hybret.errors import HybretError
from hybret.families import RANDOM
from hybret.figures.style import COLOURS, GREY, INK, MARKERS, PALE, canvas, footnote, styled

SWEEPS = {"figure2": "Figure 2", "manipulation": "Table 1"}
STAGES = {"prefill": COLOURS[0], "fork": COLOURS[5], "decode": COLOURS[1], "scoring": COLOURS[2], "other": PALE}
PATHS = {"sparsified": "sparsified, streaming", "plain": "plain (SDPA)", "eager": "sparsified, eager"}


def duration(seconds: float) -> str:
    """Write seconds as a reader would say them: 95 ms, 4.1 s, 15 min 54 s, 2 h 3 min."""
    if seconds < 0.995:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2g} ms"
    if seconds < 119.5:
        return f"{seconds:.{1 if seconds < 9.95 else 0}f} s"
    units, total = (("min", "s"), seconds) if round(seconds) < 3600 else (("h", "min"), seconds / 60)
    most, rest = divmod(round(total), 60)
    return f"{most} {units[0]} {rest} {units[1]}" if rest else f"{most} {units[0]}"


def measured(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per measurement of `book.speed.bench.bench` and sweep, with all that the record says of the two.

    What is nested has the column ``outer_inner``: `stock_seconds` (extrapolated from `stock_answers`), `limit_seconds`.
    Beside these there are `random` (weights), a column for each stage, and `other`, the seconds that no stage counts.
    """
    lines = [
        {**record["machine"], "sweep": name, **record[sweep]}
        for record, (sweep, name) in product(records, SWEEPS.items())
        if record.get(sweep)
    ]
    rows = pd.json_normalize(lines, sep="_").rename(columns=lambda name: name.removeprefix("stages_"))
    if rows.empty:
        return rows
    other = rows["seconds"] - rows[[stage for stage in STAGES if stage != "other"]].sum(axis=1)
    names = [name.removeprefix(RANDOM).split("/")[-1] for name in rows["model"]]
    return rows.assign(model=names, random=rows["weights"].str.startswith("random"), other=other.clip(lower=0))


def _small_print(figure: Figure, machines: Iterable[Mapping[Any, Any]]) -> None:
    """Model, weights, dtype, device and date of every measurement; the layer alone has random weights, always."""
    parts = []
    for m in machines:
        weights = str(m.get("weights", "random"))
        weights = "random weights" if weights.startswith("random") else weights[:8]
        parts.append(f"model {m['model'].removeprefix(RANDOM)} ({weights}), {m['dtype']} on {m['device']}, {m['date']}")
    footnote(figure, " · ".join(dict.fromkeys(parts)))


@styled
def speed(rows: pd.DataFrame) -> Figure:
    """Seconds of every stage of a sweep (rows of `measured`), one panel per measurement, the stock path in words.

    Bars are stacked, in seconds from 0; the line is the limit. The panels have scales of their own.
    """
    if rows.empty:
        raise HybretError("no measurements to draw; make one with `hybret bench --json`")
    by = ["model", "weights", "dtype", "device", "date"]
    panels = [part for _, part in rows.groupby(by, sort=False, dropna=False)]
    heights = [0.28 + 0.62 * len(part) for part in panels]
    figure = canvas(0.95 + sum(heights) + 0.26 * len(panels))
    stack = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axes, part in zip(stack, panels, strict=True):
        reach = 1.02 * float(part[["seconds", "limit_seconds"]].to_numpy().max())
        for i, row in enumerate(part.to_dict("records")):
            _stacked(axes, i, row, reach)
        where = part.iloc[0]
        axes.set(xlim=(0, reach), ylim=(len(part) - 0.45, -0.68))
        axes.set_yticks(range(len(part)), part["sweep"])
        axes.tick_params(axis="y", length=0)
        axes.set_title(where["model"] + (", random weights" if where["random"] else ""), loc="left", fontweight="bold")
        axes.set_title(f"{where['dtype']} on {where['device']}", loc="right", fontsize=8)
    scales = "; each panel has its own scale" if len(panels) > 1 else ""
    stack[-1].set_xlabel(f"wall-clock time (s){scales}")
    keys: list[Any] = [Patch(color=colour, label=stage) for stage, colour in STAGES.items()]
    limit = "limit (matrix products of the prefills)"
    keys.append(Line2D([], [], color=INK, marker="|", markersize=11, markeredgewidth=2, linestyle="none", label=limit))
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), columnspacing=1.2, handlelength=1.2)
    _small_print(figure, rows.to_dict("records"))
    return figure


def _stacked(axes: Axes, at: int, row: Mapping[Any, Any], reach: float) -> None:
    """One sweep: its stages end to end, the limit as a line, the rest in words above."""
    left, pad = 0.0, 0.006 * reach
    for stage, colour in STAGES.items():
        seconds = row[stage]
        axes.barh(at, seconds, left=left, height=0.42, color=colour, edgecolor="white", linewidth=0.5, label=stage)
        if seconds > 0.13 * reach and stage != "other":
            crossed = left <= row["limit_seconds"] < left + 0.15 * reach  # then the words stand at the other end
            x, side = (left + seconds - pad, "right") if crossed else (left + pad, "left")
            axes.text(x, at, duration(seconds), color="white", fontsize=8, va="center", ha=side)
        left += seconds
    axes.plot([row["limit_seconds"]] * 2, [at - 0.3, at + 0.3], color=INK, linewidth=2, solid_capstyle="butt")
    stock = f"stock path {duration(row['stock_seconds'])}, extrapolated from {row['stock_answers']}"
    words = f"{row['answers']:,} answers in {duration(row['seconds'])} · {stock} · ratio {row['ratio']:g}"
    axes.text(pad, at - 0.33, words, fontsize=8, va="bottom")


@styled
def scaling(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Time and extra memory of a sparsified attention layer against the prompt's length, both axes logarithmic.

    Each record of `book.speed.scaling.scaling` is a row of panels. Where the eager path ends first, its last value is
    carried on with the square of the length, dotted.
    """
    if not records:
        raise HybretError("no measurements to draw; make one with `python -m book.speed.scaling`")
    figure = canvas(0.35 + 3.3 * len(records))
    grid = figure.subplots(len(records), 2, squeeze=False)
    for record, pair in zip(records, grid, strict=True):
        rows = pd.DataFrame(record["rows"])
        for axes, column, label in zip(pair, ("seconds", "extra_gib"), ("time (s)", "extra memory (GiB)"), strict=True):
            _lines(axes, rows, column, record["slopes"])
            axes.set(xlabel="prompt length (tokens)", ylabel=label)
    _small_print(figure, [record["machine"] for record in records])
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, column: str, slopes: Mapping[str, Any]) -> None:
    """One line per path; a column without numbers is said in words."""
    lengths = sorted(rows["tokens"].unique())
    axes.set_xscale("log", base=2)
    ticks = lengths[:: 1 if len(lengths) < 6 else 2]
    axes.set_xticks(ticks, [f"{n / 1024:g}k" if n >= 1024 else str(n) for n in ticks])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    if rows[column].isna().all():
        axes.text(0.5, 0.5, "measured on a GPU only", transform=axes.transAxes, ha="center", color=GREY, fontsize=8)
        return
    axes.set_yscale("log")
    axes.grid(color=PALE, linewidth=0.6)
    for path, colour, marker in zip(PATHS, COLOURS, MARKERS, strict=False):
        line = rows[(rows["path"] == path) & (rows[column] > 0)].sort_values("tokens")
        if line.empty:
            continue
        slope = slopes.get(path, {}).get(column)
        label = PATHS[path] + (f", slope {slope:.2f}" if slope is not None else "")
        axes.plot(line["tokens"], line[column], color=colour, marker=marker, label=label)
        at, value = line[["tokens", column]].iloc[-1]
        if path == "eager" and at < lengths[-1]:
            beyond = value * (lengths[-1] / at) ** 2
            axes.plot([at, lengths[-1]], [value, beyond], ":", color=colour, label="eager, extrapolated (slope 2)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))


def table(rows: pd.DataFrame) -> Styler:
    """What `measured` returns as a table to read."""

    def line(row: Any) -> dict[str, str]:
        same = f"{row.answers_identical} of {row.answers_compared}"
        if row.answers_identical != row.answers_compared and row.dtype == "float32":
            same += ": a fault, in float32 all must be"
        name = f"{row.model} (random weights)" if row.random else row.model
        memory = ["?" if pd.isna(gib) else f"{gib:.2f}" for gib in (row.memory_gib, row.stock_memory_gib)]
        return {
            "measurement": f"{name}, {row.dtype} on {row.device}, {row.date}",
            "sweep": f"{row.sweep}, {row.answers:,} answers",
            "time": duration(row.seconds),
            "stock path": f"{duration(row.stock_seconds)}, from {row.stock_answers}",
            "ratio": f"{row.ratio:g}",
            "identical tokens": same,
            "peak GiB": " / ".join(memory),
            "limit": duration(row.limit_seconds),
        }

    return small(pd.DataFrame(map(line, rows.itertuples())))


def small(table: pd.DataFrame) -> Styler:
    """A wide table in small type."""
    return table.style.hide(axis="index").format(escape="html").set_table_attributes('style="font-size: 0.8em"')
