"""Where accuracy turns as heads are removed: the paper's tipping points (Section 3), and its sparse k (Section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from . import tables
from .errors import HybretError

BY = ("model", "recipe", "template", "during")
RETRIEVES = 0.25  # accuracy above the floor, with all heads, from which on a model has retrieval that it can lose
NOTHING = 0.03  # accuracy above the floor that counts as none left: the interval of 0 in 100 prompts reaches 0.037
HOLDS = 0.9  # share of the full model's accuracy that counts as kept


def tipping_points(rows: pd.DataFrame, by: Sequence[str] = BY) -> pd.DataFrame:
    """The k at which retrieval begins to suffer, and the k at which it is gone, per curve of accuracy over k.

    Parameters
    ----------
    rows : rows of `KeepHeads` conditions from a few heads up to all of them, with their control; other rows are left
        out. A curve's largest k is taken for the model's number of heads.
    by : columns that make the curves. Curves that differ in none of them are pooled.

    Returns
    -------
    DataFrame
        `by`, then

        - heads, full, low, high, floor: the largest k, accuracy there with its interval, and what the control earns;
        - retrieves: whether full is more than 0.25 above the floor. A curve that is not has no tipping point;
        - least, least_share: fewest heads from which on accuracy stays at 0.9 of full or more, and the share of the
          heads that these are (where the paper speaks of a threshold, or of 15 % of heads);
        - collapse, collapse_share: most heads at which accuracy is at most 0.03 above the floor, with everything below
          so too (the paper's "tipping point"); NA if something is left even with the fewest heads;
        - n, prompts: rows and distinct prompts behind each accuracy.

    Raises
    ------
    HybretError
        If no row keeps heads, or there is no control.
    """
    by = list(by)
    curves = _curves(rows, by)
    lines = []
    for key, curve in curves.groupby(by, dropna=False, sort=False) if by else [((), curves)]:
        curve = curve.sort_values("k").reset_index(drop=True)
        full = curve.iloc[-1]
        heads = int(full["k"])
        retrieves = bool(full["above"] > RETRIEVES)
        kept = _from_above(curve, curve["accuracy"] >= HOLDS * full["accuracy"])
        gone = curve.loc[(curve["above"] <= NOTHING).cummin(), "k"]
        least = int(kept.min()) if retrieves else pd.NA
        collapse = int(gone.max()) if retrieves and len(gone) else pd.NA
        lines.append(
            {
                **dict(zip(by, key, strict=True)),
                "heads": heads,
                **{name: full[name] for name in ("accuracy", "low", "high", "floor")},
                "retrieves": retrieves,
                "least": least,
                "least_share": least / heads,
                "collapse": collapse,
                "collapse_share": collapse / heads,
                "n": int(full["n"]),
                "prompts": int(full["prompts"]),
            }
        )
    table = pd.DataFrame(lines).rename(columns={"accuracy": "full"})
    return table.astype({"least": "Int64", "collapse": "Int64", "least_share": "Float64", "collapse_share": "Float64"})


def sparse_k(rows: pd.DataFrame, share: float = 0.95) -> int | None:
    """The sparse configuration of Section 4: the smallest k of the prefill version with near-perfect retrieval.

    The paper takes k = 5 of Jamba's 32 heads in this way. What near-perfect means it does not say; here: accuracy of
    at least `share` of what the same model reaches with all its heads, so that a model that misses some needles
    untouched (those beyond its window, say) can be sparsified too.

    Parameters
    ----------
    rows : as in `tipping_points`, of one model, recipe and template; only the prefill version (``during="both"``)
        enters.
    share : fraction of the accuracy with all heads.

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
    if "during" in rows:
        rows = rows[rows["during"] == "both"]
    for column in {"model", "recipe", "template"} & set(rows.columns):
        if rows[column].nunique() > 1:
            raise HybretError(
                f"these rows mix several values of {column!r}; a sparse k belongs to one, so select it first"
            )
    curve = _curves(rows, []).sort_values("k")
    full = curve.iloc[-1]
    if full["above"] <= RETRIEVES:
        return None
    return int(curve.loc[curve["accuracy"] >= share * full["accuracy"], "k"].min())


def _curves(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    if "k" not in rows or rows["k"].notna().sum() == 0:
        raise HybretError("no rows that keep heads; run KeepHeads conditions, for sparse_k with during='both'")
    return tables.above_floor(rows[rows["k"].notna()], [*by, "k"])


def _from_above(curve: pd.DataFrame, holds: pd.Series) -> pd.Series:
    """The k from which on `holds` is true up to the largest k; `curve` is sorted by k."""
    return curve.loc[holds[::-1].cummin()[::-1], "k"]
