"""The built book as one file: a zip of its pages, or a PDF where LaTeX is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from hybret import __version__
from hybret.errors import HybretError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold: the same pages give the same file
LATEX = ("latexmk", "xelatex")


def pack(root: Path = Path(".")) -> Path:
    """Zip the built pages into ``dist/hybret-book-VERSION.zip``, byte for byte the same for the same pages.

    Parameters
    ----------
    root : Path
        The project's folder.

    Returns
    -------
    Path
        The zip. Its files lie in a folder of the zip's name; ``index.html`` opens without a server.

    Raises
    ------
    HybretError
        When there are no built pages.
    """
    pages = root / "_build" / "html"
    if not (pages / "index.html").is_file():
        raise HybretError(f"there are no built pages in {pages}; build them first: make book")
    name = f"hybret-book-{__version__}"
    target = root / "dist" / f"{name}.zip"
    target.parent.mkdir(exist_ok=True)
    part = target.with_suffix(".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(p for p in pages.rglob("*") if p.is_file() and p.name != ".buildinfo"):
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(pages).as_posix()}", EPOCH)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    part.replace(target)
    return target


def pdf(root: Path = Path(".")) -> Path:
    """Build the book as a PDF and return its path.

    Raises
    ------
    HybretError
        When LaTeX is not installed, or did not make a PDF.
    """
    if missing := [program for program in LATEX if shutil.which(program) is None]:
        raise HybretError(
            f"the PDF needs LaTeX, and {missing[0]} is not installed: install latexmk and XeLaTeX (Debian: latexmk "
            "texlive-xetex texlive-latex-extra texlive-fonts-recommended), or read the HTML that make book builds"
        )
    main = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", main, "build", str(root), "--builder", "pdflatex"]
    command += ["--path-output", str(root / "_build" / "pdf")]  # beside the HTML, whose cache stays what it is
    code = subprocess.run(command).returncode
    made = next((root / "_build" / "pdf" / "_build" / "latex").glob("*.pdf"), None)
    if code or made is None:
        raise HybretError("LaTeX made no PDF; what it said stands above")
    return made


def main(what: str) -> int:
    """Carry out ``zip`` or ``pdf``; bad input ends with its one sentence and status 2."""
    try:
        print((pack if what == "zip" else pdf)())
    except HybretError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
