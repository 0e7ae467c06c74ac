"""What the notebooks share: models, prompts, conditions and rows of one run, and how tables are shown."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

import hybret as hb
from hybret.families import known_as
from hybret.metrics import mean_interval
from hybret.models import named

T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """One run of a notebook: its parameters, and what they make of a model.

    The attributes are the notebooks' common parameters, with the same names.
    """

    model: str
    recipe: str = "CORRECTED"
    device: str = "auto"
    dtype: str = "auto"
    lengths: int | Sequence[int] = 10
    depths: int = 10
    limit: int = 0
    haystack: str = "embedded"
    seed: int = 0
    out: str = "../runs"
    results: str = "../book/results"

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Chapter:
        """The chapter of a notebook's parameters: ``Chapter.of(globals())``."""
        return cls(**{f.name: parameters[f.name] for f in fields(cls) if f.name in parameters})

    def __post_init__(self) -> None:
        _ = self.decisions, self.names  # a wrong name ends the run before a model is loaded

    @property
    def decisions(self) -> hb.Recipe:
        """The recipe of this run."""
        return hb.recipe.recipe(self.recipe)

    @property
    def other(self) -> hb.Recipe:
        """The recipe that this run did not take."""
        return hb.PAPER if self.decisions == hb.CORRECTED else hb.CORRECTED

    @property
    def names(self) -> list[str]:
        """Names of the models, as in the parameter `model`."""
        return named(self.model)

    def load(self, name: str = "") -> hb.Model:
        """Load a model of this run, by default the first."""
        return hb.load(name or self.names[0], device=self.device, dtype=self.dtype)

    def each(self, measure: Callable[[hb.Model], T], names: Sequence[str] | None = None) -> list[T]:
        """What `measure` returns for every model; each leaves the memory before the next is loaded."""
        return [measure(self.load(name)) for name in (self.names if names is None else names)]

    def prompts(self, hybrid: hb.Model, template: str = "", control: bool = True, **options: Any) -> list[hb.Prompt]:
        """The grid in the model's own template, or `limit` of its prompts drawn with the seed, and its control."""
        cells = self._grid(hybrid, template, **options)
        drawn = random.Random(self.seed).sample(cells, self.limit) if 0 < self.limit < len(cells) else cells
        return [*drawn, *(self.controls(hybrid, template, **options) if control else [])]

    def controls(self, hybrid: hb.Model, template: str = "", **options: Any) -> list[hb.Prompt]:
        """The same grid without the needle, whole."""
        return self._grid(hybrid, template, control=True, **options)

    @staticmethod
    def thinned(prompts: Sequence[hb.Prompt], step: int = 2) -> list[hb.Prompt]:
        """The prompts of every `step`-th length, their controls included."""
        lengths = sorted({p.length for p in prompts})[::step]
        return [p for p in prompts if p.length in lengths]

    def prompt(self, hybrid: hb.Model, template: str = "", length: int = 0, depth: int = 50) -> hb.Prompt:
        """One prompt; by default at a third of the lengths, so that the needle lies inside the window."""
        length = length or hybrid.lengths[len(hybrid.lengths) // 3]
        return self._grid(hybrid, template, lengths=[length], depths=[depth])[0]

    def _grid(self, hybrid: hb.Model, template: str, **options: Any) -> list[hb.Prompt]:
        """A grid as the parameters have it, in the model's own template; `options` come first."""
        names = ("lengths", "depths", "haystack", "seed")
        options = {name: getattr(self, name) for name in names} | {"recipe": self.decisions} | options
        return hb.niah.grid(hybrid, template=template or ("instruct" if hybrid.instruct else "base"), **options)

    def sweep(
        self,
        hybrid: hb.Model,
        prompts: Sequence[hb.Prompt],
        conditions: Mapping[str, hb.Intervention],
        recipe: hb.Recipe | None = None,
    ) -> pd.DataFrame:
        """Rows of a sweep in the folder of this model and recipe: what is there is not computed again."""
        recipe = recipe or self.decisions
        return hb.sweep(hybrid, prompts, conditions, recipe, out=hb.run_folder(self.out, hybrid, recipe))

    def apart(self, name: str) -> Chapter:
        """This run with rows in a folder of its own: other chapters judge and show all rows of the common one."""
        return replace(self, out=f"{self.out}/{name}")

    def save(self, figure: Any, name: str) -> Any:
        """Write a figure's files and show it."""
        return hb.figures.save(figure, name, self.results)

    def write(self, made: Any, name: str) -> None:
        """Write JSON beside the figures, where the book's other pages find it."""
        path = Path(self.results) / f"{name}.json"
        path.write_text(json.dumps(made), encoding="utf-8")
        hb.figures.note(path)

    def note(self, hybrid: hb.Model, *more: str) -> str:
        """The small print of a figure: model, weights and `more`."""
        return " · ".join((f"model {known_as(hybrid.name, hybrid.digest)}", *more))


def keep_heads(hybrid: hb.Model, *phases: str, ks: Sequence[int] | None = None) -> dict[str, hb.Intervention]:
    """Conditions that keep k heads during each of these phases, by label; by default every k of the book's curves."""
    kept = [hb.KeepHeads(k, during=during) for during in phases for k in (hybrid.ks if ks is None else ks)]  # type: ignore[arg-type]
    return {condition.label: condition for condition in kept}


def models_beside(hybrid: hb.Model, beside: str) -> list[str]:
    """The models of a chapter's parameter `beside` but its own; none beside a model that is not built in."""
    return [name for name in beside.split(",") if name and name != hybrid.name] if hybrid.embedded else []


def percent(line: Any, name: str = "accuracy") -> str:
    """A mean with its interval, in per cent."""
    return f"{100 * line[name]:.1f} % ({100 * line['low']:.1f} to {100 * line['high']:.1f})"


def with_interval(name: str, values: np.ndarray, scale: tuple[float, float]) -> dict[str, float]:
    """The mean of independent values under `name`, the ends of its 95 % interval under ``name_low`` and ``name_high``.

    `scale` is the least and the greatest possible value.
    """
    mean, low, high, _ = mean_interval(values, np.arange(len(values)), scale)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def in_nats(table: pd.DataFrame, name: str) -> list[str]:
    """A column of `with_interval` in words, each mean with its interval if it has one."""
    numbers = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
    return [f"{m:z.2f}" + ("" if np.isnan(low) else f" ({low:z.2f} to {high:z.2f})") for m, low, high in numbers]


def table(frame: pd.DataFrame, **columns: str) -> Styler:
    """A table as pages show it; `columns` renames, shares become per cent, words stand for values of rows."""
    known = ("accuracy", "low", "high", "exact", "floor", "chance")
    shares = [c for c in known if c in frame and pd.api.types.is_numeric_dtype(frame[c])]
    shown = frame.assign(**{name: (100 * frame[name].astype(float)).round(1) + 0.0 for name in shares})  # no -0.0
    for column in ("template", "during"):
        if column in shown:
            shown[column] = [hb.figures.words(column, value) for value in shown[column]]
    return shown.rename(columns=columns).style.hide(axis="index").format(precision=1, escape="html")


def prompt_panel(name: str, prompt: hb.Prompt) -> str:
    """A prompt as HTML that unfolds, with its needle highlighted; its text is escaped."""
    needle = escape(hb.PAPER_NEEDLE.sentence)
    text = escape(prompt.text).replace(needle, f"<mark>{needle}</mark>")
    places = ", ".join(f"{first} to {end - 1}" for first, end in prompt.needle_spans)
    template = hb.figures.words("template", prompt.template)
    return (
        f"<details{'' if prompt.template == 'jrt' else ' open'}><summary>{escape(name)}, {template}: "
        f"{len(prompt.ids)} tokens, needle at tokens {places}</summary>"
        f'<pre class="tex2jax_ignore" style="white-space: pre-wrap">{text}</pre></details>'
    )
