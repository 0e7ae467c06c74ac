"""``python -m book.runner``: what ``hybret book`` does, with its options."""

import sys

from hybret.cli import app

app(["book", *sys.argv[1:]], prog_name="hybret")
