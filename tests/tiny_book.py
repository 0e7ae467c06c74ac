"""A book of two notebooks, for the tests of the runner and the pages."""

import shutil
from pathlib import Path

import nbformat

REPO = Path(__file__).resolve().parents[1]
PARAMETERS = """model: str = "tiny"  # model name
recipe: str = "CORRECTED"  # how the experiment is done
count: int = 3  # prompts
flag: bool = False  # draw the floor
lengths: list[int] = [8, 16]  # prompt lengths (tokens)
limit: int | None = None  # stop early
results: str = "../book/results"  # folder of the figure files
"""
DRAW = """import hybret as hb
from matplotlib.figure import Figure
fig = Figure()
ax = fig.subplots()
ax.plot(range(count))
hb.figures.save(fig, "home", results)"""
FIGURE = {"tags": ["hide-input"], "mystnb": {"figure": {"name": "fig-line", "caption": "A line of `tiny`."}}}
COUNT = "with open('../ran.txt', 'a') as log:\n    print('{0}', file=log)"

TOC = """format: jb-book
root: book/index
chapters:
  - file: notebooks/draw
  - file: notebooks/read
  - file: book/runs
"""
INDEX = r"""# Tiny

See {numref}`fig-home` and {numref}`fig-line`: $a_i$.

```{run-figure} home
:name: fig-home
:alt: a line

The line.
```

"""


def notebook(path, title, *cells, parameters=PARAMETERS):
    nb = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    nb.metadata["language_info"] = {"name": "python"}
    code = [(parameters, {"tags": ["parameters"]}), (COUNT.format(path.stem), {}), *cells]
    nb.cells = [
        nbformat.v4.new_markdown_cell(f"# {title}\n\nEntropy is $H = -\\sum_i a_i \\log_2 a_i$ bits.", id="title")
    ]
    nb.cells += [nbformat.v4.new_code_cell(s, metadata=m, id=f"c{i}") for i, (s, m) in enumerate(code)]
    nbformat.write(nb, path)


def one_page(root, text):
    """Write a book of one page, without notebooks."""
    shutil.copytree(REPO / "book" / "_assets", root / "book" / "_assets")
    (root / "notebooks").mkdir()
    (root / "notebooks" / "runs.yml").write_text("{}\n")
    shutil.copy(REPO / "_config.yml", root)
    shutil.copy(REPO / "book" / "references.bib", root / "book")
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    (root / "book" / "index.md").write_text(text)
    return root


def tiny(root):
    """Write a project with two notebooks, the second reading the first's results."""
    one_page(root, INDEX)
    notebook(root / "notebooks" / "draw.ipynb", "Drawing", (DRAW, FIGURE))
    notebook(root / "notebooks" / "read.ipynb", "Reading", ("assert count < 9, 'too many'\n'x' * 4000", {}))
    (root / "notebooks" / "runs.yml").write_text("draw: {parameters: {count: 4}}\nread: {needs: [draw]}\n")
    (root / "_toc.yml").write_text(TOC)
    (root / "book" / "runs.md").write_text("# Runs\n\n```{runs}\n```\n")
    return root
