"""The paper's figures as functions of result rows (Figures 2-7 and 10, Table 1) or of a recording (Figure 1).

Each returns a `matplotlib.figure.Figure` that names its model, recipe and n in small print; `save` writes it.
"""

from hybret.figures.curves import accuracy_by_k, jrt_by_k
from hybret.figures.grids import by_distance, table1
from hybret.figures.maps import retrieval_maps
from hybret.figures.style import glue, note, save, words
from hybret.figures.trace import head_selection, weights

__all__ = [
    "accuracy_by_k", "by_distance", "glue", "head_selection", "jrt_by_k", "note", "retrieval_maps", "save", "table1",
    "weights", "words",
]  # fmt: skip
