"""Foreign text (answers, names, paths) stays text; foreign files are data; nothing leaves its folder."""

import ast
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import escape
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from support import HOSTILE, printable

from book._ext import cards
from book.paper import forest, verdicts
from book.runner.runs import Project
from hybret import HybretError, data, figures, files, run_folder
from hybret.sweeping import progress_bar

REPO = Path(__file__).resolve().parents[1]
CODE = sorted([*(REPO / "hybret").rglob("*.py"), *(REPO / "book" / "_ext").glob("*.py")])
FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile"}
UNPACK = {"extract", "extractall", "unpack_archive"}  # archives are written, never unpacked
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "yaml.load",
         "yaml.unsafe_load", "np.load", "numpy.load", "pd.read_pickle"}  # fmt: skip


def faults_of(node):
    """What code must not do: unpickle, run strings, trust remote code."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
        yield from {name.split(".")[0] for name in names} & FORBIDDEN
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        yield from {called} & CALLS | {
            called.removesuffix(".str.extract").rpartition(".")[2]
        } & UNPACK  # pandas' takes texts apart
        for word in node.keywords:
            trusting = word.arg in ("shell", "trust_remote_code", "weights_only") and ast.unparse(word.value) != "False"
            if trusting or word.arg == "allow_pickle":
                yield f"{called}({word.arg})"


def test_no_code_unpickles_runs_strings_or_trusts_remote_code():
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not [*faults_of(node)], f"{path.relative_to(REPO)}, line {node.lineno}"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))
def test_foreign_text_is_shown_as_plain_text(griffin, text):
    plain = printable(text)
    assert plain.isprintable() and str(HybretError(text)).isprintable()
    named = replace(griffin, name=text)
    assert plain in repr(named) and repr(named).isprintable()
    shown = named._repr_html_()
    assert f"<b>{escape(plain)}</b>" in shown and shown.isprintable()
    said = io.StringIO()
    with progress_bar(True, text, total=2, file=said) as bar:
        bar.update()
    assert plain in said.getvalue() and not set(said.getvalue()) & set("\x1b\x07\0\x08\u202e\u2066")
    card = MarkdownIt().render(f"Run of {cards.plain(text)}, {cards.code(text)}")
    assert not re.search(r"<(?!/?(p|code)>)", card) and card.count("<p>") == 1


def test_figures_and_verdicts_show_foreign_text_as_text(tmp_path):
    texts = [text for name, text in HOSTILE.items() if name != "surrogate"]  # a table holds no half of a pair
    table = pd.DataFrame({"variant": texts, "accuracy": 0.5, "low": 0.4, "high": 0.6})
    picture = figures.save(forest.variants(table, f"model {texts}", " ".join(texts)), "x", tmp_path)
    root = ET.fromstring(picture.svg.read_text())  # well-formed: no control code, no tag of the text's own
    tags = {element.tag.split("}")[-1] for element in root.iter()}
    assert not tags & {"script", "img", "a", "foreignObject"}
    shown = " ".join("".join(e.itertext()) for e in root.iter() if e.tag.endswith("}text"))
    assert all(printable(text)[:6] in shown for text in texts) and shown.replace("\n", " ").isprintable()
    models = [SimpleNamespace(name=text, heads=10, parameters=1, family="") for text in texts]
    table = verdicts.of(models=models, recipes=["PAPER"])
    page = verdicts.html(table.assign(why=table["model"], ours=table["model"]))
    assert "<script" not in page and "<img" not in page and "\x1b" not in page and "\u202e" not in page
    assert page.count("<tr>") == len(table) and page.count("hb-claim") == table["claim"].nunique()


NAMES = (
    "../../x", "/etc/passwd", "a/..", "x/../../y@../z", "\u00e9\u202e\n", "y" * 500, "a\0b", "some/folder/", ".", "..", "/",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_lead_out_of_a_folder(griffin, tmp_path, name):
    folder = run_folder(tmp_path, replace(griffin, name=name))
    assert folder.parent == tmp_path and len(folder.name) < 120 and folder.name.isprintable()
    project = Project(tmp_path, {"model": name})
    assert project.executed.resolve().parent == Project(tmp_path).executed.resolve()  # never among the book's own
    assert len(project.executed.name.encode()) < 255 and project.executed.name.isprintable()
    with pytest.raises(HybretError, match="plain file name"):
        figures.save(Figure(), f"../{name[:9]}", tmp_path)


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
