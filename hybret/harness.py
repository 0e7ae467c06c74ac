"""Section 4: benchmarks through lm-evaluation-harness, with the attention of a hybrid under an intervention.

lm-eval renders the prompts, picks the shots and scores the choices; the model behind it is `Hybrid`, which answers every
request under all conditions at once. Prefill is all there is: choices are compared by their log-likelihoods.

How lm-eval 0.4.13 writes a multiple-choice question of a chat model (read from its code, and tested here): shots are turns
of the chat, the answer delimiter (a blank) is dropped, and the last turn ends with the generation prompt, for a template
such as ``USER:\\n{question}\\n\\nASSISTANT:\\n`` thus with a line break. `TemplateLM._encode_pair` then moves blanks at the
end of the context into the continuation, ``"\\n" + "A"``, and tokenises context and continuation as one text. So the model
reads exactly the tokens that a training document has there, and where the line break is a token of its own its
log-probability is added to every choice alike, which changes no ranking. Base models read ``Answer:`` and `` A``.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from tqdm.auto import tqdm

from . import benchmarks
from .batches import Budget, budget_of, does
from .errors import HybretError
from .interventions import Intervention, KeepHeads
from .likelihood import Answer, check, log_likelihoods
from .models import Model
from .recipe import CORRECTED, Recipe
from .recipe import recipe as find_recipe
from .store import write_whole
from .sweeping import ENGINE_DIGEST

ROWS_AT_ONCE = 5000
"""Documents of the tasks that one call of lm-eval evaluates: what an interruption loses."""
# Read once, with the code, as the sweep's.
HARNESS_DIGEST = hashlib.sha256(
    b"".join(
        (Path(__file__).parent / f"{module}.py").read_bytes() for module in ("harness", "likelihood", "benchmarks")
    )
).hexdigest()[:12]


def conditions(model: Model, k: int) -> dict[str, Intervention]:
    """The paper's three configurations: base, sparse (`k` heads) and ablated, sparsified during prefill."""
    return {"base": KeepHeads(model.heads), "sparse": KeepHeads(k), "ablated": KeepHeads(0)}


def evaluate(
    model: Model,
    tasks: str | Sequence[str],
    conditions: Mapping[str, Intervention],
    recipe: Recipe | str = CORRECTED,
    limit: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    max_length: int | None = None,
    budget: Budget | None = None,
    progress: bool = True,
    compute: bool = True,
) -> pd.DataFrame:
    """Run benchmarks under every condition, document by document.

    Parameters
    ----------
    model : Model
        One with a chat template gets it, with the shots as turns.
    tasks : str or sequence of str
        See `hybret.benchmarks.find`.
    conditions : mapping of str to Intervention
        Row label to intervention; the three of the paper are `conditions`.
    recipe : Recipe or str
    limit : int, optional
        Only the first documents of every task.
    out : folder, optional
        Rows are written here, one Parquet file for each task and condition below ``benchmarks/``, named by content
        (weights, recipe, engine, what is asked): a second call computes only what is missing.
    seed : int
        Of lm-eval's sampler, for tasks that draw their shots. GLUE, MMLU and the organisms' tasks draw none.
    max_length : int, optional
        Longest text in tokens; longer ones lose their beginning. Default: what the configuration says
        (``max_position_embeddings``), else nothing is cut.
    budget : Budget, optional
        Rows and tokens of one pass; default what fits on the device.
    progress : bool
    compute : bool
        False runs no model: tasks of which not every row is stored are left out, and the table may be empty.

    Returns
    -------
    pandas.DataFrame
        One row per document and condition; the columns are described in the book's chapter "Rows".

    Raises
    ------
    HybretError
        Nothing to do, unknown tasks, data that have not been fetched, a condition that cannot act; before any model
        runs. Afterwards: sparsification that did not act, or documents that differ between the conditions.
    """
    recipe = find_recipe(recipe)
    if not conditions:
        raise HybretError('there are no conditions to run; give a mapping such as {"ablated": KeepHeads(0)}')
    if limit is not None and limit < 1:
        raise HybretError(f"limit is {limit}; give at least 1 document per task")
    for condition in conditions.values():
        check(model, condition)
    wanted = benchmarks.find(tasks)
    max_length = max_length or getattr(model.net.config, "max_position_embeddings", None)
    acting = {does(model, recipe, condition): condition for condition in conditions.values()}
    shared = _identity(model, recipe, limit, seed, max_length)
    cells = {(task.name, effect): _path(out, task, {**shared, "task": task.digest, "does": effect})
             for task in wanted for effect in acting}  # fmt: skip
    done = {cell: _read(path) for cell, path in cells.items() if path is not None and path.is_file()}
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    missing = [task for task in wanted if any((task.name, effect) not in done for effect in acting)]
    if not compute:
        wanted, missing = [task for task in wanted if task not in missing], []
        if not wanted:
            return pd.DataFrame()
    with tqdm(desc=f"{model.name}, {recipe.name}", unit="answer", disable=not progress) as bar:
        for manager, loaded in _portions(missing, limit):
            absent = {e: c for e, c in acting.items() if any((name, e) not in done for name in loaded)}
            lm = Hybrid(model, absent, recipe, max_length, budget, bar)
            for effect in absent:
                lm.condition = effect
                results = simple_evaluate(
                    lm,
                    tasks=list(loaded.values()),
                    task_manager=manager,
                    limit=limit,
                    bootstrap_iters=0,
                    apply_chat_template=model.instruct,
                    fewshot_as_multiturn=model.instruct,
                    random_seed=seed,
                    numpy_random_seed=seed,
                    torch_random_seed=seed,
                    fewshot_random_seed=seed,
                )
                assert results is not None  # only other ranks of a distributed run get nothing
                for name in loaded:
                    rows = _rows(results["samples"][name], lm, results["n-shot"][name])
                    done[name, effect] = rows
                    _write(cells[name, effect], rows)
    table = pd.concat(
        [
            done[task.name, does(model, recipe, condition)].assign(
                **_labels(model, recipe, task, label, condition), **{c: shared[c] for c in _VERSIONS}
            )
            for task in wanted
            for label, condition in conditions.items()
        ],
        ignore_index=True,
    ).astype({"k": "Int64"})
    if (table.groupby(["task", "doc_id"])["doc"].nunique() > 1).any():
        raise HybretError("the conditions were asked different questions; remove the rows of this run and run it again")
    return table


class Hybrid(TemplateLM):
    """A hybrid as lm-eval sees it; its answers are those of `condition`, one of the interventions it was made with.

    lm-eval's own ``HFLM`` would do, at a price: it needs two more packages, forms the logits of every position, reads the
    shots again for every document, and runs the layers below the first attention layer again for every condition. Its
    scores are the same (tested in `tests/test_harness.py` against a forward pass of each request by itself).
    """

    def __init__(
        self,
        model: Model,
        conditions: Mapping[str, Intervention],
        recipe: Recipe,
        max_length: int | None = None,
        budget: Budget | None = None,
        bar: Any = None,
    ) -> None:
        super().__init__()
        self.hybrid, self.conditions, self.recipe = model, dict(conditions), recipe
        self.tokenizer, self.max_length, self.budget, self.bar = model.tokenizer, max_length, budget, bar
        self.condition = next(iter(self.conditions))
        self.scores: dict[tuple[str, str], dict[str, Answer]] = {}
        self.tokens: dict[str, int] = {}
        """Tokens of each context, as long as it was before anything was cut."""

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return self.hybrid.name

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        # A chat template writes BOS itself.
        bos = self.tokenizer.bos_token
        if add_special_tokens is None:
            add_special_tokens = not (bos and string.startswith(bos))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        def write(turns: list[dict[str, str]]) -> str:
            return str(self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            ))  # fmt: skip

        try:
            return write(chat_history)
        except jinja2.exceptions.TemplateError:  # a template without a system turn; so does lm-eval's HFLM
            return write([turn for turn in chat_history if turn["role"] != "system"])

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:
        missing: dict[str, list[Any]] = {}
        for request in requests:
            if request.args not in self.scores:
                missing.setdefault(request.task_name, []).append(request)
        for part in missing.values():  # the documents of a task share their shots
            super().loglikelihood(part, disable_tqdm=True)
        return [self.scores[request.args][self.condition] for request in requests]

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[Answer]:
        texts, pairs = [], []
        for strings, context, continuation in requests:
            texts.append(strings)
            self.tokens[strings[0]] = len(context)
            if self.max_length is not None:
                context = context[max(0, len(context) + len(continuation) - self.max_length - 1) :]
            pairs.append((tuple(context), tuple(continuation)))
        budget = self.budget or budget_of(self.hybrid, max(len(a) + len(b) for a, b in pairs))
        while True:
            try:
                found = log_likelihoods(self.hybrid, pairs, list(self.conditions.values()), self.recipe, budget)
                break
            except torch.OutOfMemoryError as problem:
                if budget == budget.half():
                    raise HybretError(
                        f"{self.hybrid.name} does not fit into the memory of {self.hybrid.device} even one text at a "
                        "time; use a larger device or a smaller dtype (finished tasks are kept)"
                    ) from problem
                budget = budget.half()
                torch.cuda.empty_cache()
        for i, strings in enumerate(texts):
            self.scores[strings] = {name: answers[i] for name, answers in zip(self.conditions, found, strict=True)}
        if self.bar is not None:
            self.bar.update(len(texts) * len(self.conditions))
        return [self.scores[strings][self.condition] for strings in texts]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        raise HybretError("a benchmark that asks for the likelihood of whole texts is not one of multiple choice")

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        raise HybretError("a benchmark that asks for generated text is not one of multiple choice")


def _portions(tasks: Sequence[benchmarks.Task], limit: int | None) -> Iterator[tuple[Any, dict[str, Any]]]:
    """lm-eval's tasks, some thousand documents at a time."""
    portion: list[benchmarks.Task] = []
    documents = 0
    for task in tasks:
        n = sum(1 for split, path in task.data.items() if split != "dev" for _ in path.open("rb"))
        n = min(n, limit or n)
        if portion and documents + n > ROWS_AT_ONCE:
            yield benchmarks.load(portion)
            portion, documents = [], 0
        portion.append(task)
        documents += n
    if portion:
        yield benchmarks.load(portion)


def _rows(samples: Iterable[dict[str, Any]], lm: Hybrid, shots: int) -> pd.DataFrame:
    """What lm-eval recorded of one task under one condition."""
    rows = []
    for sample in samples:
        scores = [score for score, _ in sample["filtered_resps"]]
        chosen = max(range(len(scores)), key=scores.__getitem__)  # of several the first, as np.argmax in lm-eval
        asked = "".join(sample[part] for part in ("doc_hash", "prompt_hash", "target_hash"))
        tokens = lm.tokens[sample["arguments"][0][0]]
        rows.append(
            {
                "doc_id": sample["doc_id"],
                "doc": hashlib.sha256(asked.encode()).hexdigest()[:16],
                "tokens": tokens,
                "truncated": lm.max_length is not None and tokens > lm.max_length,
                "shots": shots,
                "choices": len(scores),
                "gold": int(sample["target"]),
                "chosen": chosen,
                "correct": chosen == int(sample["target"]),
                "loglikelihoods": scores,
            }
        )
    return pd.DataFrame(rows)


def _labels(model: Model, recipe: Recipe, task: benchmarks.Task, label: str, condition: Intervention) -> dict[str, Any]:
    return {
        "benchmark": task.benchmark,
        "group": task.group,
        "task": task.name,
        "label": task.label,
        "condition": label,
        "intervention": repr(condition),
        "k": condition.k if isinstance(condition, KeepHeads) else None,
        "model": model.name,
        "weights": model.digest,
        "recipe": recipe.name,
        "chat": model.instruct,
        "device": model.device.type,
        "dtype": model.dtype,
    }


_VERSIONS = ("engine", "harness", "torch", "transformers", "lm_eval")


def _identity(
    model: Model, recipe: Recipe, limit: int | None, seed: int, max_length: int | None
) -> dict[str, str | int | None]:
    return {
        "weights": model.digest,
        "window": model.window,
        "chat": str(model.tokenizer.chat_template) if model.instruct else None,
        "dtype": model.dtype,
        "device": model.device.type,
        "recipe": recipe.engine_key,
        "limit": limit,
        "seed": seed,
        "max_length": max_length,
        "engine": ENGINE_DIGEST,
        "harness": HARNESS_DIGEST,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lm_eval": version("lm_eval"),
    }


def _path(out: str | Path | None, task: benchmarks.Task, identity: dict[str, Any]) -> Path | None:
    """Where the rows of one task under one condition lie, named by everything that decides them."""
    if out is None:
        return None
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Path(out) / "benchmarks" / f"{task.name}-{name}.parquet"


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as problem:
        raise HybretError(f"{path} is damaged; remove it, and its rows are computed again") from problem


def _write(path: Path | None, rows: pd.DataFrame) -> None:
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, rows.to_parquet(index=False))
    except OSError as problem:
        raise HybretError(f"cannot write rows in {path.parent} ({problem.strerror}); choose another `out`") from problem
