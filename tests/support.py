"""Rows made by hand, and what several test files ask of a figure."""

import itertools
import re
from contextlib import contextmanager
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import random_ids
from typer.testing import CliRunner

import hybret as hb
from hybret import PAPER_NEEDLE, HybretError
from hybret import data as data
from hybret.cli import app
from hybret.engine import attention as attention
from hybret.engine import decode
from hybret.engine import recurrences as recurrences
from hybret.engine.scan import parallel_scans as parallel_scans
from hybret.engine.schedule import Budget as Budget  # types of arguments, and builders, without a public name
from hybret.engine.schedule import Timings as Timings
from hybret.errors import printable as printable
from hybret.families import FAMILIES as FAMILIES
from hybret.families import paper_config as paper_config
from hybret.files import digest as digest
from hybret.files import write_table as write_table
from hybret.organisms import skills as skills
from hybret.prompts import Prompt
from hybret.provenance import ENGINE_DIGEST as ENGINE_DIGEST
from hybret.resolving import resolve as resolve
from hybret.scoring import score
from hybret.sweeping import progress_bar as progress_bar
from hybret.verifying.probe import STEPS as STEPS
from hybret.verifying.probe import Probe as Probe

LENGTHS, DEPTHS = (80, 300, 512), (0.0, 50.0, 100.0)


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@contextmanager
def inputs_of(net):
    """(rows, tokens) of every forward pass of `net` inside the block."""
    read: list[tuple[int, int]] = []
    with net.register_forward_pre_hook(lambda _, __, named: read.append(named["input_ids"].shape), with_kwargs=True):
        yield read


@contextmanager
def idle(model):
    """A block in which the model must not run."""
    hook = model.net.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    try:
        yield
    finally:
        hook.remove()


def rows_of(scores, **columns):
    """Rows of one condition with these scores, each on another prompt."""
    n = len(scores)
    frame = pd.DataFrame({"score": np.asarray(scores, float), "prompt": [f"p{i}" for i in range(n)]})
    frame = frame.assign(exact=frame["score"] == 5, needle="paper", condition="base", rubric="table2")
    frame = frame.assign(template="base", haystack="h", haystack_seed=0, length=range(n), depth=50.0)
    return frame.assign(**columns)


def cells(**columns):
    """One row per cell of a 3 x 3 grid; the score is 5 unless the needle is out of the window."""
    rows = []
    for length, depth in itertools.product(LENGTHS, DEPTHS):
        distance = int(length * (1 - depth / 100)) + 10
        inside = distance < 256
        rows.append({
            "model": "griffin-tiny", "weights": "0123456789ab", "recipe": "CORRECTED", "template": "base",
            "condition": "keep", "needle": "paper", "length": length, "depth": depth, "distance": distance,
            "in_window": inside, "score": 5.0 * inside, "exact": inside, "prompt": f"{length}-{depth}",
            "rubric": "table2", "generation": "keep", "prefill": "keep", "k": 10, "during": "generation",
        })  # fmt: skip
    return pd.DataFrame(rows).assign(**columns).astype({"k": "Int64"})


def control(rows, score):
    kept = rows[rows["depth"] == 0]
    return kept.assign(needle="none", depth=np.nan, distance=-1, in_window=False, score=score, exact=False)


def curves():
    """Three numbers of heads kept, in both versions, with the control."""
    parts = [cells(k=k, during=d) for k in (1, 10) for d in ("generation", "both")]
    silent = [cells(k=0, during=d, score=0.0, exact=False) for d in ("generation", "both")]
    rows = pd.concat([*parts, *silent], ignore_index=True)
    return pd.concat([rows, control(rows, score=0.5)], ignore_index=True)


def pairs():
    """Four pairs of manipulations; Omit during generation scores nothing."""
    table = [cells(prefill=p, generation=g, condition=f"{g}-{p}") for p in ("keep", "null") for g in ("keep", "omit")]
    rows = pd.concat(table, ignore_index=True)
    omit = rows["generation"] == "omit"
    return rows.assign(score=rows["score"].mask(omit, 0.0), exact=rows["exact"] & ~omit)


def three_models(rows):
    """The rows as those of three models with different heads; the last one is instruction-tuned."""
    named = {"griffin-tiny": 10, "griffin-small": 16, "jamba-tiny": 32}
    parts = [rows.assign(model=m, k=rows["k"].replace(10, heads)) for m, heads in named.items()]
    parts[2] = parts[2].assign(template=parts[2]["template"].replace("base", "instruct"), in_window=True)
    return pd.concat(parts, ignore_index=True)


def text(figure):
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def check_readable(figure, name):
    """A figure names its model, labels its axes, and has no type below 8 points."""
    assert "griffin-tiny" in text(figure), name
    labelled = [axes for axes in figure.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert labelled or "prompt length (tokens)" in text(figure), name
    assert min(t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip()) >= 8, name


def squares(axes):
    """(column, row) of every square of a map, to its score."""
    found = {}
    for patch in axes.patches:
        if (patch.get_gid() or "").startswith("score-"):
            corners = patch.get_path().vertices.reshape(-1, 5, 2)[:, 0]
            found |= {tuple(corner): float(patch.get_gid().removeprefix("score-")) for corner in corners.tolist()}
    return found


def check_no_mixed_means(draw, rows):
    """A figure draws rows that are alike, and refuses rows of two kinds, and rows twice."""
    draw(rows)
    for column, value in MIXED.items():
        with pytest.raises(HybretError, match=f"'{column}' in one mean .*{re.escape(value)}"):
            draw(pd.concat([rows, rows.assign(**{column: value})]))
    with pytest.raises(HybretError, match="there twice, of one condition and prompt"):
        draw(pd.concat([rows, rows]))


MIXED = {"needle": "lamp", "haystack": "hills", "weights": "other", "dtype": "bfloat16", "template": "jrt",
         "recipe": "PAPER", "intervention": "KeepHeads(k=10, metric='output-norm')"}  # fmt: skip
ALIKE = cells(haystack="h", dtype="float32", intervention="KeepHeads(k=10, metric='entropy')", dose=1)


FULL = PAPER_NEEDLE.sentence
HALF = "You should eat a sandwich, in Dolores Park!"
NASTY = (
    "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'> "
    "\x1b[31m [a](javascript:alert(1)) \u202e"
)


def line(k, length, depth, answer, **more):
    points, exact, _ = score(answer, "table2")
    return {
        "model": "toy", "weights": "abc123abc123", "recipe": "CORRECTED", "condition": f"k={k} (generation)",
        "intervention": f"KeepHeads(k={k}, metric='entropy', during='generation')", "k": k, "during": "generation",
        "generation": None, "prefill": None, "run": "", "asked": PAPER_NEEDLE.digest,
        "template": "base", "haystack": "embedded", "haystack_seed": 0, "needle": "paper",
        "length": length, "depth": float(depth), "tokens": length - 3, "distance": int(length * (100 - depth) / 100),
        "in_window": length * (100 - depth) / 100 < 150, "answer": answer, "score": points, "exact": exact,
        "rubric": "table2", "prompt": f"{length}-{depth}", "device": "cpu", "dtype": "float32", **more,
    }  # fmt: skip


def toy(ks=(0, 2, 4, 8), lengths=(100, 200, 300, 400), depths=(0, 50, 100), **more):
    """Retrieval that is gone below k = 4, half there at 4, and whole with 8 heads."""
    said = {8: FULL, 4: HALF}
    rows = [line(k, n, d, said.get(k, NASTY), **more) for k in ks for n in lengths for d in depths]
    rows += [line(k, n, 0, "no", needle="none", distance=-1, in_window=False, **more) for k in ks for n in lengths]
    return pd.DataFrame(rows).astype({"k": "Int64"})


NEEDLE, QUESTION = (9, 16), (58, 66)


def a_prompt(model, n=70, **changes):
    """Random tokens with a needle that leaves the window of 32 tokens, and a question inside it."""
    labels, spans = {"template": "base", "length": n, "depth": 10.0}, {"needle": (NEEDLE,), "question": (QUESTION,)}
    return replace(Prompt("", random_ids(model, n), PAPER_NEEDLE, labels, spans), **changes)


def answered(model, prompt, n):
    """Token ids of the unmodified answer, by hybret's slow loop."""
    with hb.attach(model):
        return decode.generate(model, prompt.ids, hb.Keep(), prompt.needle_spans, hb.CORRECTED, n)


HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closing": "</script></text></svg><img src=x onerror=alert(1)>",
    "link": "[a](javascript:alert(1))",
    "role": "{download}`x` $\\frac{1}$ `code` | cell",
    "markup": "[red]x[/red] [/]",
    "ansi": "\x1b[31mred\x1b]0;title\x07",
    "bidi": "a\u202eb\u2066c",
    "control": "a\0b\x08c",
    "lines": "a\n::::\n<script>alert(1)</script>",
    "surrogate": "a\ud800b",
}
"""Texts of strangers that would do something, were they not shown as text."""
