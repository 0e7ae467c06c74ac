"""Figures that take the page's colours: an SVG file of hybret becomes part of the page, dark on a dark one.

A file is put into the page only if it holds nothing but shapes and text: it may come from a published run, and what it
cannot be trusted with stays an image.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sphinx.application import Sphinx

from hybret.figures.style import GREY, INK, PALE
from hybret.files import digest

IMAGE = re.compile(r'<img\b[^>]*\bsrc="([^"]*\.svg)"[^>]*>')
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
TAGS = {SVG + name for name in ("svg", "g", "defs", "path", "use", "clipPath", "rect", "text", "tspan", "image")}
LEFT_OUT = {SVG + name for name in ("title", "metadata", "style")}  # a style sheet would be the whole page's
ATTRIBUTES = {"id", "d", "style", "transform", "clip-path", "x", "y", "width", "height", "viewBox", "version", LINK}
SAFE_LINK = re.compile(r"#[\w-]+|data:image/png;base64,[\w+/=\s]+")
THEME = {INK: "text-base", GREY: "text-muted", PALE: "border", "#ffffff": "background"}
COLOUR = re.compile("|".join(THEME), re.IGNORECASE)
for prefix, uri in (("", SVG), ("xlink", LINK)):
    ElementTree.register_namespace(prefix, uri[1 : uri.index("}")])


def inlined(path: Path, alt: str) -> str | None:
    """The figure as HTML with the page's colours; None for a file that hybret did not write or that could act."""
    source = path.read_text(encoding="utf-8")
    if "<dc:title>hybret</dc:title>" not in source:
        return None
    root, key = ElementTree.fromstring(source), digest(source)
    for element in list(root.iter()):
        for child in [child for child in element if child.tag in LEFT_OUT]:
            element.remove(child)
    for element in root.iter():
        if element.tag not in TAGS or not ATTRIBUTES.issuperset(element.attrib):
            return None
        if not SAFE_LINK.fullmatch(element.get(LINK, "#none")):
            return None
        for name, value in element.attrib.items():
            if re.search(r"url\((?!#)", value):
                return None
            # Two figures of one page have elements of the same names.
            value = re.sub(r"(?<=url\(#)", f"{key}-", value)
            element.set(name, f"{key}-{value}" if name == "id" else value)
        if element.get(LINK, "").startswith("#"):
            element.set(LINK, f"#{key}-{element.get(LINK, '')[1:]}")
        # White words lie on a dark square, whatever the page.
        on_page = element.tag != SVG + "text" or "#ffffff" not in element.get("style", "")
        if "style" in element.attrib and on_page:
            element.set("style", COLOUR.sub(_themed, element.get("style", "")))
    width = root.get("width", "").removesuffix("pt")
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "hb-figure", "role": "img", "aria-label": alt, "style": f"max-width: {width}pt"}
    return ElementTree.tostring(root, encoding="unicode")


def _themed(found: re.Match[str]) -> str:
    return f"var(--pst-color-{next(to for colour, to in THEME.items() if colour.lower() == found[0].lower())})"


def put_in(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Put the figures of a page into it."""
    if app.builder.format != "html" or "body" not in context:
        return
    files = {Path(name).name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def figure(found: re.Match[str]) -> str:
        path = files.get(Path(unescape(found[1])).name)
        alt = re.search(r'\balt="([^"]*)"', found[0])
        return (path and path.is_file() and inlined(path, unescape(alt[1]) if alt else "")) or found[0]

    context["body"] = IMAGE.sub(figure, context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", put_in)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
