"""The one error that hybret raises for bad input, and how foreign text is shown."""

LONGEST = 1500
"""Characters of an error: more than any sentence of hybret, and less than a foreign text may bring."""


def printable(text: object) -> str:
    """A foreign text (a model's answer, a name, a path) on one line: control, bidi and colour codes become visible."""
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in line)


class HybretError(ValueError):
    """Bad input, said in one sentence: what is wrong, what is allowed, what to do.

    Raised before any model runs, so nothing that was computed is lost. The command line prints the sentence
    without a traceback and exits with status 2. It is one line whatever it quotes; of a long one the middle is left
    out, as the remedy stands at the end.
    """

    def __init__(self, sentence: object = "") -> None:
        line = printable(sentence)
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
        super().__init__(line)
