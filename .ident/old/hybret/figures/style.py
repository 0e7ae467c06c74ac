"""How every figure looks and reaches disk: colours, type, white card, small print, deterministic files."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hybret import asked, tables
from hybret.errors import HybretError, printable
from hybret.presets import made_up
from hybret.prompts import CONTROL

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

WIDTH = 7.0  # inches: the text width of a book page
INK, GREY, PALE = "#222222", "#5A5A5A", "#D9D9D9"
# Okabe and Ito's colours, told apart with every common colour blindness; yellow is left for the needle.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222")
NUMBERS = ("k", "score", "exact", "length", "depth", "distance", "in_window")  # columns of a sweep
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NEEDLE = "#F0E442"
MADE_UP = "random weights: nothing here is a result"  # in the small print of a figure that is marked so
EDGE = "#D55E00"  # the attention window's edge and the kept heads, drawn on top of a map
PALETTES = ("cividis", "authors")
VERSIONS = {"generation": "generation version", "both": "prefill version", "prefill": "prefill only"}
TEMPLATES = {"base": "standard prompt", "instruct": "standard prompt", "jrt": "JRT (read twice)"}

_RC: Any = {
    "font.family": "sans-serif",
    # DejaVu Sans ships with matplotlib, so the layout is the same on every machine; the others are narrower.
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "svg.hashsalt": "hybret",
    "pdf.fonttype": 42,
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the project's settings and leave matplotlib's own untouched."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_RC):
            shown: Any = [legible(value) for value in args]
            named: Any = {name: legible(value) for name, value in kwargs.items()}
            return function(*shown, **named)

    return wrapper


def legible(value: Any) -> Any:
    """An argument whose texts may stand in an SVG: control and bidi codes of model text become visible.

    They are no XML, and would turn the text around them. A dollar stays a dollar, and begins no formula.
    """
    if isinstance(value, str):
        if not value.isprintable():
            value = "\n".join(" " * (len(line) - len(line.lstrip(" "))) + printable(line) for line in value.split("\n"))
        return re.sub(r"(?<!\\)\$", r"\\$", value)
    if isinstance(value, dict):
        return {legible(key): legible(one) for key, one in value.items()}
    if isinstance(value, list | tuple) and any(isinstance(one, str | dict) for one in value):
        return type(value)(map(legible, value))
    if not hasattr(value, "select_dtypes"):
        return value
    odd = {
        name: column.map(lambda text: legible(text) if isinstance(text, str) else text)
        for name, column in value.items()
        if column.dtype == object or str(column.dtype).startswith("str")
        if any(legible(text) != text for text in {text for text in column if isinstance(text, str)})
    }
    return value.assign(**odd) if odd else value


def colormap(palette: str = "cividis") -> Colormap:
    """Colours of a score from 0 to 5.

    Parameters
    ----------
    palette
        "cividis" (perceptual, colour-blind safe) or "authors" (the red, yellow, green of the paper's maps).

    Raises
    ------
    HybretError
        For any other name.
    """
    if palette not in PALETTES:
        raise HybretError(f"unknown palette {palette!r}; allowed: {', '.join(PALETTES)}")
    if palette == "authors":
        return LinearSegmentedColormap.from_list("authors", ["#F0496E", "yellow", "#0CD79F"])
    return matplotlib.colormaps["cividis"]


def canvas(height: float, width: float = WIDTH) -> Figure:
    """Return a new figure: transparent, with a white rounded card, so that it reads on light and dark pages.

    Parameters
    ----------
    height, width
        Inches.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    inset, radius = 0.01, 0.12  # inches
    card = FancyBboxPatch(
        (inset + radius, inset + radius),
        width - 2 * (inset + radius),
        height - 2 * (inset + radius),
        boxstyle=f"round,pad={radius}",
        transform=figure.dpi_scale_trans,
        facecolor="white",
        edgecolor="none",
        zorder=-10,
    )
    card.set_in_layout(False)
    figure.add_artist(card)
    return figure


# How small print names them: one of `hybret.presets.RANDOM_MODELS`, the prefix `RANDOM`, a digest, or in words.
_MADE_UP = re.compile(r"\brandom-(griffin|jamba)\b|\brandom:|\(random\d|" + re.escape(MADE_UP))


def footnote(figure: Figure, text: str, xlabel: str = "") -> None:
    """Write the small print along the lower edge, under a shared x label; the plots stay clear of both.

    If it names a model with random weights, the whole figure is marked.
    """
    if _MADE_UP.search(text):
        figure.text(0.5, 0.5, "random weights", fontsize=40, color=GREY, alpha=0.25, rotation=20, ha="center",
                    va="center", zorder=100, in_layout=False)  # fmt: skip
        text = text if MADE_UP in text else f"{text} · {MADE_UP}"
    width, height = figure.get_size_inches()
    limit = int(width * 15.5)  # characters of 8-point type in a line
    lines, line = [], ""
    for part in text.split(" · "):
        joined = f"{line} · {part}" if line else part
        if line and len(joined) > limit:
            lines.append(line)
            joined = part
        line = joined
    lines.append(line)
    figure.text(0.1 / width, 0.07 / height, "\n".join(lines), fontsize=8, color=GREY, va="bottom", ha="left")
    room = 0.12 + 0.145 * len(lines)
    if xlabel:  # constrained layout would put a figure's own x label on top of the small print
        figure.text(0.5, room / height, xlabel, fontsize=9, va="bottom", ha="center")
        room += 0.18
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(  # type: ignore[call-arg]
            rect=(0.1 / width, room / height, 1 - 0.2 / width, 1 - (room + 0.08) / height)
        )


def percent_axis(axes: Axes, label: str = "accuracy (% of the maximum score)") -> None:
    """Make y an accuracy from 0 to 100 %."""
    axes.set(ylim=(-4, 104), ylabel=label, yticks=range(0, 101, 20))
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def provenance(rows: pd.DataFrame, *more: str) -> str:
    """Say which model, recipe and number of prompts made a figure.

    Parameters
    ----------
    rows
        Result rows; columns that are absent are passed over.
    more
        Further parts, written after them.
    """
    parts = []
    if "model" in rows:
        weights = rows["weights"].astype(str) if "weights" in rows else rows["model"].map(lambda _: "")
        pairs = dict.fromkeys(zip(rows["model"], weights.str[:8], strict=True))
        names = (f"{name} ({digest})" if digest else f"{name}" for name, digest in pairs)
        parts.append("model " + ", ".join(names) + (f" · {MADE_UP}" if made_up(rows["model"], weights).any() else ""))
    if "recipe" in rows:
        parts.append("recipe " + ", ".join(dict.fromkeys(map(str, rows["recipe"]))))
    return " · ".join([*parts, *more])


def split(rows: pd.DataFrame, floor_rows: pd.DataFrame | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Part rows into prompts with a needle and the no-needle controls that belong to them.

    Raises
    ------
    HybretError
        When no row has a needle: an empty plot would look like a result; when `floor_rows` are of other needles,
        haystacks or templates than the rows.
    """
    plain = ["needle", "model", "score", "exact", "prompt"]
    asked.table(rows, plain, NUMBERS, [name for name in plain if name != "score"])
    control = rows["needle"] == CONTROL
    if control.all():
        raise HybretError("no rows with a needle to draw; check the selection that was passed to the figure")
    rows = tables.settled(rows)
    needle, ground = rows[~control], rows[control]
    if floor_rows is not None:
        ground = tables.settled(asked.table(floor_rows, plain, NUMBERS))
        if len(ground) and tables.belonging(ground, needle).empty:
            raise HybretError(
                "floor_rows are the control of other rows; give that of the same needle, haystack, template, lengths "
                "and conditions"
            )
    return needle, tables.belonging(ground, needle)


def words(column: str, value: Any) -> str:
    """Write a value of a row's column as a reader would say it."""
    if column == "k":
        return f"k = {value}"
    if column in ("generation", "prefill"):
        return f"{column}: {str(value).capitalize()}"
    return {"template": TEMPLATES, "during": VERSIONS}.get(column, {}).get(value, str(value))


def between(values: Iterable[int]) -> str:
    """Write counts as one number or as a range: `n = 100`, `n = 10-100`."""
    low, high = min(values := list(values)), max(values)
    return f"n = {low}" if low == high else f"n = {low}-{high}"


def counted(rows: pd.DataFrame, by: list[str]) -> str:
    """Write how many distinct prompts each group has."""
    return between(rows.groupby(by, dropna=False)["prompt"].nunique())


@dataclass(frozen=True)
class Picture:
    """A saved figure: shows itself in a notebook (SVG) and in a LaTeX book (PDF) as it stands on disk."""

    svg: Path
    pdf: Path

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "image/svg+xml": self.svg.read_text(encoding="utf-8"),
            "application/pdf": base64.b64encode(self.pdf.read_bytes()).decode("ascii"),
            "text/plain": self.svg.name,
        }


@styled
def save(figure: Figure, name: str, folder: str | Path) -> Picture:
    """Write a figure as `name.svg` and `name.pdf`, byte for byte the same whenever the figure is the same.

    Parameters
    ----------
    figure
        From any function of `hybret.figures`.
    name
        File name without suffix.
    folder
        Made if it is not there.

    Returns
    -------
    Picture
        As the last value of a notebook cell it shows the saved file.

    Raises
    ------
    HybretError
        When `name` holds a path or the folder cannot be written.
    """
    if not name or Path(name).name != name:
        raise HybretError(f"a figure's name is a plain file name without folders, not {name!r}")
    picture = Picture(Path(folder) / f"{name}.svg", Path(folder) / f"{name}.pdf")
    try:
        picture.svg.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(picture.svg, metadata={"Date": None, "Creator": "hybret", "Title": name})
        figure.savefig(picture.pdf, metadata={"CreationDate": None, "Creator": "hybret", "Title": name})
    except OSError as problem:
        reason = problem.strerror or problem
        raise HybretError(f"cannot write a figure to {folder} ({reason}); choose another folder") from problem
    return picture


def glue(name: str, value: object) -> None:
    """Keep a number or a word of a notebook under a name, for the pages' ``{glue}`` roles; nothing is shown.

    What `myst_nb.glue` does with ``display=False``, so that a machine that only runs notebooks needs no Sphinx.
    """
    from IPython.display import display

    kind = "application/papermill.record/"
    display({f"{kind}text/plain": repr(value)}, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": kind}})
