"""Word lists of the small models' corpus, by word class, and the reader of the text files that hold its language.

`words.txt` has plain English nouns, verbs with their past forms, adjectives, adverbs, and the names (people, cities,
parks, activities) of the facts. The words of the paper's needle (San Francisco, eat a sandwich, sit, Dolores Park,
sunny) stand among their peers: drawn uniformly like every other entry, never first, so that no lucky guess of a
favourite word can pass for retrieval.
"""

from collections.abc import Iterator
from pathlib import Path


def blocks(file: str) -> Iterator[list[str]]:
    """The blocks of lines of a text file of this folder, a blank line between two."""
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    return (block.splitlines() for block in text.strip().split("\n\n"))


def word_lists(file: str) -> dict[str, tuple[str, ...]]:
    """Each block is a class and its entries: words, phrases with commas between them, or verbs as base/past."""
    lists = {}
    for names, *lines in blocks(file):
        text = " ".join(lines)
        entries = text.split(", ") if "," in text else text.split()
        for i, name in enumerate(names.split("/")):
            lists[name] = tuple(entry.split("/")[i] if "/" in names else entry for entry in entries)
    return lists


WORDS = word_lists("words.txt")
"""Word class -> its entries; slots of patterns name the classes."""
WORDS["name"] = WORDS["woman"] + WORDS["man"]
_THINGS = "job animal food drink object building furniture clothes container instrument plant nature vehicle"
WORDS["noun"] = tuple(sorted({word for kind in _THINGS.split() for word in WORDS[kind]}))
