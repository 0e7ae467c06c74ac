"""Scores of benchmarks: per task, and the averages that a benchmark can be reported by, with intervals.

lm-evaluation-harness gives GLUE no average, and weights the subjects of MMLU by their size. Papers seldom say what they
averaged, so every variant is computed. Intervals are 95 %: the documents of each task are resampled, those about one
list or fact together, and a document's answers under all conditions are kept together, so that differences between
conditions are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .errors import HybretError
from .intervals import unseen

MEASURES = ("acc", "mcc", "f1")
# GLUE's own measures: Matthews correlation for cola, accuracy and F1 for mrpc and qqp, accuracy elsewhere.
CORRELATION, WITH_F1, TWICE = ("cola",), ("mrpc", "qqp"), ("mnli", "mnli_mismatch")
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """A way to make one number of several tasks.

    Attributes
    ----------
    name : as in the tables.
    weights : from the tasks of a benchmark and their sizes to the weight of each (task, measure); they add up to 1.
    """

    name: str
    weights: Callable[[dict[str, int]], dict[tuple[str, str], float]]


def _mean(parts: dict[str, tuple[str, ...]]) -> dict[tuple[str, str], float]:
    """Equal weights of tasks, and within a task of its measures."""
    return {(task, m): 1 / len(parts) / len(measures) for task, measures in parts.items() for m in measures}


def _glue(task: str, f1: bool = False) -> tuple[str, ...]:
    return ("mcc",) if task in CORRELATION else ("acc", "f1") if f1 and task in WITH_F1 else ("acc",)


def _eight(sizes: dict[str, int], f1: bool) -> dict[tuple[str, str], float]:
    """The two halves of mnli as one task, as on GLUE's own leaderboard."""
    names = [task for task in sizes if task != TWICE[1]]
    weights = _mean({task: _glue(task, f1) for task in names})
    if set(TWICE) <= set(sizes):
        half = weights[TWICE[0], "acc"] / 2
        weights |= {(task, "acc"): half for task in TWICE}
    return weights


def _by_size(sizes: dict[str, int]) -> dict[tuple[str, str], float]:
    return {(task, "acc"): n / sum(sizes.values()) for task, n in sizes.items()}


MACRO = Variant("mean of tasks, accuracy", lambda sizes: _mean({task: ("acc",) for task in sizes}))
SIZE = Variant("weighted by size, accuracy", _by_size)
GLUE = Variant("mean of tasks, mcc for cola, accuracy elsewhere", lambda s: _mean({t: _glue(t) for t in s}))
VARIANTS = {
    "glue": (
        GLUE,
        MACRO,
        Variant("the same, and F1 for mrpc and qqp", lambda s: _mean({t: _glue(t, f1=True) for t in s})),
        Variant("mnli counted once, mcc for cola, accuracy elsewhere", lambda s: _eight(s, f1=False)),
        Variant("GLUE's own: mnli counted once, and F1 for mrpc and qqp", lambda s: _eight(s, f1=True)),
        Variant(
            "without wnli, mcc for cola, accuracy elsewhere",
            lambda s: _mean({t: _glue(t) for t in s if t != "wnli"}) if set(s) != {"wnli"} else {},
        ),
        SIZE,
    ),
    "mmlu": (SIZE, MACRO),
    "organism": (MACRO, SIZE),
}
"""By benchmark; the first one is the default."""


def per_task(rows: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Scores of every task under every condition.

    Parameters
    ----------
    rows : from `hybret.harness.evaluate`, of one model and recipe.
    n_boot, seed : bootstrap draws and their seed.

    Returns
    -------
    DataFrame
        benchmark, group, task, label, condition, n, chance (1 / choices), then acc, mcc and f1 (mcc from -1 to 1; NA
        where there are not two classes), each with its ``_low`` and ``_high``, and loss: how far acc lies below that of
        the condition ``"base"``, paired, with ``loss_low`` and ``loss_high`` (NA without a base).
    """
    lines = []
    for sample in _samples(rows, n_boot, seed):
        for condition in sample.conditions:
            line = {"benchmark": sample.benchmark, "group": sample.group, "task": sample.task, "label": sample.label,
                    "condition": condition, "n": sample.n, "chance": sample.chance}  # fmt: skip
            for measure in MEASURES:
                value, draws = sample.score(condition, measure)
                low, high = _bounds(value, draws, sample.clusters, (-1.0 if measure == "mcc" else 0.0, 1.0))
                line |= {measure: value, f"{measure}_low": low, f"{measure}_high": high}
            loss = _loss(condition, sample.score(BASE, "acc"), sample.score(condition, "acc"), sample.clusters)
            lines.append(line | dict(zip(("loss", "loss_low", "loss_high"), loss, strict=True)))
    return pd.DataFrame(lines)


def averages(rows: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
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
    samples = list(_samples(rows, n_boot, seed))
    lines = []
    for benchmark in dict.fromkeys(s.benchmark for s in samples):
        mine = [s for s in samples if s.benchmark == benchmark]
        groups = list(dict.fromkeys(s.group for s in mine))
        # What the organisms' look-ups, facts and sentences have in common is the model alone.
        parts = {} if benchmark == "organism" and len(groups) > 1 else {"all": mine}
        if len(groups) > 1:
            parts |= {group: [s for s in mine if s.group == group] for group in groups}
        elif benchmark == "organism":
            parts = {groups[0]: mine}
        for group, members in parts.items():
            for variant in VARIANTS[benchmark]:
                lines += _average(benchmark, group, variant, members)
    return pd.DataFrame(lines)


def _average(benchmark: str, group: str, variant: Variant, members: list[_Sample]) -> list[dict[str, object]]:
    by_name = {s.task: s for s in members}
    weights = variant.weights({s.task: s.n for s in members})
    if not weights:
        return []
    n, clusters = (sum(getattr(s, size) for s in members) for size in ("n", "clusters"))
    chance = sum(w * (0 if measure == "mcc" else by_name[task].chance) for (task, measure), w in weights.items())

    def mean(condition: str) -> tuple[float, np.ndarray]:
        parts = [(w, by_name[task].score(condition, measure)) for (task, measure), w in weights.items()]
        return sum(w * value for w, (value, _) in parts), np.sum([w * draws for w, (_, draws) in parts], axis=0)

    lines: list[dict[str, object]] = []
    base = mean(BASE)
    for condition in members[0].conditions:
        value, draws = mean(condition)
        low, high = _bounds(value, draws, clusters, (0.0, 1.0))
        loss, loss_low, loss_high = _loss(condition, base, (value, draws), clusters)
        lines.append({
            "benchmark": benchmark, "group": group, "variant": variant.name,
            "default": variant is VARIANTS[benchmark][0], "condition": condition,
            "tasks": len({task for task, _ in weights}), "n": n, "chance": chance, "value": value, "low": low,
            "high": high, "loss": loss, "loss_low": loss_low, "loss_high": loss_high, "kept": value / base[0],
        })  # fmt: skip
    return lines


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

    def score(self, condition: str, measure: str) -> tuple[float, np.ndarray]:
        """The measure on the data, and on every draw; NaN without such a condition, or more than two classes."""
        if condition not in self.conditions:
            return np.nan, np.full(len(self.counts) - 1, np.nan)
        gold, chosen = self.cells[:, 0], self.cells[:, 1 + self.conditions.index(condition)]
        if measure == "acc":
            values = self.counts @ (gold == chosen) / self.counts.sum(axis=1)
        elif max(gold.max(), chosen.max()) > 1:
            values = np.full(len(self.counts), np.nan)
        else:
            tp, fp, fn, tn = (self.counts @ ((gold == g) & (chosen == c)) for g, c in ((1, 1), (0, 1), (1, 0), (0, 0)))
            with np.errstate(divide="ignore", invalid="ignore"):
                if measure == "f1":
                    values = 2 * tp / (2 * tp + fp + fn)
                else:
                    values = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
            values = np.nan_to_num(values)  # one class alone, chosen or right: 0 by convention, as in scikit-learn
        return float(values[0]), values[1:]


def _samples(rows: pd.DataFrame, n_boot: int, seed: int) -> Iterator[_Sample]:
    wanted = ["benchmark", "group", "task", "label", "condition", "doc_id", "cluster", "gold", "chosen",
              "choices"]  # fmt: skip
    if missing := [column for column in wanted if column not in rows]:
        raise HybretError(f"these rows have no column {missing[0]!r}; pass the rows of harness.evaluate")
    if rows.empty:
        raise HybretError("there are no rows to average")
    for column in {"model", "recipe"} & set(rows.columns):
        if rows[column].nunique() > 1:
            raise HybretError(f"these rows mix several values of {column!r}; select one of them first")
    conditions = list(dict.fromkeys(rows["condition"]))
    for number, (task, part) in enumerate(rows.groupby("task", sort=False)):
        chosen = part.pivot(index="doc_id", columns="condition", values="chosen").reindex(columns=conditions)
        if chosen.isna().any(axis=None):
            raise HybretError(f"not every document of {task} was answered under every condition")
        once = part.drop_duplicates("doc_id").set_index("doc_id").loc[chosen.index]
        answers = np.column_stack([once["gold"], chosen]).astype(int)
        cells, cell = np.unique(answers, axis=0, return_inverse=True)
        # A kind of cluster is how often each cell occurs in it: there are far fewer kinds than clusters.
        held = pd.crosstab(once["cluster"].to_numpy(), cell.ravel()).to_numpy()
        kinds, times = np.unique(held, axis=0, return_counts=True)
        clusters = len(held)
        draws = np.random.default_rng([seed, number, clusters]).multinomial(clusters, times / clusters, size=n_boot)
        counts = np.vstack([times, draws]).astype(float) @ kinds
        first = part.iloc[0]
        yield _Sample(
            first["benchmark"], first["group"], str(task), first["label"], conditions,
            float((1 / part["choices"]).mean()), cells, counts, clusters,
        )  # fmt: skip


def _bounds(value: float, draws: np.ndarray, clusters: int, scale: tuple[float, float]) -> tuple[float, float]:
    """Percentile interval; where nothing varies, as far as what was not seen in so many clusters may reach."""
    if np.isnan(value):
        return np.nan, np.nan
    if np.ptp(draws) < 1e-12:
        return value - unseen(clusters) * (value - scale[0]), value + unseen(clusters) * (scale[1] - value)
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _loss(
    condition: str, base: tuple[float, np.ndarray], other: tuple[float, np.ndarray], clusters: int
) -> tuple[float, float, float]:
    """How far a condition lies below the base, with its paired interval; the base's own loss is exactly 0."""
    if condition == BASE:
        return 0.0, 0.0, 0.0
    loss = base[0] - other[0]
    return (loss, *_bounds(loss, base[1] - other[1], clusters, (-1.0, 1.0)))
