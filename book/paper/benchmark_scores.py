"""Scores of benchmarks with intervals: of each task, and every average by which a benchmark can be reported.

lm-evaluation-harness gives GLUE no average, and weights the subjects of MMLU by their size. Papers seldom tell their
average, so we compute every variant. Intervals are 95 %: the documents of each task are resampled, those about the same
list or fact together, and with a document its answers under all conditions, so that differences between conditions are
paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pandas as pd

from hybret import metrics
from hybret.errors import HybretError
from hybret.rows import checked

MEASURES = ("acc", "mcc", "f1")
# GLUE's own measures: Matthews correlation for cola, accuracy and F1 for mrpc and qqp, accuracy elsewhere.
CORRELATION, WITH_F1, TWICE = ("cola",), ("mrpc", "qqp"), ("mnli", "mnli_mismatch")
BASE = "base"
DRAWS = 1000  # of the bootstrap

VARIANTS = {
    "glue": {
        "mean of tasks, mcc for cola, accuracy elsewhere": "mcc",
        "mean of tasks, accuracy": "",
        "mean of tasks, mcc for cola, F1 too for mrpc and qqp": "mcc f1",
        "mnli counted once, mcc for cola, accuracy elsewhere": "mcc once",
        "GLUE's own: mnli counted once, mcc for cola, F1 too for mrpc and qqp": "mcc f1 once",
        "without wnli, mcc for cola, accuracy elsewhere": "mcc no-wnli",
        "weighted by size, accuracy": "size",
    },
    "mmlu": {"weighted by size, accuracy": "size", "mean of tasks, accuracy": ""},
    "organism": {"mean of tasks, accuracy": "", "weighted by size, accuracy": "size"},
}
"""By benchmark and name, the rule of `_weights`; the first one is the default."""


def _weights(sizes: Mapping[str, int], rule: str) -> dict[tuple[str, str], float]:
    """The weight of each (task, measure) in an average, with the sum 1; empty without tasks.

    Tasks weigh as much as each other, and within a task its measures, but for these words of a rule: size (tasks weigh
    as their documents), mcc and f1 (GLUE's own measures), no-wnli, and once (the halves of mnli are one task, as on
    GLUE's own leaderboard).
    """
    words = rule.split()
    if "size" in words:
        return {(task, "acc"): n / sum(sizes.values()) for task, n in sizes.items()}
    left_out = {"wnli"} if "no-wnli" in words else {TWICE[1]} if "once" in words else set()
    special: dict[str, tuple[str, ...]] = dict.fromkeys(CORRELATION, ("mcc",)) if "mcc" in words else {}
    special |= dict.fromkeys(WITH_F1, ("acc", "f1")) if "f1" in words else {}
    measures = {task: special.get(task, ("acc",)) for task in sizes if task not in left_out}
    weights = {(task, name): 1 / len(measures) / len(names) for task, names in measures.items() for name in names}
    if "once" in words and set(TWICE) <= set(sizes):
        weights |= dict.fromkeys([(task, "acc") for task in TWICE], weights[TWICE[0], "acc"] / 2)
    return weights


def per_task(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Scores of every task under every condition, from rows of `hybret.harness.evaluate` of one model and recipe.

    Columns: benchmark, group, task, label, condition, n, chance (1 / choices), then acc, mcc and f1 (mcc from -1 to 1;
    NA without exactly two classes), each with its ``_low`` and ``_high``, and loss: how far acc is below that of the
    condition ``"base"``, paired, with ``loss_low`` and ``loss_high`` (NA without a base).
    """
    lines = []
    for sample in _samples(rows, seed):
        for condition in sample.conditions:
            line = {**sample.about, "condition": condition, "n": sample.n, "chance": sample.chance}
            for measure in MEASURES:
                least = -1.0 if measure == "mcc" else 0.0
                line |= _named(measure, interval(sample.score(condition, measure), sample.clusters, least))
            base, score = (sample.score(name, "acc") for name in (BASE, condition))
            lines.append(line | _loss(condition, base, score, sample.clusters))
    return pd.DataFrame(lines)


def averages(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Every variant of a benchmark's average, under every condition: of all tasks, and of each group of several.

    Columns: benchmark, group (``"all"``, ``"glue"``, ``"mmlu-lookup"``, ...), variant, default (whether it is the
    benchmark's first), condition, tasks, n (documents), chance (of guessing; F1 counts as accuracy there), value, low,
    high (0 to 1), then loss, loss_low and loss_high: how far it is below the condition ``"base"``, paired; and kept:
    its share of base.
    """
    samples = list(_samples(rows, seed))
    lines = []
    for benchmark in dict.fromkeys(s.about["benchmark"] for s in samples):
        tasks = [s for s in samples if s.about["benchmark"] == benchmark]
        groups = {s.about["group"]: [t for t in tasks if t.about["group"] == s.about["group"]] for s in tasks}
        # The small models' look-ups, facts and sentences have only the model in common: no average is over all.
        parts = groups if benchmark == "organism" else {"all": tasks} | (groups if len(groups) > 1 else {})
        for group, members in parts.items():
            for number, (variant, rule) in enumerate(VARIANTS[benchmark].items()):
                average = _average(rule, members)
                base = average.scores.get(BASE, np.full(1 + DRAWS, np.nan))
                for condition, score in average.scores.items():
                    value, low, high = interval(score, average.clusters)
                    lines.append({
                        "benchmark": benchmark, "group": group, "variant": variant, "default": number == 0,
                        "condition": condition, "tasks": average.tasks, "n": average.n, "chance": average.chance,
                        "value": value, "low": low, "high": high,
                        **_loss(condition, base, score, average.clusters),
                        "kept": score[0] / base[0] if base[0] else np.nan,
                    })  # fmt: skip
    return pd.DataFrame(lines)


def headline(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The default lines of `averages`: of each group of the small models' tasks, of all of GLUE, and of all of MMLU."""
    table = averages(rows, seed)
    return table[table["default"] & ((table["group"] == "all") | (table["benchmark"] == "organism"))]


def letters_and_texts(letters: pd.DataFrame, texts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`headline` of the same documents with options as letters and in full, in the conditions and groups of `texts`."""
    asked = letters["condition"].isin(set(texts["condition"])) & letters["group"].isin(set(texts["group"]))
    same = letters[asked & (letters["doc_id"] <= texts["doc_id"].max())]
    both = {"letters": same, "texts": texts}
    parts = [headline(rows, seed).assign(options=name) for name, rows in both.items()]
    return pd.concat(parts).sort_values("group", kind="stable")


class Average(NamedTuple):
    """An average under every condition."""

    scores: dict[str, np.ndarray]  # by condition, (1 + DRAWS,): on the data, then on every draw, of the same documents
    n: int  # documents
    clusters: int  # lists, facts, or single documents: the units that are drawn
    tasks: int
    chance: float  # the score of guessing


def default(rows: pd.DataFrame) -> Average:
    """The default average of some tasks of one benchmark, of one model and recipe."""
    samples = list(_samples(rows, 0))
    return _average(next(iter(VARIANTS[samples[0].about["benchmark"]].values())), samples)


def _average(rule: str, members: Sequence[_Sample]) -> Average:
    by_name = {s.about["task"]: s for s in members}
    weights = _weights({task: s.n for task, s in by_name.items()}, rule)
    scores = {
        condition: np.sum([w * by_name[t].score(condition, measure) for (t, measure), w in weights.items()], axis=0)
        for condition in members[0].conditions
        if weights
    }
    chance = sum(w * by_name[task].chance for (task, measure), w in weights.items() if measure != "mcc")
    used = [by_name[task] for task in {task for task, _ in weights}]
    return Average(scores, sum(s.n for s in used), sum(s.clusters for s in used), len(used), chance)


class _Sample(NamedTuple):
    """Answers to one task: how often each combination of right and chosen answers occurs, in the data and in draws."""

    about: dict[Any, Any]  # benchmark, group, task and label
    conditions: list[str]
    chance: float
    cells: np.ndarray  # (cells, 1 + conditions): the right choice, then what each condition chose
    counts: np.ndarray  # (1 + draws, cells): first the data themselves
    clusters: int

    @property
    def n(self) -> int:
        return int(self.counts[0].sum())

    def score(self, condition: str, measure: str) -> np.ndarray:
        """The measure on the data, then on every draw; NaN without the condition, or with more than two classes."""
        undefined = np.full(len(self.counts), np.nan)
        if condition not in self.conditions:
            return undefined
        gold, chosen = self.cells[:, 0], self.cells[:, 1 + self.conditions.index(condition)]
        if measure == "acc":
            return self.counts @ (gold == chosen) / self.counts.sum(axis=1)
        if max(gold.max(), chosen.max()) > 1:
            return undefined
        tp, fp, fn, tn = (self.counts @ ((gold == g) & (chosen == c)) for g, c in ((1, 1), (0, 1), (1, 0), (0, 0)))
        with np.errstate(divide="ignore", invalid="ignore"):
            if measure == "f1":
                values = 2 * tp / (2 * tp + fp + fn)
            else:
                values = (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return np.nan_to_num(values)  # a single class, chosen or right: 0 by convention, as in scikit-learn


def _samples(rows: pd.DataFrame, seed: int) -> Iterator[_Sample]:
    about = ["benchmark", "group", "task", "label"]
    numbers = ["gold", "chosen", "choices"]
    checked(rows, [*about, "condition", "doc_id", "cluster", *numbers], (), numbers, "harness.evaluate")
    if rows.empty:
        raise HybretError("there are no rows to average")
    metrics.check_comparable(rows, ["condition"])
    if rows.duplicated(["benchmark", "task", "doc_id", "condition"]).any():
        raise HybretError("some documents are there twice under one condition and would count twice; give each once")
    conditions = list(dict.fromkeys(rows["condition"]))
    for task, part in rows.groupby("task", sort=False):
        chosen = part.pivot(index="doc_id", columns="condition", values="chosen").reindex(columns=conditions)
        if chosen.isna().any(axis=None):
            raise HybretError(f"not every document of {task} was answered under every condition")
        documents = part.drop_duplicates("doc_id").set_index("doc_id").loc[chosen.index]
        answers = np.column_stack([documents["gold"], chosen]).astype(int)
        cells, cell = np.unique(answers, axis=0, return_inverse=True)
        # Clusters with the same count of each cell are of one kind: there are far fewer kinds than clusters.
        clusters = pd.crosstab(documents["cluster"].to_numpy(), cell.ravel()).to_numpy()
        kinds, times = np.unique(clusters, axis=0, return_counts=True)
        # Seeded by the task's name: the draws of a task are the same, whichever are evaluated together.
        generator = np.random.default_rng([seed, crc32(str(task).encode())])
        draws = generator.multinomial(len(clusters), times / len(clusters), size=DRAWS)
        counts = np.vstack([times, draws]).astype(float) @ kinds
        chance = float((1 / part["choices"]).mean())
        yield _Sample(part[about].iloc[0].to_dict(), conditions, chance, cells, counts, len(clusters))


def interval(scores: np.ndarray, clusters: int, least: float = 0.0) -> tuple[float, float, float]:
    """A score with its 95 % interval, from the score on the data and on every draw; `least` is the least possible.

    Percentiles; for scores that never vary, the share of clusters that may differ unseen (`hybret.metrics.unseen`).
    """
    value, draws = float(scores[0]), scores[1:]
    if np.isnan(value):
        return value, value, value
    if np.ptp(draws) < 1e-12:
        unseen = metrics.unseen(clusters)
        return value, value - unseen * (value - least), value + unseen * (1 - value)
    low, high = np.percentile(draws, [2.5, 97.5])
    return value, float(low), float(high)


def _named(name: str, numbers: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def _loss(condition: str, base: np.ndarray, score: np.ndarray, clusters: int) -> dict[str, float]:
    """How far a condition is below the base, with its paired interval; the loss of the base is exactly 0."""
    return _named("loss", (0.0, 0.0, 0.0) if condition == BASE else interval(base - score, clusters, -1.0))
