"""Every decision of the reproduction, as one named field of a frozen value.

The paper's text and the authors' code disagree in places. `PAPER` does what the code did, quirks included;
`CORRECTED` does what the text says. The recipe travels with every row of results, and the chapter "Departures"
measures what each field changes.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields
from dataclasses import replace as _replace
from typing import Any, Literal, get_args, get_type_hints

from . import asked
from .errors import HybretError


@dataclass(frozen=True)
class Recipe:
    """How an experiment of the paper is carried out.

    Parameters
    ----------
    name : str
        Row label. A derived recipe is named after its difference, e.g. ``"CORRECTED(binary=scalar)"``.
    insertion : {"character", "token-id"}
        How the needle finds the end of a sentence. ``"token-id"`` compares token ids with that of ``"."`` as the
        authors' code does; it misses full stops that a tokenizer merges with other characters.
        ``"character"`` walks back to a ``. ! ?`` in the text itself.
    needle_span : {"exact", "shifted"}
        Which tokens count as the needle. The authors' code looks the needle up without BOS while the model sees
        BOS, so every index is one too low and the final full stop is missed (``"shifted"``).
    out_of_window : {"act", "untouched"}
        What a weight manipulation does during generation when no needle token is left inside the sliding window:
        the authors' code returns the weights untouched in every mode; the text says that `Only`, `Binary` and
        `Null` remove everything else (``"act"``).
    binary : {"per-row", "scalar"}
        The value that `Binary` gives to each needle token. ``"scalar"`` (code): needle mass summed over heads, and
        in prefill over all queries, divided by heads and needle length; rows before the needle get weight on future
        keys and rows may sum to more than 1. ``"per-row"``: for each head and query, the mean of that row's
        weights over the needle tokens it can see.
    entropy_dtype : {"float32", "bfloat16"}
        Precision of the head entropies. The authors compute them in the model's dtype, bf16, where exact ties are
        common; measured on small random models, the kept set differs from fp32 in about 1-8 % of (layer, token) cases.
    entropy_eps : float
        Added to each weight before and inside the logarithm (code: 1e-12). 0 gives the exact limit 0 log 0 = 0.
    tie_break : {"lowest-index", "topk"}
        Which of several heads with equal entropy is kept: the lowest head index (a stable sort), or whatever
        ``torch.topk`` returns. At the first token every head has entropy 0, so this always matters there.
    prompt_split : {"last-token", "family"}
        Where generation begins. ``"last-token"``: the prompt without its last token is prefill, and the last prompt
        token is the first one-token step of generation, for every family. ``"family"``: so for RecurrentGemma
        (the authors' sampler), while Jamba prefills the whole prompt, so that its first answer token comes
        from prefill.
    jamba_manipulation : {"acts", "no-op"}
        In the authors' code the manipulations are set on Jamba and never read (``"no-op"``).
    rubric : str
        Name of the scoring rubric (`hybret.scoring.RUBRICS`): ``"table2"`` is the paper's Table 2 (``"sunny day"``),
        ``"table2-code"`` asks for ``"on a sunny day"``.
    """

    name: str
    insertion: Literal["character", "token-id"] = "character"
    needle_span: Literal["exact", "shifted"] = "exact"
    out_of_window: Literal["act", "untouched"] = "act"
    binary: Literal["per-row", "scalar"] = "per-row"
    entropy_dtype: Literal["float32", "bfloat16"] = "float32"
    entropy_eps: float = 0.0
    tie_break: Literal["lowest-index", "topk"] = "lowest-index"
    prompt_split: Literal["last-token", "family"] = "last-token"
    jamba_manipulation: Literal["acts", "no-op"] = "acts"
    rubric: str = "table2"

    def __post_init__(self) -> None:
        for field, kind in get_type_hints(type(self)).items():
            if choices := get_args(kind):
                asked.one_of(f"{field} of a recipe:", getattr(self, field), choices)
        for field in ("name", "rubric"):
            asked.text(f"{field} of a recipe", getattr(self, field))
        if not 0 <= asked.number("entropy_eps", self.entropy_eps) < 1:
            raise HybretError(f"entropy_eps is {self.entropy_eps}; give 0 or a small number below 1, such as 1e-12")

    def replace(self, **changes: object) -> Recipe:
        """A recipe that differs in the named fields, named after the difference.

        Raises
        ------
        HybretError
            If a field does not exist, or takes no such value.
        """
        known = {f.name for f in fields(self)} - {"name"}
        if unknown := set(changes) - known:
            raise HybretError(
                f"a recipe has no field {sorted(unknown)[0]!r}; its fields are {', '.join(sorted(known))}"
            )
        name = f"{self.name}({', '.join(f'{k}={v}' for k, v in sorted(changes.items()))})"
        return _replace(self, name=name, **changes)  # type: ignore[arg-type]

    @property
    def deciding(self) -> dict[str, Any]:
        """The fields that change what a model answers to given prompts.

        `insertion` shapes the prompts and `rubric` the score; both are recorded elsewhere in the row.
        """
        return {k: v for k, v in asdict(self).items() if k not in {"name", "insertion", "rubric"}}

    @property
    def engine_key(self) -> str:
        """12 hex digits of `deciding`."""
        return hashlib.sha256(repr(sorted(self.deciding.items())).encode()).hexdigest()[:12]


CORRECTED = Recipe("CORRECTED")
PAPER = Recipe(
    "PAPER",
    insertion="token-id",
    needle_span="shifted",
    out_of_window="untouched",
    binary="scalar",
    entropy_dtype="bfloat16",
    entropy_eps=1e-12,
    tie_break="topk",
    prompt_split="family",
    jamba_manipulation="no-op",
    rubric="table2-code",
)
RECIPES = {r.name: r for r in (PAPER, CORRECTED)}


def recipe(name: str | Recipe) -> Recipe:
    """The recipe called `name` (``"PAPER"`` or ``"CORRECTED"``); a `Recipe` is returned as it is.

    Raises
    ------
    HybretError
        If no recipe has that name.
    """
    if isinstance(name, Recipe):
        return name
    return RECIPES[asked.one_of("recipe", name, RECIPES)]
