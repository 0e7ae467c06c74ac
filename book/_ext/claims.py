"""A claim of the paper and its verdict, at the top of a page.

The verdicts are those that ``notebooks/verdicts`` wrote when it last ran (``verdicts.json`` among the results). They
are read when the pages are built, so that no run depends on them: that page judges the rows of the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from book.paper.claims import AGREES, HYPOTHESES, JUDGED
from book.paper.numbers import LIMITS
from book.paper.verdicts import ACROSS, CLAIMS, Claim, words

PAGE, FILE = "notebooks/verdicts", "verdicts.json"
Verdict = dict[str, Any]


class FromVerdicts(SphinxDirective):
    """What the directives share: the verdicts of the last run, and links to its page."""

    def verdicts(self) -> list[Verdict]:
        """Return every verdict, in the order of the file; none where the page of verdicts has not run."""
        path = Path(self.env.app.hybret[0].results, FILE)  # type: ignore
        self.env.note_dependency(str(path))  # also when it is not there: the page is read again once it is
        lines = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return [line for line in lines if {"exactly", "interval"} <= set(line)]  # others are of an older run

    def link(self, text: str, claim: str = "") -> nodes.Node:
        """Return a link to the page of verdicts, or to a claim on it; bare text in a book without it."""
        if PAGE not in self.env.found_docs:
            return nodes.Text(text)
        address = self.env.app.builder.get_relative_uri(self.env.docname, PAGE) + (f"#claim-{claim}" if claim else "")
        return nodes.reference("", text, internal=True, refuri=address)

    def outdated(self) -> list[nodes.Node]:
        """Say so where a run that the verdicts rest on has changed since."""
        status = self.env.app.hybret[1].get(PAGE)  # type: ignore
        stale = status is not None and status.state == "stale"
        return [nodes.emphasis("", " The verdicts are out of date; make book judges again.")] if stale else []


def of_first_recipe(lines: Sequence[Verdict]) -> list[Verdict]:
    return [line for line in lines if line["recipe"] == lines[0]["recipe"]]


def paragraph(*parts: str | nodes.Node, classes: Sequence[str] = ()) -> nodes.paragraph:
    made = nodes.paragraph(classes=list(classes))
    made += [nodes.Text(part) if isinstance(part, str) else part for part in parts]
    return made


def fold(summary: str) -> tuple[str, str]:
    """Return the HTML that begins and that ends what a reader unfolds."""
    return f'<details class="hb-fold"><summary>{escape(summary)}</summary>', "</details>"


def folded(summary: str, *inside: nodes.Node) -> list[nodes.Node]:
    """Return nodes that a reader unfolds."""
    opening, closing = (nodes.raw("", part, format="html") for part in fold(summary))
    return [opening, *inside, closing]


def grid(head: Sequence[str], lines: Sequence[Sequence[str]], *classes: str) -> nodes.table:
    """Return a table of plain text."""
    table, group = nodes.table(classes=["hb-sides", *classes]), nodes.tgroup(cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]
    for part, rows in ((nodes.thead(), [head]), (nodes.tbody(), lines)):
        for cells in rows:
            row = nodes.row()
            row += [nodes.entry("", paragraph(cell)) for cell in cells]
            part += row
        group += part
    table += group
    return table


def number(line: Verdict) -> str:
    """Return our figure in words, with the interval of the number that was tested, or why none was."""
    ours = f"{line['ours']} [{line['interval']}]" if line["interval"] else line["ours"]
    return "; ".join(filter(None, (ours, "" if line["verdict"] in JUDGED else line["why"])))


class ClaimBox(FromVerdicts):
    """``{claim} NAME ...``: what the paper says and the verdicts, which unfold to the numbers and the test."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self) -> list[nodes.Node]:
        wanted = self.arguments[0].split()
        if unknown := [name for name in wanted if name not in CLAIMS]:
            raise self.error(f"there is no claim {unknown[0]!r}; choose among {', '.join(CLAIMS)}")
        table = self.verdicts()
        box = nodes.container(classes=["hb-lead"])
        for name in wanted:
            box += self.one(CLAIMS[name], [line for line in table if line["claim"] == name])
        models = ", ".join(dict.fromkeys(line["model"] for line in table if line["model"] != ACROSS))
        foot = f"Here: {models}, not the paper's models. " if table else ""
        box += paragraph(foot, self.link("Every claim and its verdict"), ".", *self.outdated(), classes=["hb-small"])
        return [box]

    def one(self, claim: Claim, lines: Sequence[Verdict]) -> list[nodes.Node]:
        """Return the sentence, and the paper's number above ours."""
        sentence = paragraph(nodes.strong("", f"The paper: {claim.says}"), f" ({claim.where})")
        first = of_first_recipe(lines)
        idle = [line for line in first if line["verdict"] not in JUDGED and not line["ours"]]
        idle = idle if len(idle) < len(first) else []  # a table of nothing but the paper would look forgotten
        rows = [["the paper", claim.paper, ""]]
        rows += [[line["model"], number(line), words(line)] for line in first if line not in idle]
        rows += [] if first else [["here", "not judged yet: make book", ""]]
        text = f"Test: {claim.test}."
        for state in dict.fromkeys(line["verdict"] for line in idle):
            of_it = (f"{line['model']} ({line['why']})" for line in idle if line["verdict"] == state)
            text += f" {state.capitalize()}: {', '.join(of_it)}."
        if first:
            text += f" Recipe {first[0]['recipe']}.{self.other(first, lines)} "
        more = [self.link("In full", claim.name), "."] if first else []
        foot = paragraph(text, *more, classes=["hb-small"])
        summary = " · ".join(f"{line['model']} {words(line)}" for line in first) or "Not judged yet"
        return [sentence, *folded(summary, grid(["model", "number", "verdict"], rows, "hb-names"), foot)]

    @staticmethod
    def other(first: Sequence[Verdict], lines: Sequence[Verdict]) -> str:
        """Say which verdicts another recipe gives, where it differs and was run."""
        before = {line["model"]: words(line) for line in first}
        other = [line for line in lines if line["recipe"] != first[0]["recipe"] and line["verdict"] in JUDGED]
        same = {line["model"]: words(line) == before[line["model"]] for line in other}
        told = [f"{line['model']} {'the same' if same[line['model']] else words(line)}" for line in other]
        return f" Under {other[0]['recipe']}: {', '.join(told)}." if other else ""


class Answer(FromVerdicts):
    """``{answer}``: the question of the book in one sentence, as the verdicts have it."""

    def run(self) -> list[nodes.Node]:
        lines = [line for line in self.verdicts() if line["claim"] == "no-attention-generation"]
        first = [line for line in of_first_recipe(lines) if line["verdict"] in JUDGED]
        if not first:
            return [paragraph(nodes.strong("", "Attention, says the paper."), " No run here has tried it: make book.")]
        wrong = [line for line in first if line["verdict"] != AGREES]
        *others, last = [line["model"] for line in wrong or first]
        models = " and ".join(filter(None, [", ".join(others), last]))
        answer = "Not attention alone, everywhere." if wrong else "Attention."
        why = "something is left in" if wrong else "nothing is retrieved by"
        parts = [nodes.strong("", answer), f" Without it, {why} {models}; ", self.link("the verdict"), "."]
        return [paragraph(*parts, classes=["hb-answer"])]


class VerdictCounts(FromVerdicts):
    """``{verdict-counts}``: for each hypothesis of the paper, in how many states its claims are on all models."""

    def run(self) -> list[nodes.Node]:
        if not (table := self.verdicts()):
            return [paragraph("No claim has been judged here yet: make book. ", self.link("All claims"), ".")]
        counts: dict[str, Counter[str]] = {}
        first: dict[str, str] = {}  # claim of each hypothesis
        for line in of_first_recipe(table):
            about = HYPOTHESES[CLAIMS[line["claim"]].hypothesis]
            counts.setdefault(about, Counter())[line["verdict"].removesuffix(" on this model")] += 1
            first.setdefault(about, line["claim"])
        told = [
            paragraph(
                self.link(about, first[about]), ": ", ", ".join(f"{n} {state}" for state, n in count.most_common())
            )
            for about, count in counts.items()
        ]
        models = ", ".join(dict.fromkeys(line["model"] for line in table if line["model"] != ACROSS))
        foot = paragraph(f"Each claim is judged on each of {models}. ", self.link("All claims"), ".", *self.outdated())
        return [nodes.bullet_list("", *(nodes.list_item("", line) for line in told)), foot]


class Limits(SphinxDirective):
    """``{limits}``: what no verdict of this book covers, in three lines."""

    def run(self) -> list[nodes.Node]:
        lines = nodes.bullet_list("", *(nodes.list_item("", paragraph(line)) for line in LIMITS))
        return [nodes.container("", lines, classes=["hb-lead", "hb-limits"])]


class VerdictChanges(FromVerdicts):
    """``{verdict-changes}``: claims whose verdict depends on the recipe."""

    def run(self) -> list[nodes.Node]:
        if not (table := self.verdicts()):
            return [paragraph("No claim has been judged here yet: make book.")]
        by = {(line["claim"], line["model"], line["recipe"]): line for line in table}
        first, *others = dict.fromkeys(line["recipe"] for line in table)
        pairs = [(line, by.get((*key[:2], other))) for key, line in by.items() if key[2] == first for other in others]
        judged = [(a, b) for a, b in pairs if b and a["verdict"] in JUDGED and b["verdict"] in JUDGED]
        rows = [
            [f"{CLAIMS[a['claim']].says} ({a['model']})", *(f"{words(line)}: {line['ours']}" for line in (a, b))]
            for a, b in judged
            if words(a) != words(b)
        ]
        text = f"{len(rows)} of the {len(judged)} verdicts that were reached under both recipes differ"
        then = [
            ". Fewer prompts of the second recipe alone can make one undecided. ",
            self.link("All verdicts"),
            ".",
            *self.outdated(),
        ]
        box = nodes.container("", paragraph(nodes.strong("", text), *then), classes=["hb-lead"])
        if rows:
            box += folded("Which ones", grid(["the paper", first, ", ".join(others)], rows))
        return [box]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claim", ClaimBox)
    app.add_directive("answer", Answer)
    app.add_directive("verdict-counts", VerdictCounts)
    app.add_directive("limits", Limits)
    app.add_directive("verdict-changes", VerdictChanges)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
