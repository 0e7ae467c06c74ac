"""When retrieval forms: the trainings of our small models, probe by probe.

`emergence.jsonl` beside this module has one line per training and step, made from the trainings' logs and from the
lines of `hybret.organisms.training.emergence`:

    python -m book.paper.emergence runs/*/log.jsonl emergence-*.jsonl
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hybret.figures.style import COLOURS, MARKERS, canvas, footnote, styled

DATA = Path(__file__).with_name("emergence.jsonl")
HOLDS = 0.9  # share of exact answers that counts as retrieval
RUN = ["model", "variant", "seed"]
"""Columns that name a training; its variant is "" for the model's own recipe."""
PROBED = {"inside": ("inside", "all"), "answering": ("inside", "k=0 generation"), "reading": ("inside", "k=0 prefill"),
          "words": ("random words", "all"), "own": ("own", "all")}  # fmt: skip
"""Column -> group and condition of the training's probe."""


KINDS = ("the recipe", "windows drawn at random", "without attention layers")


def _training(about: dict[str, Any]) -> dict[str, Any]:
    windows = ", ".join(map(str, about.get("windows") or ()))
    kinds = ["without attention"] * about["name"].endswith("-ssm") + ["copying start"] * about.get("mimetic", False)
    kinds += [f"windows of {windows}"] * bool(windows)
    return {"model": about["name"].removesuffix("-ssm"), "variant": ", ".join(kinds), "seed": about["seed"]}


def kind(variant: str) -> int:
    """What a training varies: 0 nothing, 1 its windows, 2 the attention layers, which it has none of."""
    return 2 if "without attention" in variant else int("windows" in variant)


def compact(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Lines for `DATA`: of every training's probes, and of its models by the number of heads."""
    read = [[json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]
    logs = [lines for lines in read if lines[0].get("event") == "start"]
    for lines in logs:
        about = _training(lines[0]["training"])
        for line in [line for line in lines if "probe" in line]:
            probe = line["probe"]
            shown = {name: probe[g][c]["exact"] for name, (g, c) in PROBED.items() if g in probe}
            if forms := [probe[group]["all"]["exact"] for group in probe if group.startswith("form ")]:
                shown["forms"] = sum(forms) / len(forms)
            made = {key: round(value, 4) for key, value in shown.items()}
            yield {**about, **{key: line[key] for key in ("step", "tokens")}, **made}
    for line in [line for lines in read for line in lines if "silent" in line]:
        yield {**_training(line), **{key: line[key] for key in ("step", "tokens", "exact", "silent")}}


def trainings(file: Path = DATA) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The probes of every training, and the exact answers of its models by the number of heads that they keep.

    Both have the columns of `RUN`, `step` and `tokens`. Probes have shares of exact answers to the paper's needle
    `inside` the window with all heads, without attention while `answering`, and also while `reading`; with all heads
    to lists of random `words`, to `own` sentences and, on average, to held-out `forms`. The second has `k` and
    `exact`; k = 0 is without attention while answering, and `silent` without it from the first token on.
    """
    rows = pd.read_json(file, lines=True, orient="records", dtype={"exact": object})
    kept = rows["exact"].notna()
    pairs = rows[kept].assign(exact=rows.loc[kept, "exact"].map(lambda shares: list(shares.items()))).explode("exact")
    k, exact = zip(*pairs["exact"], strict=True)
    heads = pairs[[*RUN, "step", "tokens", "silent"]].assign(k=[int(x) for x in k], exact=exact)
    heads = heads.sort_values([*RUN, "tokens", "k"], ignore_index=True)
    return rows[~kept].reindex(columns=[*RUN, "step", "tokens", *PROBED, "forms"]).reset_index(drop=True), heads


def formed(probes: pd.DataFrame) -> pd.DataFrame:
    """Millions of tokens at the first probe with `HOLDS` exact answers, of each training; NaN where there is none."""
    at = probes.assign(millions=(probes["tokens"] / 1e6).where(probes["inside"] >= HOLDS))
    return at.groupby(RUN, sort=False)["millions"].min().reset_index()


def needed(heads: pd.DataFrame) -> pd.DataFrame:
    """Fewest heads from which on a model gives `HOLDS` exact answers, after each step; NaN where even all do not."""
    lines = []
    for key, curve in heads.groupby([*RUN, "step", "tokens"], sort=False):
        curve = curve.sort_values("k")
        held = curve.loc[(curve["exact"] >= HOLDS)[::-1].cummin()[::-1], "k"]
        lines.append((*key, held.min()))
    return pd.DataFrame(lines, columns=[*RUN, "step", "tokens", "needed"])


def seeds(probes: pd.DataFrame, heads: pd.DataFrame) -> pd.DataFrame:
    """What holds in every seed of a model's own recipe, and what is a property of one training."""
    own = [rows[rows["variant"] == ""] for rows in (probes, heads)]
    free = own[1][own[1]["k"] == 0]
    silent = [
        rows.groupby(RUN)[shares].max() for rows, shares in ((own[0], list(PROBED)[1:3]), (free, ["exact", "silent"]))
    ]
    few = needed(own[1]).sort_values("tokens").groupby(RUN)["needed"].last()
    measures = {
        "tokens until retrieval, millions": formed(own[0]).set_index(RUN)["millions"],
        "heads needed at the last measurement": few,
        "exact answers without attention, the most at any probe, %": 100 * pd.concat(silent, axis=1).max(axis=1),
        "exact answers with all heads at the last probe, %": 100 * own[0].groupby(RUN)["inside"].last(),
    }
    lines = []
    for what, values in measures.items():
        for model, found in values.groupby("model", sort=False):
            same = len(found) > 1 and found.nunique(dropna=False) == 1
            kind = "one seed" if len(found) == 1 else "the same in every seed" if same else "differs between seeds"
            lines.append((what, model, ", ".join(f"{x:g}" if x == x else "never" for x in found.round(1)), kind))
    return pd.DataFrame(lines, columns=["measure", "model", "values", "seeds"])


@styled
def curves(probes: pd.DataFrame, heads: pd.DataFrame) -> Figure:
    """Exact answers over training tokens, and heads needed; a column for each model, a line for each training.

    `probes` and `heads` are of `trainings`.
    """
    models = list(dict.fromkeys(probes["model"]))
    figure = canvas(4.6)
    panels = figure.subplots(2, len(models), sharex="col", sharey="row", squeeze=False, height_ratios=(3, 2))
    drawn = {}
    for (above, below), model in zip(panels.T, models, strict=True):
        for (variant, seed), run in probes[probes["model"] == model].groupby(RUN[1:], sort=False):
            i = kind(variant)
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3, "linewidth": 1, "alpha": 0.8}
            (drawn[i],) = above.plot(run["tokens"] / 1e6, 100 * run["inside"], **look)
            part = heads[(heads["model"] == model) & (heads["variant"] == variant) & (heads["seed"] == seed)]
            if len(part):
                few = needed(part).sort_values("tokens")
                below.plot(few["tokens"] / 1e6, few["needed"], drawstyle="steps-post", **look)
        above.set_title(model)
        below.set(xscale="log", xlabel="training tokens (millions)")
        below.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
        below.minorticks_off()
    panels[0, 0].set(ylabel="exact answers (%)", ylim=(-4, 104))
    panels[1, 0].set(ylabel=f"heads for {100 * HOLDS:.0f}%", ylim=(0, None))
    shown = sorted(drawn)
    figure.legend([drawn[i] for i in shown], [KINDS[i] for i in shown], loc="outside upper center", ncols=len(shown))
    footnote(figure, "one line for each training · needle inside the window, all heads")
    return figure


if __name__ == "__main__":
    DATA.write_text("".join(json.dumps(line) + "\n" for line in compact(map(Path, sys.argv[1:]))), encoding="utf-8")
