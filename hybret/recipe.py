"""Every decision of the reproduction, as one named field of a frozen value.

The paper's text and the authors' code disagree in places. `PAPER` does what the code did, quirks included;
`CORRECTED` does what the text says. The recipe travels with every row of results, and the chapter "Departures"
measures what each field changes.
"""

from __future__ import annotations

from dataclasses import asdict
from dataclasses import replace as _replace
from typing import Any, Literal

from hybret.errors import HybretError, checked, one_of
from hybret.files import digest


@checked
class Recipe:
    """How an experiment of the paper is carried out. The first value of a field is the text's, the second the code's.

    Parameters
    ----------
    name : row label; a derived recipe is named after its difference, as ``"CORRECTED(binary=scalar)"``.
    insertion : how the needle goes into the haystack: after the end of a sentence, by ``. ! ?`` in the text; or by the
        token id of ``"."``, which misses full stops that a tokenizer merges with other characters, and with a blank
        before its sentence in the ``"base"`` template, as the authors' files have it.
    needle_span : which tokens count as the needle. The code looks it up without BOS while the model sees BOS, so
        every index is one too low and the final full stop is missed.
    needle_copies : which copies of the needle in a prompt that holds it twice (Just Read Twice) are manipulated: all,
        or the first, with which the code's search ends.
    out_of_window : what a weight manipulation does during generation when the needle has left the sliding window:
        `Only`, `Binary` and `Null` remove everything else, or all weights stay as they are.
    binary : what `Binary` gives to each needle token: for each head and query the mean of that row's weights over the
        needle tokens it can see; or the needle's total weight summed over heads, and in prefill over all queries,
        divided by heads and by the needle tokens that any of these queries can see, also on future keys, so that rows
        may sum to more than 1.
    entropy_dtype : precision of head entropies. In the authors' bfloat16 exact ties are common; on small random
        models the kept heads differ from float32 in about 1-8 % of (layer, token) cases.
    entropy_eps : from 0 to below 1, added to each weight before and inside the logarithm (code: 1e-12); 0 gives the
        exact limit 0 log 0 = 0.
    tie_break : which of several heads with equal entropy is kept: the first (a stable sort), or that of
        ``torch.topk``. At the first token every head has entropy 0, so this always matters there.
    prompt_split : where generation begins: with the last prompt token for every family; or so for RecurrentGemma
        alone (the authors' sampler), while Jamba's first answer token comes from prefill.
    jamba_manipulation : whether manipulations act on Jamba; the code sets them there and never reads them.
    rubric : name of the scoring rubric (`hybret.scoring.RUBRICS`).
    """

    name: str
    insertion: Literal["character", "token-id"] = "character"
    needle_span: Literal["exact", "shifted"] = "exact"
    needle_copies: Literal["all", "first"] = "all"
    out_of_window: Literal["act", "untouched"] = "act"
    binary: Literal["per-row", "scalar"] = "per-row"
    entropy_dtype: Literal["float32", "bfloat16"] = "float32"
    entropy_eps: float = 0.0
    tie_break: Literal["lowest-index", "topk"] = "lowest-index"
    prompt_split: Literal["last-token", "family"] = "last-token"
    jamba_manipulation: Literal["acts", "no-op"] = "acts"
    rubric: str = "table2"

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_eps < 1:
            raise HybretError(f"entropy_eps is {self.entropy_eps}; give 0 or a small number below 1, such as 1e-12")

    def replace(self, **changes: object) -> Recipe:
        """A recipe that differs in the named fields, named after the difference."""
        known = sorted({*asdict(self)} - {"name"})
        for field in sorted(changes):
            one_of("field of a recipe", field, known)
        name = f"{self.name}({', '.join(f'{k}={v}' for k, v in sorted(changes.items()))})"
        return _replace(self, name=name, **changes)  # type: ignore[arg-type]

    @property
    def deciding(self) -> dict[str, Any]:
        """The fields that change what a model answers to given prompts: not the prompts' `insertion`, nor `rubric`."""
        return {k: v for k, v in asdict(self).items() if k not in {"name", "insertion", "rubric"}}

    @property
    def engine_key(self) -> str:
        """12 hex digits of `deciding`."""
        return digest(repr(sorted(self.deciding.items())))


CORRECTED = Recipe("CORRECTED")
PAPER = Recipe(
    "PAPER",
    insertion="token-id",
    needle_span="shifted",
    needle_copies="first",
    out_of_window="untouched",
    binary="scalar",
    entropy_dtype="bfloat16",
    entropy_eps=1e-12,
    tie_break="topk",
    prompt_split="family",
    jamba_manipulation="no-op",
    rubric="2025-06-23",
)
RECIPES = {r.name: r for r in (PAPER, CORRECTED)}


def recipe(name: str | Recipe) -> Recipe:
    """The recipe called ``"PAPER"`` or ``"CORRECTED"``; a `Recipe` is returned as it is."""
    return name if isinstance(name, Recipe) else RECIPES[one_of("recipe", name, RECIPES)]
