"""Pages, cards and notebooks are in plain English: short sentences, no banned words, one form of a number."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser

REPO = Path(__file__).resolve().parents[2]
PATTERNS = ("*.md", "book/*.md", "hybret/organisms/checkpoints/*/README.md", "notebooks/*.ipynb")
PAGES = {str(path.relative_to(REPO)): path for pattern in PATTERNS for path in sorted(REPO.glob(pattern))}
LONGEST, MEAN = 35, 20  # words of a sentence
SENTENCE = re.compile(r"(?<=[.?!])[\"”)]*\s+|(?<=[:;])\s+(?=[A-Z])")  # where one ends
BANNED = re.compile(
    r"\b(?:(?i:organisms?|floors?|arms?|mass|sight|pearls?|departures?|untouched|twins?|embedded|asked|stands?|stood"
    r"|lies|bears|here too|in its turn|as many)|CORRECTED|PAPER)\b(?!-)"
)
PARSER = create_md_parser(MdParserConfig(enable_extensions={"dollarmath"}), RendererHTML)
NAMED = {"code_inline", "myst_role", "math_inline"}
PROSE = re.compile(r"\{(?:glossary|admonition|warning|note|figure|run-figure)\}")  # directives that hold text


def source(path: Path) -> str:
    """Return a page as Markdown; of a notebook, its Markdown cells."""
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def words(inline: Token) -> Iterator[str]:
    """Yield the pieces of a paragraph, `X` for code, roles, formulas and links without a text."""
    for token, following in pairwise([*(inline.children or []), inline]):
        if token.type in {"text", "image"}:
            yield token.content
        elif token.type == "softbreak":
            yield " "
        elif token.type in NAMED or (token.type == "link_open" and following.type == "link_close"):
            yield "X"


def blocks(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield tag and text of every heading, paragraph and list item; tables and code are no prose."""
    tag = ""
    for token in PARSER.parse(markdown):
        if token.nesting == 1:
            tag = token.tag
        elif token.type == "inline" and tag not in {"th", "td"}:
            yield tag, "".join(words(token))
        elif token.type == "fence" and PROSE.match(token.info):
            captions = re.sub(r"(?m)^:(?:alt:|\w+:.*$)", "\n", token.content)
            yield from blocks(re.sub(r"(?m)^(\S.*)\n {2}(?=\S)", r"# \1\n", captions))  # a term and its definition


def findings(text: list[tuple[str, str]]) -> Iterator[str]:
    """Yield what is against the rules, with the sentence that it is in."""
    lengths = []
    for tag, block in text:
        for sentence in SENTENCE.split(block):
            yield from (f"{word!r} is banned: {sentence}" for word in BANNED.findall(sentence))
            yield from (f"{number!r} has an idle decimal: {sentence}" for number in re.findall(r"\d+\.0 ?%", sentence))
            length = sum(bool(re.search(r"\w", word)) for word in sentence.split())
            lengths += [length] if tag[0] != "h" else []
            if length > LONGEST:
                yield f"{length} words: {sentence}"
    if sum(lengths) > MEAN * len(lengths):
        yield f"sentences have {sum(lengths) / len(lengths):.1f} words on average"
    if len({*re.findall(r"[\dX]( ?%)", " ".join(block for _, block in text))}) > 1:
        yield "percentages have a space in one place and none in another"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_english(page):
    found = [*findings([*blocks(source(PAGES[page]))])]
    assert not found, "\n".join(["", *found])
