"""What interactive views share: one ESM file that runs live through anywidget, and alone on a static page.

The same ESM serves both. Live, anywidget gives it a `model`; on a page that nobody computes for, a shim of that
model does, over the state as JSON. Such a page asks for nothing, not even a file beside it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hybret.errors import HybretError, printable
from hybret.files import digest, write_whole, writing

ENTRY = "export default"


class Widget:
    """A view: shows itself live where a front end answers, and as self-contained HTML everywhere.

    `esm` and `css` are file names in this package, or the sources. The ESM imports nothing and has one ``export default
    {render({model, el}) {...}}``; it reads ``model.get("state")``, writes ``model.set("picked", value);
    model.save_changes()``, and shows text by ``textContent`` only. `resolve` turns what it picked into what `selected`
    gives. `state` is plain JSON, escaped here for the page; `fallback` is HTML with the main numbers, shown where
    scripts do not run, whose texts the caller escapes.
    """

    def __init__(
        self, esm: str, css: str, state: dict[str, Any], fallback: str, label: str, resolve: Any = lambda picked: picked
    ) -> None:
        self.esm, self.css = source("widget.js") + source(esm), source("widget.css") + source(css)
        self.state, self.fallback, self.label, self.resolve = state, fallback, printable(label), resolve
        self._json = escaped_json(state)
        self._live: Any = None

    @property
    def selected(self) -> Any:
        """What the reader picked in the live view; None before that, and on a static page."""
        return self._live and self._live.selected

    @property
    def live(self) -> Any:
        """The anywidget behind the live view, with the trait `selected`: ``view.live.observe(f, "selected")``."""
        if not find_spec("anywidget"):
            raise HybretError("a live view needs anywidget: pip install anywidget ipywidgets")
        self._live = self._live or _live(self)
        return self._live

    def html(self) -> str:
        """A piece of a page: works from disk, without a kernel, and several times on one page."""
        key = digest(self.esm, self.css, self._json)
        esm = self.esm.replace(ENTRY, "const widget =", 1).replace("</script", "<\\/script")
        # Two copies of one view share a key: each script takes the first that no other has taken.
        return (
            f'<div class="hb-widget" data-hb-view="{key}">\n'
            f'<script type="application/json" class="hb-state">{self._json}</script>\n'
            f"<style>{self.css}</style>\n"
            f'<div class="hb-fallback">{self.fallback}</div>\n'
            f'<div class="hb-view" role="group" aria-label="{escape(self.label)}"></div>\n'
            '<script type="module">\n'
            f"const root = document.querySelector('[data-hb-view=\"{key}\"]:not([data-hb-taken])');\n"
            f'root.dataset.hbTaken = "";\n{source("shim.js")}\n{esm}\n'
            'await widget.render({model, el: root.querySelector(":scope > .hb-view")});\n'
            'root.classList.add("hb-ready");\n'
            "</script>\n</div>"
        )

    def page(self) -> str:
        """A whole page around `html`."""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<link rel="icon" href="data:,">\n'  # or the browser asks for favicon.ico
            f"<title>{escape(self.label)}</title>\n</head>\n"
            f'<body class="hb-page">\n{self.html()}\n</body>\n</html>\n'
        )

    def save(self, path: str | Path) -> Path:
        """Write `page` to a file."""
        path = Path(path)
        with writing(path, "choose another file"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, self.page().encode())
        return path

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.label}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # A runner keeps its outputs for a time without a kernel: it gets the static view alone.
        bundle = {"text/plain": repr(self), "text/html": self.html()}
        return bundle | (self.live._repr_mimebundle_()[0] | bundle if attended() and find_spec("anywidget") else {})


def attended() -> bool:
    """Whether a front end shows this kernel's output; papermill and nbconvert keep it for later.

    Such runners tell their kernel that nobody answers a request for input; so does voila, which is a front end.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    kernel = getattr(shell, "kernel", None)
    voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila")
    return kernel is not None and (voila or bool(getattr(kernel, "_allow_stdin", False)))


def escaped_json(state: Mapping[str, Any]) -> str:
    r"""JSON that cannot end the script element around it: ``<``, ``>``, ``&``, U+2028 and U+2029 as ``\uXXXX``."""
    text = json.dumps(state, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # Lone surrogates have no UTF-8; the others could end a script element, or a line of JavaScript.
    risky = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"} | {c: f"\\u{c:04x}" for c in range(0xD800, 0xE000)}
    return text.translate(risky)


def source(text: str) -> str:
    """A file of this package, where `text` names one; otherwise `text`."""
    return Path(__file__).with_name(text).read_text("utf-8") if text.endswith((".js", ".css")) else text


def _live(view: Widget) -> Any:
    import anywidget
    import traitlets

    class Live(anywidget.AnyWidget):
        """`picked` comes from the ESM; `selected` is what it means in Python."""

        _esm, _css = view.esm, view.css
        state = traitlets.Dict().tag(sync=True)
        picked = traitlets.Any(None, allow_none=True).tag(sync=True)
        selected = traitlets.Any(None, allow_none=True)

    # A front end keeps one style sheet per class name: the last view would take the rules of the others away.
    Live.__name__ += digest(view.css)
    live = Live(state=view.state)
    live.add_class("hb-widget")

    live.observe(lambda change: live.set_trait("selected", view.resolve(change["new"])), "picked")
    return live
