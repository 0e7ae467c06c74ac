"""Rows as the state of the map explorer: dictionary-encoded columns, so that tens of thousands of cells stay small.

A row is three numbers: its step (one condition of one series of conditions), its place (one prompt), and what was said
(one answer with its score). Rows come sorted by step, so that a view of one step reads one slice.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from .. import tables, tipping
from ..errors import HybretError, printable
from ..figures.style import MADE_UP, colormap, words
from ..presets import made_up
from ..prompts import PAPER_NEEDLE, Needle
from ..scoring import RUBRICS, score

NEEDED = (
    "model",
    "recipe",
    "condition",
    "template",
    "needle",
    "asked",
    "length",
    "depth",
    "answer",
    "score",
    "exact",
    "prompt",
)
OPTIONAL: dict[str, Any] = {
    "weights": "", "intervention": None, "generation": None, "prefill": None, "k": pd.NA, "during": None,
    "haystack": "", "haystack_seed": 0, "tokens": -1, "distance": -1, "in_window": True, "rubric": "table2",
    "device": "", "dtype": "", "run": "",
}  # fmt: skip
SERIES = ("model", "weights", "recipe", "template", "setting", "rubric", "haystack", "asked", "dtype", "device", "run")
PLACE = (
    "prompt",
    "template",
    "haystack",
    "haystack_seed",
    "needle",
    "asked",
    "length",
    "depth",
    "tokens",
    "distance",
    "in_window",
)
SAID = ("answer", "score", "exact", "rubric", "asked")
OTHER = "manipulation (generation-prefill)"  # the setting of conditions that are not an order of k


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy of `rows` with every column that the state takes, control rows included.

    Raises
    ------
    HybretError
        If no map can be drawn of them, with the reason.
    """
    if not isinstance(rows, pd.DataFrame):
        raise HybretError(f"explore() takes the rows of a sweep, a DataFrame, not {type(rows).__name__}")
    if rows.empty:
        raise HybretError("there are no rows to explore; run a sweep first, or check the selection")
    if missing := [column for column in NEEDED if column not in rows]:
        raise HybretError(f"these rows have no column {missing[0]!r}; pass the rows of hybret.sweep or hybret.stored")
    rows = rows.assign(**{name: value for name, value in OPTIONAL.items() if name not in rows}).reset_index(drop=True)
    if rows["score"].isna().any():
        raise HybretError("some rows have no score; score them with hybret.scoring.rescore() first")
    if unknown := sorted({*map(str, rows["rubric"].dropna())} - {*RUBRICS}):
        raise HybretError(f"these rows have the unknown rubric {unknown[0]!r}; choose one of {', '.join(RUBRICS)}")
    hidden = rows["needle"] != tables.CONTROL
    if not (hidden & rows["length"].notna() & rows["depth"].notna()).any():
        raise HybretError("no row has a needle with a length and a depth, so there is no map; pass rows of a grid")
    return tables.settled(rows[~hidden | (rows["length"].notna() & rows["depth"].notna())])


def state_of(
    rows: pd.DataFrame, contexts: Mapping[str, tuple[str, str]], needles: Iterable[Needle] = ()
) -> tuple[dict[str, Any], np.ndarray]:
    """The explorer's state.

    Parameters
    ----------
    rows : as `checked` returns them.
    contexts : prompt key to the text before and after its needle.
    needles : those other than the paper's that occur, for the score's items.

    Returns
    -------
    state : columns, as JSON can hold them.
    order : int, shape (rows of the state,); the label in `rows` of each row of the state.
    """
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
    place_in_order = {int(s): i for i, s in enumerate(rank.sort_values(["series", "k", "step"]).index)}
    rows["step"] = rows["step"].map(place_in_order)
    first = rows.drop_duplicates("step").set_index("step").sort_index()

    hidden = rows[rows["needle"] != tables.CONTROL].drop_duplicates(["step", *PLACE]).sort_values("step", kind="stable")
    means = tables.accuracy(hidden, by=["step"], n_boot=200).set_index("step")
    control = rows[rows["needle"] == tables.CONTROL].drop_duplicates(["step", *PLACE])
    control = tables.belonging(control, hidden)
    floors = tables.fraction(control).groupby(control["step"]).mean() if len(control) else pd.Series(dtype=float)
    hidden["place"], places = _codes(hidden, PLACE)
    hidden["said"], said = _codes(hidden, SAID)
    steps = [
        {
            "series": int(line.series),
            "label": f"k = {int(line.k)}" if not pd.isna(line.k) else printable(_pair(line)),
            "k": None if pd.isna(line.k) else int(line.k),
            "intervention": printable(line.intervention) if line.intervention is not None else "",
            **{name: round(float(means.loc[i, name]), 4) for name in ("accuracy", "low", "high", "exact")},
            "n": int(means.loc[i, "n"]),
            "prompts": int(means.loc[i, "prompts"]),
            "floor": round(float(floors[i]), 4) if i in floors else None,
        }
        if i in means.index
        else None  # a condition that ran on controls alone
        for i, line in ((i, first.loc[i]) for i in first.index)
    ]
    kept = [i for i, step in enumerate(steps) if step is not None]
    renumbered = {old: new for new, old in enumerate(kept)}
    hidden["step"] = hidden["step"].map(renumbered)
    shown = [step for step in steps if step is not None]
    starts = np.searchsorted(hidden["step"], range(len(shown) + 1)).tolist()
    known = {needle.digest: needle for needle in (PAPER_NEEDLE, *needles)}
    answers, answer = pd.factorize(said["answer"].astype(str))
    items, item = pd.factorize(pd.Series([json.dumps(lines) for lines in _items(said, known)]))
    texts = [contexts.get(key) for key in places["prompt"]]
    state: dict[str, Any] = {
        "series": [
            {
                **{c: printable(line[c]) for c in SERIES},
                "prompt": printable(name),
                **_facts(hidden, i),
            }
            for i, (line, name) in enumerate(zip(series.to_dict("records"), _prompts(series, hidden), strict=True))
        ],
        "steps": shown,
        "starts": starts,
        "rows": {name: hidden[name].astype(int).tolist() for name in ("place", "said")},
        "places": {
            **{name: _plain(places[name]) for name in ("haystack_seed", "length", "depth", "tokens", "distance")},
            "in_window": places["in_window"].astype(int).tolist(),
            **{name: places[name].astype(str).tolist() for name in ("needle", "asked")},
            "haystack": [printable(name) for name in places["haystack"]],
            "before": [text[0] if text else None for text in texts],
            "after": [text[1] if text else None for text in texts],
        },
        "said": {
            "answer": answers.tolist(),
            "score": [round(float(x), 4) for x in said["score"]],
            "exact": said["exact"].astype(int).tolist(),
            "items": items.tolist(),
        },
        "items": [json.loads(lines) for lines in item],
        "answers": [str(text) for text in answer],
        "needles": {asked: needle.sentence for asked, needle in known.items() if asked in set(places["asked"])},
        "rubrics": {name: {"maximum": RUBRICS[name].maximum, "source": RUBRICS[name].source} for name in RUBRICS},
        "colours": {
            "score": _colours(colormap("cividis")),
            "difference": _colours(matplotlib.colormaps["PuOr"]),
        },
        "made_up": MADE_UP,
    }
    state["start"] = _start(state)
    return state, hidden.index.to_numpy()


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
    told = series.assign(
        needle=[f"needle {names.get(asked, asked)}" for asked in series["asked"]],
        asked="asked " + series["asked"].astype(str),
        haystack="haystack " + series["haystack"].astype(str),
        ran=series["dtype"].astype(str) + " on " + series["device"].astype(str),
    )
    several = [column for column in ("needle", "haystack", "ran") if told[column].nunique() > 1]
    own = ["model", "weights", "recipe", "template", "setting", "rubric", *several]
    for column in ("asked", "run"):  # needles of one name, and runs that differ in nothing said so far
        if told.duplicated(own).any() and told[column].nunique() > 1:
            several, own = [*several, column], [*own, column]
    told["run"] = "run " + told["run"].astype(str)
    return [
        ", ".join([words("template", line["template"]), *(str(line[column]) for column in several)])
        for line in told.to_dict("records")
    ]


def _codes(rows: pd.DataFrame, columns: Iterable[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Number of each row's combination of values, in order of first appearance, and the combinations."""
    columns = list(columns)
    numbers = rows.groupby(columns, sort=False, dropna=False).ngroup().to_numpy()
    return numbers, rows.iloc[np.unique(numbers, return_index=True)[1]][columns].reset_index(drop=True)


def _plain(values: pd.Series) -> list[Any]:
    """Numbers, whole ones without a point."""
    return [int(x) if float(x).is_integer() else round(float(x), 4) for x in values]


def _facts(hidden: pd.DataFrame, series: int) -> dict[str, Any]:
    mine = hidden[hidden["series"] == series]
    seeds = sorted(set(mine["haystack_seed"].astype(str)))
    return {
        "random": bool(made_up(mine["model"], mine["weights"]).any()),
        "seeds": ", ".join(seeds),
        "haystack": printable(", ".join(sorted(set(mine["haystack"].astype(str))))),
        "ran": printable(" on ".join(filter(None, mine[["dtype", "device"]].iloc[0]))) if len(mine) else "",
    }


def _items(said: pd.DataFrame, needles: Mapping[str, Needle]) -> list[list[Any]]:
    """Per thing said, the score item by item: [phrase, points, found, whether it replaces the sum].

    Empty where the rows' score is not what the rubric gives, so that nothing is explained wrongly.
    """
    found: dict[Hashable, list[Any]] = {}
    for key in said.itertuples(index=False, name=None):
        answer, points, exact, name, asked = key
        rubric, hidden, lines = RUBRICS[name], needles.get(asked), list[Any]()
        if hidden is not None:
            scored = score(str(answer), rubric, hidden)
            if abs(scored.points - points) < 1e-6 and bool(scored.exact) == bool(exact):
                lines = [["the full needle", rubric.maximum, int(scored.exact), 1]]
                if hidden.sentence == PAPER_NEEDLE.sentence:
                    matched = {line.phrase for line in rubric.lines} if scored.exact else set(scored.matched)
                    lines += [[i.phrase, i.points, int(i.phrase in matched), int(i.sets)] for i in rubric.lines]
                else:
                    each = 0.6 * rubric.maximum / max(1, len(hidden.keywords)) if rubric.lines else 0.0
                    whole = set(hidden.keywords) if scored.exact else set(scored.matched)
                    lines += [[k, each, int(k in whole or k.lower() in whole), 0] for k in hidden.keywords]
        found[key] = lines
    return list(found.values())


def _colours(colours: Any) -> list[str]:
    return [matplotlib.colors.to_hex(colours(i / 255)) for i in range(256)]


def _start(state: dict[str, Any]) -> dict[str, int]:
    """What is shown first: all heads beside the most heads with which nothing is left, of the curve that shows it best.

    `a` and `b` are steps. Of conditions without k: the first one beside the worst.
    """
    best: tuple[float, int, int] | None = None
    for number in range(len(state["series"])):
        mine = [i for i, step in enumerate(state["steps"]) if step["series"] == number]
        if not mine:
            continue
        above = [state["steps"][i]["accuracy"] - (state["steps"][i]["floor"] or 0) for i in mine]
        by_k = state["steps"][mine[0]]["k"] is not None
        # Steps of k fall from all heads to none: gone is where nothing is left from there on.
        gone = [j for j in range(1, len(mine)) if max(above[j:]) <= tipping.NOTHING] if by_k else []
        other = gone[0] if gone else int(np.argmin(above))
        # Curves over k are what the paper is about, first of all of its Figure 2; of those that lose half of the score
        # the first in the rows stays.
        series = state["series"][number]
        plain = (series["template"] != "jrt") + ("generation" in series["setting"]) + (series["recipe"] == "CORRECTED")
        worth = min(0.5, above[0] - above[other]) + (1 + 0.1 * plain if by_k else 0)
        if best is None or worth > best[0]:
            best = (worth, mine[0], mine[other])
    assert best is not None
    return {"a": best[1], "b": best[2]}


def size(state: Mapping[str, Any]) -> int:
    """Bytes that the state takes as JSON."""
    return len(json.dumps(state, ensure_ascii=False, separators=(",", ":")).encode())
