"""What a clone must look like before anything is installed or run."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import lazy_loader
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement

import hybret as hb
from book.runner.runs import Project, parameters, tags

REPO = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text):
    """Return ``name==version`` lines; any other line that is neither a comment nor empty is an error."""
    found = {}
    for line in filter(None, (row.split("#")[0].strip() for row in text.splitlines())):
        name, exact, version = line.partition("==")
        assert exact and re.fullmatch(r"[\w.!]+", version), f"not a plain pin: {line}"
        found[canonical(name)] = version
    return found


LOCK = pins((REPO / "requirements.lock").read_text())


def tracked():
    """Return the files of the repository, or all that git would not ignore before the first commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    return [path for name in names.split("\0") if name and (path := REPO / name).is_file()]


def test_the_lock_satisfies_every_requirement_of_the_project():
    wanted = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
    for requirement in map(Requirement, wanted):
        version = LOCK.get(canonical(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock: make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but {version} is locked"


def test_the_sbom_lists_what_the_lock_pins():
    bill = json.loads((REPO / "requirements.sbom.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert {canonical(part["name"]): part["version"] for part in bill["components"]} == LOCK, "make lock"


def test_other_files_state_the_same_versions():
    assert LOCK["torch"] == "2.13.0"  # no local part such as +cpu: each machine takes its own build
    spec = yaml.safe_load((REPO / "environment.yml").read_text())
    pip = next(d["pip"] for d in spec["dependencies"] if isinstance(d, dict))
    assert "-r requirements.lock" in pip
    assert pins("\n".join(d for d in pip if not d.startswith("-"))).items() <= LOCK.items()
    python = next(d.removeprefix("python=") for d in spec["dependencies"] if str(d).startswith("python="))
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert tuple(map(int, python.split("."))) >= tuple(map(int, minimum.split(".")))
    version = PROJECT["version"]
    assert yaml.safe_load((REPO / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (REPO / "CHANGELOG.md").read_text()


def test_an_installed_clone_is_imported_also_in_the_folder_that_holds_it(tmp_path):
    """That folder holds another one of the package's name, without the package's files: the clone."""
    clone, wheels = tmp_path / "hybret", tmp_path / "wheels"
    (clone / "hybret").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "hybret/__init__.py", "hybret/__init__.pyi"):
        shutil.copy(REPO / name, clone / name)
    build = f"from setuptools import build_meta; build_meta.build_editable({str(wheels)!r})"
    wheels.mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, check=True)
    zipfile.ZipFile(next(wheels.glob("*.whl"))).extractall(wheels)
    others = str(Path(lazy_loader.__file__).parents[1])
    code = f"import site, sys; site.addsitedir({str(wheels)!r}); sys.path.append({others!r})"
    code += "; import hybret; print(hybret.__file__)"
    words = [sys.executable, "-S", "-c", code]  # -S: without what is installed here
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = subprocess.run(words, cwd=tmp_path, env=kept, capture_output=True, text=True, check=True).stdout
    assert Path(said.strip()) == clone / "hybret" / "__init__.py"


def test_every_notebook_is_run_and_is_in_the_book():
    names = {p.stem for p in NOTEBOOKS}
    toc = yaml.safe_load((REPO / "_toc.yml").read_text())
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    files = [toc["root"], *(c["file"] for chapter in chapters for c in (chapter, *chapter.get("sections", ())))]
    run = {run.notebook for run in Project(REPO).plan.values()}
    assert names == run == {Path(f).name for f in files if f.startswith("notebooks/")}
    assert names <= set(Project(REPO).plan), "a chapter has runs of its parts only"
    missing = [f for f in files if not any((REPO / f"{f}{suffix}").is_file() for suffix in (".md", ".ipynb"))]
    assert not missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_lasting_names_explained_parameters_and_figures_with_a_text_alternative(path):
    nb = nbformat.read(path, as_version=4)  # reading an older format would invent ids
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in nb.cells)
    assert not {"papermill", "hybret", "widgets"} & set(nb.metadata) and nb.cells[0].source.startswith("# ")
    stored = [c.get("id") for c in nbformat.reads(path.read_text(), nbformat.NO_CONVERT).cells]
    assert stored == [c.id for c in nb.cells] and len(set(stored)) == len(stored)
    known = parameters(path)
    assert {"model", "recipe", "out"} <= set(known)
    for name, p in known.items():
        assert p["type"] and len(p["help"]) > 3, name
        ast.literal_eval(p["default"])
    (cell,) = [c for c in nb.cells if "parameters" in tags(c)]
    assert len(ast.parse(cell.source).body) == len(known), "the parameters cell holds something else"
    names = []
    for cell in nb.cells:
        mystnb = cell.metadata.get("mystnb", {})
        if figure := mystnb.get("figure"):
            assert figure.get("name") and figure.get("caption"), f"cell {cell.id}"
            alt = mystnb.get("image", {}).get("alt") or figure["name"].startswith("tab-")
            assert alt, f"cell {cell.id} has no alt text"
            assert "{cite" not in figure["caption"], "a citation in a caption breaks its number"
            names.append(figure["name"])
    assert len(set(names)) == len(names)


def test_no_file_names_a_place_of_one_machine():
    place = re.compile(
        r"/(?:home|Users|root|tmp|work|opt|mnt)/\w|[A-Z]:\\\\|https?://(?:localhost|127\.|10\.|192\.168\.)"
    )
    for path in tracked():
        if path.suffix in {".safetensors", ".png", ".parquet"} or path == Path(__file__):
            continue
        hit = place.search(path.read_text(encoding="utf-8").replace("http://127.0.0.1", ""))  # a test's own server
        assert hit is None, f"{path.relative_to(REPO)}: {hit and hit[0]}"


def test_modules_stay_small():
    assert not [p for p in (REPO / "hybret").rglob("*.py") if len(p.read_text().splitlines()) > 340]


def test_links_between_the_documents_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md"):
        for word in re.findall(r"`([\w./-]+/[\w./-]*|\w+\.(?:md|yml|cff|lock|toml))`", (REPO / page).read_text()):
            assert (REPO / word).exists(), f"{page} names {word}"


EVERYTHING = {"test_fuzz", "test_golden", "test_outside", "test_security"}  # these cross all modules


def foreign_imports(path):
    """What a test imports besides public names, `book`, and modules of its own name or below its folder's."""
    own, found = {path.parent.name, path.stem.removeprefix("test_")}, []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or node.names[0].name
            names = [module] if module != "hybret" else [f"hybret.{a.name}" for a in node.names if a.name != "hybret"]
            public = {*(f"hybret.{name}" for name in hb.__all__), "hybret"}
            found += [n for n in names if n.split(".")[0] == "hybret" and n not in public and not own & {*n.split(".")}]
            found += [n for n in names if n.startswith("test_")]
    return found


def test_a_test_imports_what_users_import_or_the_module_that_it_is_named_after():
    paths = [p for p in (REPO / "tests").rglob("test_*.py") if p.stem not in EVERYTHING]
    assert {p.name: names for p in paths if (names := foreign_imports(p))} == {}
