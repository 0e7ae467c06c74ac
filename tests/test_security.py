"""Foreign text (answers, names, paths) stays text; foreign files are data; nothing leaves its folder."""

from __future__ import annotations

import ast
import io
import re
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support import HOSTILE

from book.paper import figures as paper_figures
from book.paper import verdicts
from book.runner.runs import Project
from hybret import data, figures, files
from hybret.errors import HybretError, printable
from hybret.sweeping import progress_bar, run_folder

REPO = Path(__file__).resolve().parents[1]
CODE = sorted([*(REPO / "hybret").rglob("*.py"), *(REPO / "book" / "_ext").glob("*.py")])
# A table of pandas holds no half of a pair.
TABLES = {name: text for name, text in HOSTILE.items() if name != "surrogate"}
FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile"}
UNPACK = {"extract", "extractall", "unpack_archive"}  # archives are written, never unpacked
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load",
         "yaml.unsafe_load", "np.load", "numpy.load", "pd.read_pickle"}  # fmt: skip


@pytest.mark.parametrize("path", [pytest.param(p, id=p.relative_to(REPO).as_posix()) for p in CODE])
def test_no_code_unpickles_runs_strings_or_trusts_remote_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN, f"line {node.lineno}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in CALLS, f"line {node.lineno}: {called}"
            assert called.rpartition(".")[2] not in UNPACK, f"line {node.lineno}: {called}"
            for word in node.keywords:
                if word.arg in ("shell", "trust_remote_code", "weights_only"):
                    assert ast.unparse(word.value) == "False", f"line {node.lineno}: {word.arg}"
                assert word.arg != "allow_pickle", f"line {node.lineno}"
            if called.endswith("from_pretrained") and "Tokenizer" in called + path.name and "trust" in path.read_text():
                assert not any(ast.unparse(k.value) == "True" for k in node.keywords if k.arg == "trust_remote_code")


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_foreign_text_is_printed_as_one_plain_line(text):
    assert printable(text).isprintable() and "\x1b" not in printable(text)
    assert str(HybretError(text)).isprintable()


@pytest.mark.parametrize("text", TABLES.values(), ids=list(TABLES))
def test_a_figure_shows_foreign_text_as_text(text, tmp_path):
    table = pd.DataFrame({"variant": [text, "b"], "accuracy": [0.5, 1.0], "low": [0.4, 0.9], "high": [0.6, 1.0]})
    picture = figures.save(paper_figures.variants(table, f"model {text}", text), "x", tmp_path)
    root = ET.fromstring(picture.svg.read_text())  # well-formed: no control code, no tag of the text's own
    tags = {element.tag.split("}")[-1] for element in root.iter()}
    assert not tags & {"script", "img", "a", "foreignObject"}
    shown = " ".join("".join(e.itertext()) for e in root.iter() if e.tag.endswith("}text"))
    assert printable(text)[:6] in shown and shown.replace("\n", " ").isprintable()


@pytest.mark.parametrize("text", TABLES.values(), ids=list(TABLES))
def test_verdicts_show_foreign_text_as_text(text):
    table = verdicts.of(models=[SimpleNamespace(name=text, heads=10, parameters=1, family="")], recipes=["PAPER"])
    page = verdicts.html(table)
    assert "<script" not in page and "<img" not in page and "\x1b" not in page and "\u202e" not in page


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_a_model_is_called_by_its_name_as_text(griffin, text):
    named = replace(griffin, name=text)
    assert printable(text) in repr(named) and repr(named).isprintable()
    shown = named._repr_html_()
    assert f"<b>{escape(printable(text))}</b>" in shown and shown.isprintable()


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_a_progress_line_shows_foreign_text_as_text(text):
    said = io.StringIO()
    with progress_bar(True, text, total=2, file=said) as bar:
        bar.update()
    assert printable(text) in said.getvalue() and not set(said.getvalue()) & set("\x1b\x07\0\x08\u202e\u2066")


@pytest.fixture(scope="module")
def executed():
    sys.path.insert(0, str(REPO / "book" / "_ext"))
    try:
        import executed as module
    finally:
        sys.path.pop(0)
    return module


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_a_run_card_shows_foreign_text_as_text(executed, text):
    from markdown_it import MarkdownIt

    shown = MarkdownIt().render(f"Run of {executed.plain(text)}, {executed.code(text)}")
    assert not re.search(r"<(?!/?(p|code)>)", shown) and shown.count("<p>") == 1


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "a/..", "x/../../y@../z", "é\u202e\n", "y" * 500, ".", "a\0b"]
)
def test_names_do_not_lead_out_of_a_folder(griffin, tmp_path, name):
    folder = run_folder(tmp_path, replace(griffin, name=name))
    assert folder.parent == tmp_path and len(folder.name) < 120 and folder.name.isprintable()
    project = Project(tmp_path, {"model": name})
    assert project.executed.resolve().parent == tmp_path.resolve() / "book" / "executed"
    with pytest.raises(HybretError, match="plain file name"):
        figures.save(Figure(), f"../{name[:9]}", tmp_path)


@pytest.mark.parametrize("model", ["folder/", "some/folder/", ".", "..", "/"])
def test_a_run_of_another_model_never_lands_among_the_books_own(tmp_path, model):
    assert Project(tmp_path, {"model": model}).executed != Project(tmp_path).executed


def test_writing_replaces_a_link_and_leaves_what_it_points_to(tmp_path):
    (tmp_path / "target").write_bytes(b"kept")
    (tmp_path / "rows").symlink_to(tmp_path / "target")
    files.write_whole(tmp_path / "rows", b"new")
    assert (tmp_path / "target").read_bytes() == b"kept" and not (tmp_path / "rows").is_symlink()


def test_a_data_set_cannot_name_files_outside_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(data.CACHE, str(tmp_path / "cache"))

    def download(repository, file, revision):
        path = tmp_path / "evil.parquet"
        pd.DataFrame({"subject": ["../../../evil"], "question": ["?"]}).to_parquet(path)
        return path

    with pytest.raises(HybretError, match="leads out of"):
        data.fetch_benchmark("mmlu", download)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_tables_of_notebooks_escape_what_they_show():
    for path in sorted((REPO / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code" and ".style.hide" in cell.source:
                assert cell.source.count(".style.hide") == cell.source.count('escape="html"'), f"{path.stem}: {cell.id}"
