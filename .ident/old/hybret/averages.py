"""Scores of benchmarks: per task, and the averages that a benchmark can be reported by, with intervals.

lm-evaluation-harness gives GLUE no average, and weights the subjects of MMLU by their size. Papers seldom say what they
averaged, so every variant is computed. Intervals are 95 %: the documents of each task are resampled, those about one
list or fact together, and a document's answers under all conditions are kept together, so that differences between
conditions are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import numpy as np
import pandas as pd

from . import asked, tables
from .errors import HybretError
from .intervals import unseen

MEASURES = ("acc", "mcc", "f1")
# GLUE's own measures: Matthews correlation for cola, accuracy and F1 for mrpc and qqp, accuracy elsewhere.
CORRELATION, WITH_F1, TWICE = ("cola",), ("mrpc", "qqp"), ("mnli", "mnli_mismatch")
BASE = "base"
DRAWS = 1000  # of the bootstrap

Weights = dict[tuple[str, str], float]
"""The weight of each (task, measure) in an average; they add up to 1. Empty where there is nothing to average."""


def _macro(sizes: Mapping[str, int]) -> Weights:
    return {(task, "acc"): 1 / len(sizes) for task in sizes}


def _by_size(sizes: Mapping[str, int]) -> Weights:
    return {(task, "acc"): n / sum(sizes.values()) for task, n in sizes.items()}


def _glue(sizes: Iterable[str], f1: bool = False) -> Weights:
    """Equal weights of tasks, and within a task of its measures."""
    own = {
        task: ("mcc",) if task in CORRELATION else ("acc", "f1") if f1 and task in WITH_F1 else ("acc",)
        for task in sizes
    }
    return {(task, measure): 1 / len(own) / len(measures) for task, measures in own.items() for measure in measures}


def _mnli_once(sizes: Mapping[str, int], f1: bool = False) -> Weights:
    """The two halves of mnli as one task, as on GLUE's own leaderboard."""
    weights = _glue([task for task in sizes if task != TWICE[1]], f1)
    if set(TWICE) <= set(sizes):
        weights |= dict.fromkeys([(task, "acc") for task in TWICE], weights[TWICE[0], "acc"] / 2)
    return weights


VARIANTS: dict[str, dict[str, Callable[[Mapping[str, int]], Weights]]] = {
    "glue": {
        "mean of tasks, mcc for cola, accuracy elsewhere": _glue,
        "mean of tasks, accuracy": _macro,
        "mean of tasks, mcc for cola, F1 too for mrpc and qqp": partial(_glue, f1=True),
        "mnli counted once, mcc for cola, accuracy elsewhere": _mnli_once,
        "GLUE's own: mnli counted once, mcc for cola, F1 too for mrpc and qqp": partial(_mnli_once, f1=True),
        "without wnli, mcc for cola, accuracy elsewhere": lambda sizes: _glue([t for t in sizes if t != "wnli"]),
        "weighted by size, accuracy": _by_size,
    },
    "mmlu": {"weighted by size, accuracy": _by_size, "mean of tasks, accuracy": _macro},
    "organism": {"mean of tasks, accuracy": _macro, "weighted by size, accuracy": _by_size},
}
"""By benchmark and name, from the sizes of its tasks; the first one is the default."""


def per_task(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Scores of every task under every condition.

    Parameters
    ----------
    rows : from `hybret.harness.evaluate`, of one model and recipe.
    seed : of the bootstrap.

    Returns
    -------
    DataFrame
        benchmark, group, task, label, condition, n, chance (1 / choices), then acc, mcc and f1 (mcc from -1 to 1; NA
        where there are not two classes), each with its ``_low`` and ``_high``, and loss: how far acc lies below that of
        the condition ``"base"``, paired, with ``loss_low`` and ``loss_high`` (NA without a base).
    """
    lines = []
    for sample in _samples(rows, seed):
        for condition in sample.conditions:
            line = {name: getattr(sample, name) for name in ("benchmark", "group", "task", "label")}
            line |= {"condition": condition, "n": sample.n, "chance": sample.chance}
            for measure in MEASURES:
                least = -1.0 if measure == "mcc" else 0.0
                line |= _named(measure, interval(sample.score(condition, measure), sample.clusters, least))
            base, own = (sample.score(each, "acc") for each in (BASE, condition))
            lines.append(line | _loss(condition, base, own, sample.clusters))
    return pd.DataFrame(lines)


def averages(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Every variant of a benchmark's average, under every condition.

    The organisms' groups and MMLU's categories have averages of their own; so has all of a benchmark.

    Returns
    -------
    DataFrame
        benchmark, group (``"all"``, ``"glue"``, ``"mmlu-lookup"``, ...), variant, default (whether it is the
        benchmark's first), condition, tasks, n (documents), chance (of guessing; F1 counts as accuracy there), value,
        low, high (0 to 1), then loss, loss_low and loss_high: how far it lies below the condition ``"base"``, paired;
        and kept: its share of base.
    """
    samples = list(_samples(rows, seed))
    lines = []
    for benchmark in dict.fromkeys(s.benchmark for s in samples):
        mine = [s for s in samples if s.benchmark == benchmark]
        groups = {group: [s for s in mine if s.group == group] for group in dict.fromkeys(s.group for s in mine)}
        # What the organisms' look-ups, facts and sentences have in common is the model alone.
        parts = groups if benchmark == "organism" else {"all": mine} | (groups if len(groups) > 1 else {})
        for group, members in parts.items():
            for number, (variant, weights) in enumerate(VARIANTS[benchmark].items()):
                average = _average(weights, members)
                base = average.scores.get(BASE, np.full(1 + DRAWS, np.nan))
                for condition, score in average.scores.items():
                    lines.append({
                        "benchmark": benchmark, "group": group, "variant": variant, "default": number == 0,
                        "condition": condition, "tasks": average.tasks, "n": average.n, "chance": average.chance,
                        **_named("value", interval(score, average.clusters)),
                        **_loss(condition, base, score, average.clusters),
                        "kept": score[0] / base[0] if base[0] else np.nan,
                    })  # fmt: skip
    return pd.DataFrame(lines).rename(columns={"value_low": "low", "value_high": "high"})


def headline(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The default lines of `averages`: one for each of the organisms' groups, and for GLUE and MMLU as a whole."""
    table = averages(rows, seed)
    return table[table["default"] & ((table["group"] == "all") | (table["benchmark"] == "organism"))]


@dataclass(frozen=True)
class Average:
    """One average under every condition: on the data, then on every draw of the bootstrap.

    Attributes
    ----------
    scores : by condition, arrays of 1 + `DRAWS` numbers. The same documents are drawn under every condition.
    n, clusters, tasks : documents, what was drawn (lists, facts, or single documents), and tasks.
    chance : the score of guessing.
    """

    scores: dict[str, np.ndarray]
    n: int
    clusters: int
    tasks: int
    chance: float


def default(rows: pd.DataFrame, seed: int = 0) -> Average:
    """The default average of some tasks of one benchmark.

    Parameters
    ----------
    rows : from `hybret.harness.evaluate`, of one model and recipe.
    seed : of the bootstrap.
    """
    samples = list(_samples(rows, seed))
    return _average(next(iter(VARIANTS[samples[0].benchmark].values())), samples)


def _average(weigh: Callable[[Mapping[str, int]], Weights], members: Sequence[_Sample]) -> Average:
    by_name = {s.task: s for s in members}
    weights = weigh({s.task: s.n for s in members})
    scores = {
        condition: np.sum([w * by_name[t].score(condition, measure) for (t, measure), w in weights.items()], axis=0)
        for condition in members[0].conditions
        if weights
    }
    chance = sum(w * by_name[task].chance for (task, measure), w in weights.items() if measure != "mcc")
    used = [by_name[task] for task in {task for task, _ in weights}]
    return Average(scores, sum(s.n for s in used), sum(s.clusters for s in used), len(used), chance)


@dataclass(frozen=True)
class _Sample:
    """Answers to one task: how often each combination of right and chosen answers occurs, and resampled so."""

    benchmark: str
    group: str
    task: str
    label: str
    conditions: list[str]
    chance: float
    cells: np.ndarray  # (cells, 1 + conditions): the right choice, then what each condition chose
    counts: np.ndarray  # (1 + draws, cells): first the data themselves
    clusters: int  # what was drawn: lists, facts, or single documents

    @property
    def n(self) -> int:
        return int(self.counts[0].sum())

    def score(self, condition: str, measure: str) -> np.ndarray:
        """The measure on the data, then on every draw; NaN without such a condition, or more than two classes."""
        nothing = np.full(len(self.counts), np.nan)
        if condition not in self.conditions:
            return nothing
        gold, chosen = self.cells[:, 0], self.cells[:, 1 + self.conditions.index(condition)]
        if measure == "acc":
            return self.counts @ (gold == chosen) / self.counts.sum(axis=1)
        if max(gold.max(), chosen.max()) > 1:
            return nothing
        tp, fp, fn, tn = (self.counts @ ((gold == g) & (chosen == c)) for g, c in ((1, 1), (0, 1), (1, 0), (0, 0)))
        with np.errstate(divide="ignore", invalid="ignore"):
            if measure == "f1":
                values = 2 * tp / (2 * tp + fp + fn)
            else:
                values = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return np.nan_to_num(values)  # one class alone, chosen or right: 0 by convention, as in scikit-learn


def _samples(rows: pd.DataFrame, seed: int) -> Iterator[_Sample]:
    wanted = ["benchmark", "group", "task", "label", "condition", "doc_id", "cluster", "gold", "chosen", "choices"]
    asked.table(rows, wanted, ("gold", "chosen", "choices"), what="harness.evaluate")
    if rows.empty:
        raise HybretError("there are no rows to average")
    tables.alike(rows, ["condition"])
    if rows.duplicated(["benchmark", "task", "doc_id", "condition"]).any():
        raise HybretError("some documents are there twice under one condition and would count twice; give each once")
    conditions = list(dict.fromkeys(rows["condition"]))
    for task, part in rows.groupby("task", sort=False):
        chosen = part.pivot(index="doc_id", columns="condition", values="chosen").reindex(columns=conditions)
        if chosen.isna().any(axis=None):
            raise HybretError(f"not every document of {task} was answered under every condition")
        once = part.drop_duplicates("doc_id").set_index("doc_id").loc[chosen.index]
        answers = np.column_stack([once["gold"], chosen]).astype(int)
        cells, cell = np.unique(answers, axis=0, return_inverse=True)
        # A kind of cluster is how often each cell occurs in it: there are far fewer kinds than clusters.
        held = pd.crosstab(once["cluster"].to_numpy(), cell.ravel()).to_numpy()
        kinds, times = np.unique(held, axis=0, return_counts=True)
        # Drawn by the task's name: tasks are independent of one another, whichever are evaluated together.
        generator = np.random.default_rng([seed, crc32(str(task).encode())])
        draws = generator.multinomial(len(held), times / len(held), size=DRAWS)
        counts = np.vstack([times, draws]).astype(float) @ kinds
        first = part.iloc[0]
        yield _Sample(
            first["benchmark"], first["group"], str(task), first["label"], conditions,
            float((1 / part["choices"]).mean()), cells, counts, len(held),
        )  # fmt: skip


def interval(scores: np.ndarray, clusters: int, least: float = 0.0) -> tuple[float, float, float]:
    """A score with its 95 % interval: percentiles, and where nothing varies, what was not seen in so many clusters.

    Parameters
    ----------
    scores : on the data, then on every draw.
    clusters : lists, facts, or single documents.
    least : the least possible score; the greatest is 1.
    """
    value, draws = float(scores[0]), scores[1:]
    if np.isnan(value):
        return value, value, value
    if np.ptp(draws) < 1e-12:
        return value, value - unseen(clusters) * (value - least), value + unseen(clusters) * (1 - value)
    low, high = np.percentile(draws, [2.5, 97.5])
    return value, float(low), float(high)


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _loss(condition: str, base: np.ndarray, score: np.ndarray, clusters: int) -> dict[str, float]:
    """How far a condition lies below the base, with its paired interval; the base's own loss is exactly 0."""
    return _named("loss", (0.0, 0.0, 0.0) if condition == BASE else interval(base - score, clusters, -1.0))
