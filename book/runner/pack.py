"""The built book as one file: ``python -m book.runner.pack zip``, or ``pdf`` where LaTeX is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from book.runner.build import JUPYTER_BOOK
from hybret import __version__
from hybret.errors import HybretError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold: the same pages give the same file


def pack(root: Path = Path(".")) -> Path:
    """Zip the built pages into ``dist/hybret-book-VERSION.zip``, byte for byte the same for the same pages."""
    pages, name = root / "_build" / "html", f"hybret-book-{__version__}"
    if not (pages / "index.html").is_file():
        raise HybretError(f"there are no built pages in {pages}; build them first: make book")
    target = root / "dist" / f"{name}.zip"
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(p for p in pages.rglob("*") if p.is_file() and p.name != ".buildinfo"):
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(pages).as_posix()}", EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    part.replace(target)
    return target


def pdf(root: Path = Path(".")) -> Path:
    """Build the book as a PDF and return its path."""
    if missing := [program for program in ("latexmk", "xelatex") if shutil.which(program) is None]:
        raise HybretError(
            f"the PDF needs LaTeX, and {missing[0]} is not installed: install latexmk and XeLaTeX (Debian: latexmk "
            "texlive-xetex texlive-latex-extra texlive-fonts-recommended), or read the HTML that make book builds"
        )
    out = root / "_build" / "pdf"  # beside the HTML, whose cache stays what it is
    code = subprocess.run([*JUPYTER_BOOK, str(root), "--builder", "pdflatex", "--path-output", str(out)]).returncode
    made = next((out / "_build" / "latex").glob("*.pdf"), None)
    if code or made is None:
        raise HybretError("LaTeX made no PDF; its messages stand above")
    return made


if __name__ == "__main__":
    try:
        print({"zip": pack, "pdf": pdf}[sys.argv[1]]())
    except HybretError as error:
        sys.exit(f"error: {error}")
