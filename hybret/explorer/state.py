"""Rows as the state of the map explorer: dictionary-encoded columns, so that tens of thousands of cells stay small.

A row is three numbers: its step (one condition of one series of conditions), its place (one prompt), and what was said
(one answer with its score). Rows come sorted by step, so that a view of one step reads one slice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.families import has_random_weights, known_as
from hybret.figures.style import MADE_UP, SCORES, words
from hybret.prompts import PAPER_NEEDLE, Needle, Prompt
from hybret.rows import ACTS, CELL, MEASURE
from hybret.scoring import PARTIAL, RUBRICS, Rubric, score

SERIES = ("model", "weights", "recipe", "template", "setting", "rubric", "haystack", "asked", "dtype", "device", "run")
PLACE = ("prompt", *CELL, "tokens", "distance", "in_window")
SAID = (*MEASURE, "rubric", "asked")
OTHER = "manipulation (generation-prefill)"  # the setting of conditions that are not an order of k
AROUND = 140  # characters of the prompt on each side of its needle


def checked(rows: pd.DataFrame) -> pd.DataFrame:
    """A copy of the rows that are drawn, control rows included; refused if they have no map."""
    if isinstance(rows, pd.DataFrame) and rows.empty:
        raise HybretError("there are no rows to explore; run a sweep first, or check the selection")
    columns = [name for name in ("condition", *ACTS, *PLACE, *SAID, *SERIES) if name != "setting"]
    rows = metrics.scored(rows, (), *columns)[0].reset_index(drop=True)
    control, placed = rows["needle"] == metrics.CONTROL, rows["length"].notna() & rows["depth"].notna()
    if not (placed & ~control).any():
        raise HybretError("no row has a needle with a length and a depth, so there is no map; pass rows of a grid")
    return rows[control | placed]


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
    """The explorer's state, as JSON can hold it, and the label in `rows` (as `checked` returns them) of each row of it.

    `contexts` maps a prompt's key to the text before and after its needle.
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
        "colours": {"score": _colours(SCORES), "difference": _colours(matplotlib.colormaps["PuOr"])},
        "made_up": MADE_UP,
    }
    return state | {"start": _start(state)}, hidden.index.to_numpy()


def _numbered(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the numbers of their series and step, and the series."""
    # The slider of a series runs over k in one version, or over the other conditions.
    metric = rows["intervention"].str.extract("metric='(?!entropy')([^']+)", expand=False)
    more = rows["intervention"].str.extract(r"metric=.*during='\w+'(, .+)\)$", expand=False).fillna("")
    setting = "k, " + rows["during"].map(lambda during: words("during", during)) + (", by " + metric).fillna("") + more
    # The condition k = 5 of two sweeps is one step, whatever it was called there; what is not KeepHeads has no k.
    what = rows["intervention"].mask(rows["k"].notna(), "k=" + rows["k"].astype(str))
    rows = rows.assign(setting=setting.where(rows["k"].notna(), OTHER), what=what)
    rows["series"], series = _codes(rows, SERIES)
    rows["step"], _ = _codes(rows, ("series", "what"))
    first = rows.drop_duplicates("step").set_index("step")
    # By series, and in it by falling k; other conditions in the order of the rows.
    rank = pd.DataFrame({"series": first["series"], "k": -first["k"].astype("Float64").fillna(0)})
    order = {int(step): i for i, step in enumerate(rank.sort_values(["series", "k", "step"]).index)}
    return rows.assign(step=rows["step"].map(order)), series


def summarise_steps(rows: pd.DataFrame, hidden: pd.DataFrame, control: pd.DataFrame) -> dict[int, dict[str, Any]]:
    """Label, accuracy and score without the needle by step number, in order; only of steps with a row in `hidden`."""
    means = metrics.accuracy(hidden, by=["step"], n_boot=200).set_index("step").sort_index()
    floors: Any = metrics.fraction(control).groupby(control["step"]).mean() if len(control) else {}
    first = rows.drop_duplicates("step").set_index("step")
    steps: dict[int, dict[str, Any]] = {}
    for step in map(int, means.index):
        line: Any = first.loc[step]
        mean: Any = means.loc[step]
        k = None if pd.isna(line.k) else int(line.k)
        steps[step] = {
            "series": int(line.series),
            "label": printable(_pair(line)) if k is None else f"k = {k}",
            "k": k,
            "intervention": printable(line.intervention),
            **{name: round(float(mean[name]), 4) for name in ("accuracy", "low", "high", "exact")},
            **{name: int(mean[name]) for name in ("n", "prompts")},
            "floor": round(float(floors[step]), 4) if step in floors else None,
        }
    return steps


def encode_series(series: pd.DataFrame, hidden: pd.DataFrame) -> list[dict[str, Any]]:
    """What the conditions of each series have in common."""
    seeds = hidden["haystack_seed"].astype(str).groupby(hidden["series"]).unique()
    encoded = [
        {
            **{column: printable(line[column]) for column in SERIES},
            "model": printable(known_as(line["model"])),
            "prompt": printable(asked),
            "random": has_random_weights(line["model"], line["weights"]),
            "seeds": ", ".join(sorted(seeds.get(i, ()))),
            "ran": printable(" on ".join(filter(None, (line["dtype"], line["device"])))),
        }
        for i, (line, asked) in enumerate(zip(series.to_dict("records"), _prompts(series, hidden), strict=True))
    ]
    return [{**line, "names": names} for line, names in zip(encoded, _names(pd.DataFrame(encoded)), strict=True)]


def _names(series: pd.DataFrame) -> list[Any]:
    """The names by which each series is chosen; what would be called alike says how it differs."""
    names = series[["model", "recipe", "prompt", "setting"]].copy()
    several = series.groupby("model")["weights"].transform("nunique") > 1
    names["model"] += (" (" + series["weights"].str[:8] + ")").where(several, "")
    for name, column in (("prompt", "template"), ("setting", "rubric")):
        names[name] += (", " + series[column]).where(names.duplicated(keep=False), "")
    return names.to_dict("records")


def encode_cells(
    hidden: pd.DataFrame, contexts: Mapping[str, tuple[str, str]], needles: Mapping[str, Needle]
) -> dict[str, Any]:
    """The columns of the rows, of their places and of what was said."""
    place, places = _codes(hidden, PLACE)
    said, answers = _codes(hidden, SAID)
    texts, text = pd.factorize(answers["answer"].astype(str))
    scored = [
        json.dumps(_items(answer, points, exact, RUBRICS[rubric], needles.get(asked)))
        for answer, points, exact, rubric, asked in answers.itertuples(index=False, name=None)
    ]
    items, item = pd.factorize(pd.Series(scored))
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


def _pair(line: Any) -> str:
    """What a condition does in each phase, as Table 1 says it; a row's own label may be that of another chapter."""
    phases = [part for part in (line.generation, line.prefill) if isinstance(part, str)]
    if len(phases) != 2:
        return str(line.condition)
    if all(map(str.isalpha, phases)):
        return "-".join(map(str.capitalize, phases))
    answering, reading = map(_phase, phases)
    return f"{answering} while answering" + ("" if reading == "Keep" else f", {reading} while reading")


def _phase(name: str) -> str:
    """What happens in one phase, in words."""
    name = f"keep & {name}" if name.startswith("mass") else name
    name = name.replace(" & mass that on the needle", " at the needle's total attention")
    return name[:1].upper() + name[1:].replace(" & mass ", " at total attention ")


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


def _codes(rows: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Number of each row's combination of values, in order of first appearance, and the combinations."""
    numbers = rows.groupby([*columns], sort=False, dropna=False).ngroup().to_numpy()
    return numbers, rows.iloc[np.unique(numbers, return_index=True)[1]][[*columns]].reset_index(drop=True)


def _plain(values: pd.Series) -> list[Any]:
    """Numbers, whole ones without a point."""
    return [int(x) if float(x).is_integer() else round(float(x), 4) for x in values]


def _items(answer: str, points: float, exact: bool, rubric: Rubric, needle: Needle | None) -> list[list[Any]]:
    """The score of an answer item by item: [phrase, points, found, whether it replaces the sum].

    Empty where it is not what the rubric gives, so that nothing is explained wrongly.
    """
    scored = score(answer, rubric, needle) if needle else None
    if needle is None or scored is None or abs(scored.points - points) >= 1e-6 or scored.exact != exact:
        return []
    phrases = [(line.phrase, line.points, line.sets) for line in rubric.lines]
    if needle.sentence != PAPER_NEEDLE.sentence:
        worth = PARTIAL * rubric.maximum / max(1, len(needle.keywords)) if rubric.lines else 0.0
        phrases = [(word, worth, False) for word in needle.keywords]
    return [
        ["the full needle", rubric.maximum, int(scored.exact), 1],
        *([name, worth, int(scored.exact or name in scored.matched), int(sets)] for name, worth, sets in phrases),
    ]


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
