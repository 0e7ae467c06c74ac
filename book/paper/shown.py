"""Prompts as HTML for the pages; their text is escaped."""

from __future__ import annotations

from html import escape

import hybret as hb


def prompt_panel(name: str, prompt: hb.Prompt) -> str:
    """A prompt that unfolds, with its needle highlighted."""
    needle = escape(hb.PAPER_NEEDLE.sentence)
    text = escape(prompt.text).replace(needle, f"<mark>{needle}</mark>")
    places = ", ".join(f"{first} to {end - 1}" for first, end in prompt.needle_spans)
    template = hb.figures.words("template", prompt.template)
    return (
        f"<details{'' if prompt.template == 'jrt' else ' open'}><summary>{escape(name)}, {template}: "
        f"{len(prompt.ids)} tokens, needle at tokens {places}</summary>"
        f'<pre class="tex2jax_ignore" style="white-space: pre-wrap">{text}</pre></details>'
    )
