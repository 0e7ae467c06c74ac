"""Rows as the state of the map explorer: dictionary-encoded columns, so that tens of thousands of cells stay small.

A row is three numbers: its step (one condition of one series of conditions), its place (one prompt), and what was said
(one answer with its score). Rows come sorted by step, so that a view of one step reads one slice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.families import has_random_weights
from hybret.figures.style import MADE_UP, colormap, words
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.rows import CELL, MEASURE
from hybret.scoring import RUBRICS, score

NEEDED = ("model", "recipe", "condition", "template", "needle", "asked", "length", "depth", *MEASURE, "prompt")
OPTIONAL: dict[str, Any] = {
    "weights": "", "intervention": None, "generation": None, "prefill": None, "k": pd.NA, "during": None,
    "haystack": "", "haystack_seed": 0, "tokens": -1, "distance": -1, "in_window": True, "rubric": "table2",
    "device": "", "dtype": "", "run": "",
}  # fmt: skip
SERIES = ("model", "weights", "recipe", "template", "setting", "rubric", "haystack", "asked", "dtype", "device", "run")
PLACE = ("prompt", *CELL, "tokens", "distance", "in_window")
SAID = (*MEASURE, "rubric", "asked")
OTHER = "manipulation (generation-prefill)"  # the setting of conditions that are not an order of k
AROUND = 140  # characters of the prompt on each side of its needle


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy of `rows` with every column that the state takes, control rows included; refused if they have no map."""
    if not isinstance(rows, pd.DataFrame):
        raise HybretError(f"explore() takes the rows of a sweep, a DataFrame, not {type(rows).__name__}")
    if rows.empty:
        raise HybretError("there are no rows to explore; run a sweep first, or check the selection")
    if missing := [column for column in NEEDED if column not in rows]:
        raise HybretError(f"these rows have no column {missing[0]!r}; pass rows of hybret.sweep or hybret.load_rows")
    rows = rows.assign(**{name: value for name, value in OPTIONAL.items() if name not in rows}).reset_index(drop=True)
    if rows["score"].isna().any():
        raise HybretError("some rows have no score; score them with hybret.scoring.rescore() first")
    if unknown := sorted({*map(str, rows["rubric"].dropna())} - {*RUBRICS}):
        raise HybretError(f"these rows have the unknown rubric {unknown[0]!r}; choose one of {', '.join(RUBRICS)}")
    hidden = rows["needle"] != metrics.CONTROL
    if not (hidden & rows["length"].notna() & rows["depth"].notna()).any():
        raise HybretError("no row has a needle with a length and a depth, so there is no map; pass rows of a grid")
    return metrics.normalised(rows[~hidden | (rows["length"].notna() & rows["depth"].notna())])


def contexts_of(prompts: Iterable[Prompt]) -> dict[str, tuple[str, str]]:
    """Prompt key to the text before and after its needle, the last copy in JRT."""
    contexts = {}
    for prompt in prompts:
        start = prompt.text.rfind(prompt.needle.sentence) if prompt.needle_spans else -1
        if start >= 0:
            end = start + len(prompt.needle.sentence)
            before, after = prompt.text[max(0, start - AROUND) : start], prompt.text[end : end + AROUND]
            more = "…" if start > AROUND else "", "…" if end + AROUND < len(prompt.text) else ""
            contexts[prompt.key] = (more[0] + before, after + more[1])
    return contexts


def state_of(
    rows: pd.DataFrame, contexts: Mapping[str, tuple[str, str]], needles: Iterable[Needle] = ()
) -> tuple[dict[str, Any], np.ndarray]:
    """The explorer's state, as JSON can hold it, and the label in `rows` of each row of it.

    Parameters
    ----------
    rows : as `checked` returns them.
    contexts : prompt key to the text before and after its needle.
    needles : those other than the paper's that occur, for the score's items.
    """
    rows, series = _numbered(rows)
    distinct = rows.drop_duplicates(["step", *PLACE])
    control = distinct["needle"] == metrics.CONTROL
    hidden = distinct[~control].sort_values("step", kind="stable")
    steps = summarise_steps(rows, hidden, metrics.matching_controls(distinct[control], hidden))
    # A condition that ran on controls alone has no step.
    hidden["step"] = hidden["step"].map({number: i for i, number in enumerate(steps)})
    known = {needle.digest: needle for needle in (PAPER_NEEDLE, *needles)}
    state = {
        "series": encode_series(series, hidden),
        "steps": list(steps.values()),
        "starts": np.searchsorted(hidden["step"], range(len(steps) + 1)).tolist(),
        **encode_cells(hidden, contexts, known),
        "rubrics": {name: {"maximum": rubric.maximum, "source": rubric.source} for name, rubric in RUBRICS.items()},
        "colours": {"score": _colours(colormap("cividis")), "difference": _colours(matplotlib.colormaps["PuOr"])},
        "made_up": MADE_UP,
    }
    state["start"] = _start(state)
    return state, hidden.index.to_numpy()


def _numbered(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the numbers of their series and step, and the series."""
    rows = rows.assign(
        setting=_settings(rows),
        rubric=rows["rubric"].where(rows["rubric"].isin(list(RUBRICS)), "table2"),
        what=rows["intervention"].where(rows["intervention"].notna(), rows["condition"]),
    )
    # The condition k = 5 of two sweeps is one step, whatever it was called there; what is not KeepHeads has no k.
    rows["what"] = rows["k"].map(lambda k: "" if pd.isna(k) else f"k={int(k)}").where(rows["k"].notna(), rows["what"])
    rows["series"], series = _codes(rows, SERIES)
    rows["step"], _ = _codes(rows, ("series", "what"))
    first = rows.drop_duplicates("step").set_index("step")
    # By series, and in it by falling k; other conditions in the order of the rows.
    rank = pd.DataFrame({"series": first["series"], "k": -first["k"].astype("Float64").fillna(0)})
    order = {int(step): i for i, step in enumerate(rank.sort_values(["series", "k", "step"]).index)}
    return rows.assign(step=rows["step"].map(order)), series


def summarise_steps(rows: pd.DataFrame, hidden: pd.DataFrame, control: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Step number to its label, accuracy and floor, in order; steps without a row in `hidden` are left out."""
    means = metrics.accuracy(hidden, by=["step"], n_boot=200).set_index("step")
    floors = metrics.fraction(control).groupby(control["step"]).mean() if len(control) else pd.Series(dtype=float)
    first = rows.drop_duplicates("step").set_index("step").sort_index()
    return {
        step: {
            "series": int(line.series),
            "label": f"k = {int(line.k)}" if not pd.isna(line.k) else printable(_pair(line)),
            "k": None if pd.isna(line.k) else int(line.k),
            "intervention": printable(line.intervention) if line.intervention is not None else "",
            **{name: round(float(means.loc[step, name]), 4) for name in ("accuracy", "low", "high", "exact")},
            "n": int(means.loc[step, "n"]),
            "prompts": int(means.loc[step, "prompts"]),
            "floor": round(float(floors[step]), 4) if step in floors else None,
        }
        for step, line in ((step, first.loc[step]) for step in first.index if step in means.index)
    }


def encode_series(series: pd.DataFrame, hidden: pd.DataFrame) -> list[dict[str, Any]]:
    """What the conditions of each series have in common."""
    encoded = []
    for i, (line, asked) in enumerate(zip(series.to_dict("records"), _prompts(series, hidden), strict=True)):
        part = hidden[hidden["series"] == i]
        encoded.append({
            **{column: printable(line[column]) for column in SERIES},
            "prompt": printable(asked),
            "random": any(map(has_random_weights, part["model"], part["weights"])),
            "seeds": ", ".join(sorted(set(part["haystack_seed"].astype(str)))),
            "haystack": printable(", ".join(sorted(set(part["haystack"].astype(str))))),
            "ran": printable(" on ".join(filter(None, part[["dtype", "device"]].iloc[0]))) if len(part) else "",
        })  # fmt: skip
    return encoded


def encode_cells(
    hidden: pd.DataFrame, contexts: Mapping[str, tuple[str, str]], needles: Mapping[str, Needle]
) -> dict[str, Any]:
    """The columns of the rows, of their places and of what was said."""
    place, places = _codes(hidden, PLACE)
    said, answers = _codes(hidden, SAID)
    texts, text = pd.factorize(answers["answer"].astype(str))
    items, item = pd.factorize(pd.Series([json.dumps(lines) for lines in _items(answers, needles)]))
    around = [contexts.get(key, (None, None)) for key in places["prompt"]]
    return {
        "rows": {"place": place.tolist(), "said": said.tolist()},
        "places": {
            **{name: _plain(places[name]) for name in ("haystack_seed", "length", "depth", "tokens", "distance")},
            "in_window": places["in_window"].astype(int).tolist(),
            **{name: places[name].astype(str).tolist() for name in ("needle", "asked")},
            "haystack": [printable(name) for name in places["haystack"]],
            "before": [before for before, _ in around],
            "after": [after for _, after in around],
        },
        "said": {
            "answer": texts.tolist(),
            "score": [round(float(x), 4) for x in answers["score"]],
            "exact": answers["exact"].astype(int).tolist(),
            "items": items.tolist(),
        },
        "items": [json.loads(lines) for lines in item],
        "answers": [str(answer) for answer in text],
        "needles": {asked: needle.sentence for asked, needle in needles.items() if asked in set(places["asked"])},
    }


def _settings(rows: pd.DataFrame) -> pd.Series:
    """What the slider of a row's series runs over: k in one version, or the other conditions."""
    l2 = rows["intervention"].astype(str).str.contains("'l2'", regex=False)
    named = rows["during"].map(lambda during: words("during", during) if isinstance(during, str) else "heads kept")
    named = "k, " + named.astype(str) + l2.map({True: ", by norm", False: ""})
    return named.where(rows["k"].notna(), OTHER)


def _pair(line: Any) -> str:
    """What a condition does in each phase, as Table 1 says it; a row's own label may be that of another chapter."""
    phases = [part for part in (line.generation, line.prefill) if isinstance(part, str)]
    return "-".join(part[:1].upper() + part[1:] for part in phases) if len(phases) == 2 else str(line.condition)


def _prompts(series: pd.DataFrame, hidden: pd.DataFrame) -> list[str]:
    """What each series asks, in words: with needle, haystack, device and run where there are several of them."""
    names = hidden.drop_duplicates("asked").set_index("asked")["needle"]
    named = series.assign(
        needle=[f"needle {names.get(asked, asked)}" for asked in series["asked"]],
        ran=series["dtype"].astype(str) + " on " + series["device"].astype(str),
        **{column: f"{column} " + series[column].astype(str) for column in ("asked", "haystack", "run")},
    )
    several = [column for column in ("needle", "haystack", "ran") if named[column].nunique() > 1]
    for column in ("asked", "run"):  # needles of one name, and runs that differ in nothing so far
        apart = ["model", "weights", "recipe", "template", "setting", "rubric", *several]
        if named.duplicated(apart).any() and named[column].nunique() > 1:
            several.append(column)
    lines = named.to_dict("records")
    return [", ".join([words("template", line["template"]), *(str(line[c]) for c in several)]) for line in lines]


def _codes(rows: pd.DataFrame, columns: Iterable[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Number of each row's combination of values, in order of first appearance, and the combinations."""
    columns = list(columns)
    numbers = rows.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()
    return numbers, rows.iloc[np.unique(numbers, return_index=True)[1]][columns].reset_index(drop=True)


def _plain(values: pd.Series) -> list[Any]:
    """Numbers, whole ones without a point."""
    return [int(x) if float(x).is_integer() else round(float(x), 4) for x in values]


def _items(answers: pd.DataFrame, needles: Mapping[str, Needle]) -> list[list[Any]]:
    """Per answer, the score item by item: [phrase, points, found, whether it replaces the sum].

    Empty where the rows' score is not what the rubric gives, so that nothing is explained wrongly.
    """
    items: list[list[Any]] = []
    for answer, points, exact, name, asked in answers.itertuples(index=False, name=None):
        items.append([])
        rubric, needle = RUBRICS[name], needles.get(asked)
        scored = score(str(answer), rubric, needle) if needle is not None else None
        if needle is None or scored is None or abs(scored.points - points) >= 1e-6 or scored.exact != bool(exact):
            continue
        items[-1].append(["the full needle", rubric.maximum, int(scored.exact), 1])
        if needle.sentence == PAPER_NEEDLE.sentence:
            for line in rubric.lines:
                items[-1].append([line.phrase, line.points, int(scored.exact or line.phrase in scored.matched),
                                  int(line.sets)])  # fmt: skip
        else:
            worth = 0.6 * rubric.maximum / max(1, len(needle.keywords)) if rubric.lines else 0.0
            for word in needle.keywords:
                matched = scored.exact or word in scored.matched or word.lower() in scored.matched
                items[-1].append([word, worth, int(matched), 0])
    return items


def _colours(colours: Any) -> list[str]:
    return [matplotlib.colors.to_hex(colours(i / 255)) for i in range(256)]


def _start(state: dict[str, Any]) -> dict[str, int]:
    """What is shown first: all heads beside the most heads with which nothing is left, of the curve that shows it best.

    `a` and `b` are steps. Of conditions without k: the first one beside the worst.
    """
    best = (-np.inf, 0, 0)
    for number, series in enumerate(state["series"]):
        steps = [(i, step) for i, step in enumerate(state["steps"]) if step["series"] == number]
        if not steps:
            continue
        above = [step["accuracy"] - (step["floor"] or 0) for _, step in steps]
        by_k = steps[0][1]["k"] is not None
        # Steps of k fall from all heads to none: gone is where nothing is left from there on.
        gone = [j for j in range(1, len(steps)) if by_k and max(above[j:]) <= metrics.NOTHING]
        worst = gone[0] if gone else int(np.argmin(above))
        # Curves over k are what the paper is about, first of all of its Figure 2; of those that lose half of the score
        # the first in the rows stays.
        plain = (series["template"] != "jrt") + ("generation" in series["setting"]) + (series["recipe"] == "CORRECTED")
        worth = min(0.5, above[0] - above[worst]) + (1 + 0.1 * plain if by_k else 0)
        if worth > best[0]:
            best = (worth, steps[0][0], steps[worst][0])
    return {"a": best[1], "b": best[2]}
