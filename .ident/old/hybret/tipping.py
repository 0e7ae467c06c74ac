"""Where accuracy turns as heads are removed: the paper's tipping points (Section 3), and its sparse k (Section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from . import asked, paper, tables
from .errors import HybretError

BY = ("model", "recipe", "template", "during")
RETRIEVES = 0.25  # accuracy above the floor, with all heads, from which on a model has retrieval that it can lose
NOTHING = 0.03  # accuracy above the floor that counts as none left: the interval of 0 in 100 prompts reaches 0.037
HOLDS = 0.9  # share of the full model's accuracy above the floor that counts as kept


def tipping_points(rows: pd.DataFrame, by: Sequence[str] = BY) -> pd.DataFrame:
    """The k at which retrieval begins to suffer, and the k at which it is gone, per curve of accuracy over k.

    Parameters
    ----------
    rows : rows of `KeepHeads` conditions from a few heads up to all of them, with their control; other rows are left
        out. A curve's largest k is taken for the model's number of heads.
    by : columns that make the curves.

    Returns
    -------
    DataFrame
        `by`, then

        - heads, full, low, high, floor: the largest k, accuracy there with its interval, and what the control earns;
        - retrieves: whether full is more than 0.25 above the floor. A curve that is not has no tipping point;
        - least, least_share: fewest heads from which on accuracy above the floor stays at 0.9 of that with all heads or
          more, and the share of the heads that these are (where the paper speaks of a threshold, or of 15 % of heads);
        - collapse, collapse_share: most heads at which accuracy is at most 0.03 above the floor, with everything below
          so too (the paper's "tipping point"); NA if something is left even with the fewest heads;
        - n, prompts: rows and distinct prompts behind each accuracy.

    Raises
    ------
    HybretError
        If no row keeps heads, or a curve has no control at one of its k.
    """
    by = list(by)
    lines = []
    curves = _curves(rows, by)
    for key, curve in curves.groupby(by, dropna=False, sort=False) if by else [((), curves)]:
        curve = curve.sort_values("k")
        full, heads = curve.iloc[-1], int(curve["k"].max())
        retrieves = bool(full["above"] > RETRIEVES)
        kept = curve.loc[(curve["above"] >= HOLDS * full["above"])[::-1].cummin()[::-1], "k"]
        gone = curve.loc[(curve["above"] <= NOTHING).cummin(), "k"]
        least = int(kept.min()) if retrieves else pd.NA
        collapse = int(gone.max()) if retrieves and len(gone) else pd.NA
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "heads": heads,
                "full": full["accuracy"],
                **{name: full[name] for name in ("low", "high", "floor")},
                "retrieves": retrieves,
                "least": least,
                "least_share": least / heads,
                "collapse": collapse,
                "collapse_share": collapse / heads,
                **{name: int(full[name]) for name in ("n", "prompts")},
            }
        )
    types = {"least": "Int64", "collapse": "Int64", "least_share": "Float64", "collapse_share": "Float64"}
    return pd.DataFrame(lines).astype(types)


def sparse_k(rows: pd.DataFrame, share: float = 0.95) -> int | None:
    """The sparse configuration of Section 4: the smallest k of the prefill version with near-perfect retrieval.

    The paper takes k = 5 of Jamba's 32 heads in this way. What near-perfect means it does not say; here: accuracy above
    the floor of at least `share` of what the same model reaches with all its heads, so that a model that misses some
    needles untouched (those beyond its window, say) can be sparsified too.

    Parameters
    ----------
    rows : as in `tipping_points`, of one model, recipe and template; only the prefill version (``during="both"``)
        enters.
    share : fraction of the accuracy with all heads, both above the floor.

    Returns
    -------
    int or None
        None if the model hardly retrieves with all its heads, so that there is nothing to keep.

    Raises
    ------
    HybretError
        If rows of several curves would be mixed, or there is no prefill version or no control.
    """
    if not 0 < share <= 1:
        raise HybretError(f"share is {share!r}; it is a fraction of the full model's accuracy, above 0 and at most 1")
    if "during" in asked.table(rows, []):
        rows = rows[rows["during"] == "both"]
    curve = _curves(rows, []).sort_values("k")
    full = curve.iloc[-1]
    if full["above"] <= RETRIEVES:
        return None
    return int(curve.loc[curve["above"] >= share * full["above"], "k"].min())


def sparse_configuration(rows: pd.DataFrame, heads: int) -> tuple[int, str]:
    """Heads of the sparse configuration, and why: `sparse_k`, or the paper's share of `heads` where there is none."""
    if (k := sparse_k(rows)) is not None:
        return k, "the smallest k of its prefill version with near-perfect retrieval"
    why = "the paper's share of the heads, because this model hardly retrieves with all of them"
    return paper.few_heads(heads), why


def heads_kept(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose condition keeps heads by entropy: by another measure it is another rule than the paper's."""
    rows = rows[rows["k"].notna()]
    return rows[~rows["intervention"].astype(str).str.contains("'l2'", regex=False)] if "intervention" in rows else rows


def _curves(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Accuracy above the floor, by `by` and k."""
    asked.table(rows, [], ("k",))
    if "k" not in rows or (kept := heads_kept(rows)).empty:
        raise HybretError("no rows that keep heads; run KeepHeads conditions, for sparse_k with during='both'")
    table = tables.above_floor(kept, [*by, "k"])
    if (bare := table[table["above"].isna()]).empty:
        return table
    where = ", ".join(f"{column} {bare.iloc[0][column]}" for column in (*by, "k"))
    raise HybretError(
        f"these rows have no control for {where}, so how much of its accuracy is luck is not known; run the same "
        "conditions on grid(..., control=True) as well, or leave those rows out"
    )
