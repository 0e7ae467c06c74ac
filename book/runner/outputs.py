"""Outputs of cells that a page must not show: progress bars, and what asks another host for something."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"
REWRITTEN = re.compile(r"[^\n]*(?:\r(?!\n)|\x1b\[A)[^\n]*\n?")  # a line that overwrites itself or the one above
LOADING = ("src", "srcset", "poster", "data", "href", "xlink:href")  # attributes whose address a browser asks for
AWAY = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
FETCHING = {  # of style sheets, and of scripts
    "style": re.compile(r"@import|url\(\s*[\"']?\s*(?:https?:)?//", re.IGNORECASE),
    "script": re.compile(r"\brequire(?:js)?(?:\.config)?\s*\(|\b(?:from|import|fetch)\b[\s(]*[\"'`](?:https?:)?//"),
}


def without_bars(nb: Any) -> None:
    """Take progress bars out of a notebook's outputs, whatever library drew them, and what is left of their widgets."""
    widgets = nb.metadata.get("widgets", {}).get("application/vnd.jupyter.widget-state+json", {}).get("state", {})

    def is_bar(output: Any) -> bool:
        data = output.get("data", {})
        widget = widgets.get(data.get(WIDGET, {}).get("model_id"), {})
        children = (str(child).removeprefix("IPY_MODEL_") for child in widget.get("state", {}).get("children", ()))
        names = [part.get("model_name", "") for part in (widget, *(widgets.get(child, {}) for child in children))]
        return "<progress" in data.get("text/html", "") or any(name.endswith("ProgressModel") for name in names)

    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = REWRITTEN.sub("", output.text)
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "something").strip() and not is_bar(o)]
    if not any(WIDGET in output.get("data", {}) for cell in nb.cells for output in cell.get("outputs", ())):
        nb.metadata.pop("widgets", None)  # MyST-NB asks a host for the scripts of widgets as soon as there is a state


class Requests(HTMLParser):
    """The first thing that a page would ask another host for to show a piece of HTML; links are only followed."""

    def __init__(self, html: str = "", script: str = "") -> None:
        super().__init__()
        self.first, self.inside = "", ""
        self.feed(html)
        self.close()
        self.look("script", script)

    def look(self, kind: str, text: str) -> None:
        if match := FETCHING[kind].search(text):
            self.first = self.first or f"what its {kind} names ({match[0].strip()})"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.inside = "" if "json" in values.get("type", "") else tag
        self.look("style", values.get("style", ""))
        for name in LOADING if tag not in ("a", "area") else ():
            if AWAY.match(values.get(name, "")):
                self.first = self.first or f"the {name} of <{tag}>"

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in FETCHING:
            self.look(self.inside, data)


def first_request(nb: Any) -> tuple[str, str]:
    """Return the first cell of a notebook that a page cannot show without another host, and what it asks for."""
    for cell in nb.cells:
        for data in (output.get("data", {}) for output in cell.get("outputs", ())):
            page = Requests(data.get("text/html", ""), data.get("application/javascript", ""))
            if what := "the scripts of a widget" if WIDGET in data else page.first:
                return cell.id, what
    return "", ""
