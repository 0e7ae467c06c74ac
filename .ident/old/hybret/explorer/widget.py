"""What interactive views share: one ESM file that runs live through anywidget, and alone on a static page.

The same ESM serves both. Live, anywidget gives it a `model`; on a page that nobody computes for, a shim of that
model does, over the state as JSON. Such a page asks for nothing, not even a file beside it.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import HybretError, printable
from ..progress import attended

HERE = Path(__file__).parent
BASE_JS = "widget.js"  # how every view shows foreign text
BASE_CSS = "widget.css"  # light, dark and print colours of every view, as custom properties of `.hb-widget`
_ENTRY = "export default"

# anywidget's `model`, as far as a view may use it. `send` and custom messages need a kernel and are absent.
_SHIM = """
const values = {state: JSON.parse(root.querySelector(":scope > .hb-state").textContent), picked: null};
const listeners = new Map();
const model = {
  get: (name) => values[name],
  set(name, value) {
    values[name] = value;
    for (const heard of listeners.get(`change:${name}`) ?? []) heard();
  },
  on(event, heard) { listeners.set(event, [...(listeners.get(event) ?? []), heard]); },
  off(event, heard) { listeners.set(event, (listeners.get(event) ?? []).filter((other) => other !== heard)); },
  save_changes() {},
};
"""


class Widget:
    """A view: shows itself live where a front end answers, and as self-contained HTML everywhere.

    Parameters
    ----------
    esm : str
        File name in this package, or the source itself: JavaScript without imports, with one
        ``export default {render({model, el}) {...}}``. It reads ``model.get("state")``, writes
        ``model.set("picked", value); model.save_changes()``, and shows text by ``textContent`` only.
    css : str
        File name in this package, or the rules themselves; selectors begin with a class of this view.
    state : mapping
        What JSON can hold (no NaN). Texts in it may come from a model: they are escaped here, once, for the page.
    fallback : str
        HTML of a plain table with the view's main numbers, shown where scripts do not run. The caller escapes texts.
    label : str
        What the view is, said by screen readers and in the title of a page.
    resolve : callable, optional
        Turns what the ESM picked into what `selected` gives.

    Raises
    ------
    HybretError
        A state that JSON cannot hold.
    """

    def __init__(
        self,
        esm: str,
        css: str,
        state: Mapping[str, Any],
        fallback: str,
        label: str,
        resolve: Callable[[Any], Any] | None = None,
    ) -> None:
        self.esm, self.css = _source(BASE_JS) + _source(esm), _source(BASE_CSS) + _source(css)
        if self.esm.count(_ENTRY) != 1:
            raise HybretError(f"a view's JavaScript has `{_ENTRY}` once, not {self.esm.count(_ENTRY)} times")
        self.state, self.fallback, self.label, self.resolve = dict(state), fallback, printable(label), resolve
        self._json = escaped_json(self.state)
        self._live: Any = None

    @property
    def selected(self) -> Any:
        """What the reader picked in the live view; None before that, and on a static page."""
        return self._live.selected if self._live is not None else None

    @property
    def live(self) -> Any:
        """The anywidget behind the live view, with the trait `selected`: ``view.live.observe(f, "selected")``.

        Raises
        ------
        HybretError
            Without anywidget.
        """
        if self._live is None:
            if not find_spec("anywidget"):
                raise HybretError("a live view needs anywidget: pip install anywidget ipywidgets")
            self._live = _live(self)
        return self._live

    def html(self) -> str:
        """A piece of a page: works from disk, without a kernel, and several times on one page."""
        key = hashlib.sha256((self.esm + self.css + self._json).encode()).hexdigest()[:12]
        esm = self.esm.replace(_ENTRY, "const widget =", 1).replace("</script", "<\\/script")
        # Two copies of one view share a key: each script takes the first that no other has taken.
        return (
            f'<div class="hb-widget" data-hb-view="{key}">\n'
            f'<script type="application/json" class="hb-state">{self._json}</script>\n'
            f"<style>{self.css}</style>\n"
            f'<div class="hb-fallback">{self.fallback}</div>\n'
            f'<div class="hb-view" role="group" aria-label="{html.escape(self.label)}"></div>\n'
            '<script type="module">\n'
            f"const root = document.querySelector('[data-hb-view=\"{key}\"]:not([data-hb-taken])');\n"
            f'root.dataset.hbTaken = "";\n{_SHIM}\n{esm}\n'
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
            f"<title>{html.escape(self.label)}</title>\n</head>\n"
            f'<body class="hb-page">\n{self.html()}\n</body>\n</html>\n'
        )

    def save(self, path: str | Path) -> Path:
        """Write `page` to a file.

        Raises
        ------
        HybretError
            A file that cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.page(), encoding="utf-8")
        except OSError as problem:
            raise HybretError(f"cannot write {path} ({problem.strerror or problem}); choose another file") from problem
        return path

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.label}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # A runner keeps its outputs for a time without a kernel: it gets the static view alone.
        bundle = {"text/plain": repr(self), "text/html": self.html()}
        return bundle | (self.live._repr_mimebundle_()[0] | bundle if attended() and find_spec("anywidget") else {})


def escaped_json(state: Mapping[str, Any]) -> str:
    r"""JSON that cannot end the script element it stands in: ``<``, ``>``, ``&``, U+2028 and U+2029 as ``\uXXXX``.

    Raises
    ------
    HybretError
        What JSON cannot hold, NaN included.
    """
    try:
        text = json.dumps(state, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as problem:
        raise HybretError(f"a view's state must be plain JSON: {problem}") from problem
    # Lone surrogates have no UTF-8; the others could end a script element, or a line of JavaScript.
    risky = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"} | {c: f"\\u{c:04x}" for c in range(0xD800, 0xE000)}
    return text.translate(risky)


def _source(text: str) -> str:
    """A file of this package, where `text` names one; otherwise `text`."""
    return (HERE / text).read_text(encoding="utf-8") if text.endswith((".js", ".css")) and "\n" not in text else text


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
    Live.__name__ += hashlib.sha256(view.css.encode()).hexdigest()[:12]
    live = Live(state=view.state)
    live.add_class("hb-widget")
    live.observe(lambda change: setattr(live, "selected", _resolved(view, change["new"])), "picked")
    return live


def _resolved(view: Widget, picked: Any) -> Any:
    return view.resolve(picked) if view.resolve and picked is not None else picked
