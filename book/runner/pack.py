"""The built book as one file: ``python -m book.runner.pack``."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

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


if __name__ == "__main__":
    try:
        print(pack())
    except HybretError as error:
        sys.exit(f"error: {error}")
