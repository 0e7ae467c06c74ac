"""The look of every figure, and how it is saved: colours, type, white card, small print, deterministic files."""

from __future__ import annotations

import base64
import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hybret import metrics
from hybret.errors import HybretError, printable
from hybret.families import has_random_weights, known_as
from hybret.files import writing
from hybret.prompts import CONTROL
from hybret.rows import checked

WIDTH = 7.0  # inches: the text width of a book page
INK, GREY, PALE = "#222222", "#5A5A5A", "#D9D9D9"
# Okabe and Ito's colours, told apart with every common colour blindness; yellow is left for the needle.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NEEDLE = "#F0E442"
SCORES = matplotlib.colormaps["cividis"]  # perceptual, colour-blind safe
MADE_UP = "random weights: nothing here is a result"  # in the small print of a figure that is marked so
EDGE = "#D55E00"  # the attention window's edge and the kept heads, drawn on top of a map
BANDS = "bands: 95 %, over prompts, inside and beyond the window apart"
VERSIONS = {"generation": "generation version", "both": "prefill version", "prefill": "prefill only"}
TEMPLATES = {"base": "standard prompt", "instruct": "standard prompt", "jrt": "JRT (read twice)"}
# Names of random weights in small print: one of `hybret.families.RANDOM_MODELS`, the prefix `RANDOM`, a digest, words.
_MADE_UP = re.compile(r"\brandom-(griffin|jamba)\b|\brandom:|\(random\d|" + re.escape(MADE_UP))

_RC: Any = {
    "text.usetex": False,  # whatever the user's settings: LaTeX may not be there, and % begins its comments
    "font.family": "sans-serif", "font.size": 9,
    # DejaVu Sans ships with matplotlib, so the layout is the same on every machine; the others are narrower.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "legend.fontsize": 8, "legend.frameon": False, "text.color": INK,
    "axes.titlesize": 9, "axes.labelsize": 9, "axes.labelcolor": INK, "axes.edgecolor": GREY, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False,
    "xtick.labelsize": 8, "xtick.color": GREY, "xtick.labelcolor": INK,
    "ytick.labelsize": 8, "ytick.color": GREY, "ytick.labelcolor": INK,
    "lines.linewidth": 1.6, "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "hybret", "pdf.fonttype": 42,
}  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the project's settings, which are undone afterwards, on `legible` arguments."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_RC):
            return function(*(legible(value) for value in args), **{k: legible(v) for k, v in kwargs.items()})

    return wrapper


def legible(value: Any) -> Any:
    """Make control and bidi codes of model text visible, in any argument; a dollar begins no formula.

    The codes are no XML, and would turn the text around them.
    """
    if isinstance(value, str):
        if not value.isprintable():
            value = "\n".join(" " * (len(line) - len(line.lstrip(" "))) + printable(line) for line in value.split("\n"))
        return re.sub(r"(?<!\\)\$", r"\\$", value)
    if isinstance(value, dict):
        return {legible(key): legible(item) for key, item in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(item, str | dict) for item in value):
        return type(value)(map(legible, value))
    if not isinstance(value, pd.DataFrame):
        return value
    odd: dict[Any, Any] = {}
    for name, column in value.items():
        if column.dtype == object or str(column.dtype).startswith("str"):
            shown = {text: legible(text) for text in {text for text in column if isinstance(text, str)}}
            if any(text != plain for text, plain in shown.items()):
                odd[name] = column.map(lambda text, shown=shown: shown[text] if isinstance(text, str) else text)
    return value.assign(**{str(name): column for name, column in odd.items()}) if odd else value


def canvas(height: float, width: float = WIDTH) -> Figure:
    """Return a transparent figure with a white rounded card, to be read on light and dark pages; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    inset, radius = 0.01, 0.12  # inches
    inner = width - 2 * (inset + radius), height - 2 * (inset + radius)
    look: Any = {"facecolor": "white", "edgecolor": "none", "zorder": -10, "transform": figure.dpi_scale_trans}
    card = FancyBboxPatch((inset + radius, inset + radius), *inner, boxstyle=f"round,pad={radius}", **look)
    card.set_in_layout(False)
    figure.add_artist(card)
    return figure


def footnote(figure: Figure, text: str, xlabel: str = "") -> None:
    """Write small print along the lower edge, under a shared x label; the plots stay clear of both.

    If the text names a model with random weights, the figure is marked.
    """
    if _MADE_UP.search(text):
        mark: Any = {"fontsize": 40, "color": GREY, "alpha": 0.25, "rotation": 20, "ha": "center", "va": "center"}
        figure.text(0.5, 0.5, "random weights", zorder=100, in_layout=False, **mark)
        text = text if MADE_UP in text else f"{text} · {MADE_UP}"
    width, height = figure.get_size_inches()
    limit = int(width * 15.5)  # characters of 8-point type in a line
    lines = [""]
    for part in text.split(" · "):
        if lines[-1] and len(lines[-1]) + len(part) + 3 > limit:
            lines.append(part)
        else:
            lines[-1] += f" · {part}" if lines[-1] else part
    figure.text(0.1 / width, 0.07 / height, "\n".join(lines), fontsize=8, color=GREY, va="bottom", ha="left")
    room = 0.12 + 0.145 * len(lines)
    if xlabel:  # constrained layout would put a figure's own x label on top of the small print
        figure.text(0.5, room / height, xlabel, fontsize=9, va="bottom", ha="center")
        room += 0.18
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0.1 / width, room / height, 1 - 0.2 / width, 1 - (room + 0.08) / height))


def band(axes: Axes, x: Any, table: pd.DataFrame, i: int, alpha: float, **look: Any) -> None:
    """Draw the accuracies of a table over x, with their intervals, in the i-th colour and marker."""
    colour = COLOURS[i % 7]
    axes.fill_between(x, 100 * table["low"], 100 * table["high"], color=colour, alpha=alpha, linewidth=0)
    axes.plot(x, 100 * table["accuracy"], color=colour, marker=MARKERS[i % 7], **look)


def percent_axis(axes: Axes) -> None:
    """Make y an accuracy from 0 to 100 %."""
    axes.set(ylim=(-4, 104), ylabel="accuracy (% of the maximum score)", yticks=range(0, 101, 20))
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def provenance(rows: pd.DataFrame, *more: str) -> str:
    """Name the models, weights and recipes of result rows, then `more`; absent columns are left out."""
    parts = []
    if "model" in rows:
        weights = rows["weights"].astype(str) if "weights" in rows else rows["model"].map(lambda _: "")
        pairs = dict.fromkeys(zip(rows["model"], weights, strict=True))
        random = any(map(has_random_weights, rows["model"], weights))
        parts.append("model " + ", ".join(known_as(*pair) for pair in pairs) + (f" · {MADE_UP}" if random else ""))
    if "recipe" in rows:
        parts.append("recipe " + ", ".join(dict.fromkeys(map(str, rows["recipe"]))))
    return " · ".join([*parts, *more])


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part rows into prompts with a needle, and the no-needle controls of these.

    Rows without any needle are refused: an empty plot would look like a result.
    """
    plain = ["needle", "model", "score", "exact", "prompt"]
    checked(rows, plain, [name for name in plain if name != "score"])
    control = rows["needle"] == CONTROL
    if control.all():
        raise HybretError("no rows with a needle to draw; check the selection that was passed to the figure")
    rows = metrics.normalised(rows)
    return rows[~control], metrics.matching_controls(rows[control], rows[~control])


def words(column: str, value: Any) -> str:
    """A value of a row's column in words."""
    if column == "k":
        return f"k = {value}"
    if column in ("generation", "prefill"):
        return f"{column}: {str(value).capitalize()}"
    return {"template": TEMPLATES, "during": VERSIONS}.get(column, {}).get(value, str(value))


def between(values: Iterable[int]) -> str:
    """Counts as one number or as a range: `n = 100`, `n = 10-100`."""
    low, high = min(values := list(values)), max(values)
    return f"n = {low}" if low == high else f"n = {low}-{high}"


def counted(rows: pd.DataFrame, by: list[str]) -> str:
    """How many distinct prompts each group has."""
    return between(rows.groupby(by, dropna=False)["prompt"].nunique())


class Picture(NamedTuple):
    """A saved figure; as the last value of a cell it shows the file: SVG in a notebook, PDF in a LaTeX book."""

    svg: Path
    pdf: Path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        pdf = base64.b64encode(self.pdf.read_bytes()).decode("ascii")
        svg = self.svg.read_text(encoding="utf-8")
        return {"image/svg+xml": svg, "application/pdf": pdf, "text/plain": self.svg.name}


@styled
def save(figure: Figure, name: str, folder: str | Path) -> Picture:
    """Write `name.svg` and `name.pdf`, byte for byte the same whenever the figure is the same."""
    if not name or Path(name).name != name:
        raise HybretError(f"a figure's name is a plain file name without folders, not {name!r}")
    picture = Picture(Path(folder) / f"{name}.svg", Path(folder) / f"{name}.pdf")
    with writing(f"a figure to {folder}", "choose another folder"):
        picture.svg.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture.svg, metadata={"Date": None, "Creator": "hybret", "Title": name})
        figure.savefig(picture.pdf, metadata={"CreationDate": None, "Creator": "hybret", "Title": name})
    note(*picture)
    return picture


def note(*paths: Path) -> None:
    """Append paths to the file that `HYBRET_RUN_FILES` names, if any: the files that a notebook's run wrote."""
    if files := os.environ.get("HYBRET_RUN_FILES"):
        with open(files, "a", encoding="utf-8") as written:
            written.writelines(f"{path.resolve()}\n" for path in paths)


def glue(name: str, value: object) -> None:
    """Keep a value of a notebook under a name, for the ``{glue}`` roles of pages: `myst_nb.glue` without Sphinx."""
    from IPython.display import display

    if isinstance(value, np.generic):  # its repr, np.float64(1.0), is not a number that a page can format
        value = value.item()
    kind = "application/papermill.record/"
    display({f"{kind}text/plain": repr(value)}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": kind}})
