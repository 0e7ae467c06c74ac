"""Whether what hybret rests on holds for a model: measured on the model itself, one number per check.

An error is the largest difference of two logits that should be equal, divided by the standard deviation of the model's
logits; or a count. Checks whose name begins with "transformers" measure transformers' own code, without hybret's fixes:
what is wrong there is a known defect. Prompts are random tokens, longer than the model's window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import pandas as pd
import torch
import transformers
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.engine.attach import implementation
from hybret.engine.context import ForwardContext, forward_context
from hybret.engine.decode import decode, prefill, prefill_chunk, prompt_tokens
from hybret.engine.scan import parallel_scans
from hybret.engine.state import State, empty_state, merge, restore_recurrent
from hybret.errors import integer, printable
from hybret.interventions import Actions, Elementary, KeepHeads
from hybret.models import Model, load
from hybret.recipe import CORRECTED, PAPER, Recipe
from hybret.resolving import resolve
from hybret.sweeping import progress_bar

MOST_TOKENS = 100_000
STEPS = 6
"""Tokens of an answer."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Of an error. In fp32 every defect that was met is far above it; half precision tells gross ones only."""
PASS, FAIL, DEFECT = "pass", "fail", "known defect of transformers"
SILENT = "hybret-silent"


@dataclass
class Record:
    """A `hybret.engine.context.Recorder` that reduces weights at once.

    `kept` tells by layer and pass at which queries any head's output went on; `wrong` counts keys that a query saw and
    should not have, or the reverse, of the last query and the middle one of every pass.
    """

    window: int | None
    keep_weights: bool = True
    bins: Tensor | None = None
    kept: dict[str, list[Tensor]] = field(default_factory=dict)
    wrong: int = 0

    def add(self, layer: str, **records: Tensor) -> None:
        weights = records["weights"][0]  # (heads, queries, keys)
        queries, keys = weights.shape[1:]
        before = sum(map(len, self.kept.setdefault(layer, [])))
        for query in {queries // 2, queries - 1}:
            last = keys - queries + query  # the column of the query itself
            should = torch.zeros(keys, dtype=torch.bool, device=weights.device)
            should[0 if self.window is None else max(0, last - self.window + 1) : last + 1] = True
            hidden = min(before + query + 1, self.window or before + queries) - int(should.sum())  # not in the cache
            self.wrong += int(((weights[:, query] > 0).any(0) != should).sum()) + abs(hidden)
        self.kept[layer].append(records["kept"][0].any(0).cpu())


class Probe:
    """A model under test, its prompt, and runs that give logits; `tokens` default to the window and 16 more, or 48."""

    def __init__(self, model: Model, tokens: int | None = None) -> None:
        self.model = replace(model, eos=frozenset())  # nothing ends an answer
        self.net = model.net
        self.generator = torch.Generator().manual_seed(0)
        self.ids = self.prompt(tokens or (48 if model.window is None else model.window + 16))
        self.scale = 1.0
        self.scale = float(self.plain.std())

    def prompt(self, length: int) -> tuple[int, ...]:
        vocabulary, first = self.net.config.vocab_size, self.net.config.bos_token_id
        ids = torch.randint(3, vocabulary, (length,), generator=self.generator).tolist()
        return (ids[0] if first is None else first, *ids[1:])

    def error(self, a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).abs().max()) / self.scale

    @cached_property
    def plain(self) -> Tensor:
        """Logits ``(tokens, vocabulary)`` of the prompt in one pass of transformers' own code."""
        return self.plainly(self.ids)

    def plainly(self, *rows: Sequence[int], cache: Any = None, **inputs: Tensor | None) -> Tensor:
        """The same of other prompts; positions count from 0 unless `inputs` has them. One prompt gives no rows."""
        ids = torch.tensor([list(row) for row in rows], device=self.model.device)
        inputs = inputs or {"position_ids": torch.arange(ids.shape[1], device=ids.device)[None]}
        cache = self.fresh(len(rows)) if cache is None else cache
        with torch.inference_mode():
            logits: Tensor = self.net(input_ids=ids, past_key_values=cache, use_cache=True, **inputs).logits
        return logits[0] if len(rows) == 1 else logits

    def fresh(self, rows: int = 1) -> Any:
        """A cache of transformers before the first token."""
        state = empty_state(self.model, 1)
        restore_recurrent(self.net, [x.expand(rows, *x.shape[1:]) for x in state.recurrent])
        return state.cache

    def in_parts(self, *cuts: int, positions: bool = True) -> float:
        """The error of transformers' own code that reads the prompt in parts, each ending at a cut."""
        cache, parts = self.fresh(), []
        for a, b in pairwise((0, *cuts)):
            at = torch.arange(a, b, device=self.model.device)[None] if positions else None
            parts.append(self.plainly(self.ids[a:b], cache=cache, position_ids=at))
        return self.error(torch.cat(parts), self.plain)

    def under(self, *actions: Elementary, ids: Sequence[int] | None = None) -> Tensor:
        """Logits ``(2, tokens, vocabulary)`` with `actions` in every layer: forming the weights, and streaming."""
        ids = self.ids if ids is None else ids
        last, passes = torch.tensor([len(ids) - 1], device=self.model.device), []
        for streaming in (False, True):
            context = ForwardContext("prefill", [actions], [()], last, CORRECTED, None, streaming)
            with parallel_scans(), implementation(self.net), forward_context(context):
                passes.append(self.plainly(ids))
        return torch.stack(passes)

    @contextmanager
    def logits(self) -> Iterator[list[Tensor]]:
        """As hybret runs a model; the logits ``(rows, vocabulary)`` after the last token of every pass in the block."""
        passes: list[Tensor] = []
        hook = self.net.register_forward_hook(lambda _, __, out: passes.append(out.logits[:, -1]))
        try:
            with parallel_scans(), implementation(self.net):
                yield passes
        finally:
            hook.remove()

    def prefill(self, rows: Sequence[Actions] = ((),), ids: Sequence[int] | None = None) -> State:
        with self.logits():
            return prefill(self.model, self.ids if ids is None else ids, rows, (), CORRECTED, streaming=True)

    def chunks(self, ids: Sequence[int], *cuts: int, state: State | None = None) -> tuple[State, Tensor]:
        """A state after a prompt read in chunks, each ending at a cut, and the logits there."""
        state = empty_state(self.model, 1) if state is None else state
        with self.logits() as passes:
            for until in cuts:
                state = prefill_chunk(self.model, state, ids, until, [()], (), CORRECTED)
        return state, torch.cat(passes)

    def decode(self, state: State, rows: Sequence[Actions] = ((),)) -> tuple[list[list[int]], Tensor]:
        """Answers, and the logits ``(steps, rows, vocabulary)`` behind them."""
        with self.logits() as passes:
            answers = decode(self.model, state, rows, [()] * len(rows), CORRECTED, STEPS)
        return answers, torch.stack(passes)

    def recorded(self, during: Any = "both", recipe: Recipe = CORRECTED, k: int | None = None) -> tuple[Record, Tensor]:
        """An answer with `k` heads (all) kept in one phase, watched, and the logits that prefill leaves."""
        record = Record(self.model.window)
        action = resolve(KeepHeads(self.model.heads if k is None else k, during=during), self.model, recipe)
        with self.logits() as passes:
            state = prefill(self.model, self.ids, [action.prefill], (), recipe, record)  # type: ignore[arg-type]
            decode(self.model, state, [action.generation], [()], recipe, STEPS, record)  # type: ignore[arg-type]
        return record, passes[0][0]


def every_layer(probe: Probe) -> float:
    """Attention layers that did not go through hybret, or not once in every pass."""
    expected = {f"layer {i}": STEPS + 1 for i in probe.model.attention_layers}
    passes = {layer: len(kept) for layer, kept in probe.recorded()[0].kept.items()}
    return sum(passes.get(layer) != expected.get(layer) for layer in {*passes, *expected})


def silence(probe: Probe) -> float:
    """No head kept against attention replaced by zeros."""

    def silent(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return value.new_zeros(*query.transpose(1, 2).shape[:-1], value.shape[-1]), None

    AttentionInterface.register(SILENT, silent)
    AttentionMaskInterface.register(SILENT, eager_mask)
    before = probe.net.config._attn_implementation
    probe.net.set_attn_implementation(SILENT)
    try:
        expected = probe.plainly(probe.ids)
    finally:
        probe.net.set_attn_implementation(before)
    return probe.error(probe.under(KeepHeads(0)), expected)


def no_op(probe: Probe) -> float:
    """Change by no head and by one head alone; the smaller of both."""
    return min(probe.error(probe.under(KeepHeads(k))[0], probe.plain) for k in (0, 1) if k < probe.model.heads)


def causal(probe: Probe) -> float:
    """Change by other tokens at the end of the prompt, before them."""
    n = 2 * len(probe.ids) // 3
    ids = (*probe.ids[:n], *probe.prompt(len(probe.ids) - n))
    return probe.error(probe.under(ids=ids)[:, :n], probe.under()[:, :n])


def steps(probe: Probe) -> float:
    """One-token steps of an answer against one pass of transformers over prompt and answer."""
    (answer,), logits = probe.decode(probe.prefill())
    return probe.error(logits[:, 0], probe.plainly([*probe.ids, *answer])[len(probe.ids) - 1 :][: len(logits)])


def reading_on(probe: Probe) -> float:
    """A prompt that is read in three chunks, as prompts that begin alike are, against one pass."""
    if not probe.model.traits.chunked_prefill:
        return own_continuation(probe)
    cuts = (len(probe.ids) // 2, len(probe.ids) // 2 + 1, len(probe.ids) - 1)
    return probe.error(probe.chunks(probe.ids, *cuts)[1], probe.plain[[cut - 1 for cut in cuts]])


def fork(probe: Probe) -> float:
    """A fork of a prefill whose first branch has gone on, in the prompt or with an answer, against one of its own."""
    state = probe.prefill()
    spare = state.fork()
    probe.decode(state, [(KeepHeads(0),)])
    answered = probe.error(probe.decode(spare)[1], probe.decode(probe.prefill())[1])
    if not probe.model.traits.chunked_prefill:
        return answered
    n = len(probe.ids)
    ids = (*probe.ids[: n // 2], *probe.prompt(n - n // 2))
    state, _ = probe.chunks(probe.ids, n // 2)
    spare = state.fork()
    probe.chunks(ids, n - 1, state=state)
    return max(answered, probe.error(probe.chunks(probe.ids, n - 1, state=spare)[1][0], probe.plain[-2]))


def batch(probe: Probe) -> float:
    """Prompts of several lengths, each with and without its heads, in one batch against each alone."""
    rows: list[Actions] = [(), (KeepHeads(1),)]
    prompts = [probe.ids, probe.prompt(2 * len(probe.ids) // 3), probe.prompt(5), probe.prompt(2)]
    singles = [probe.decode(probe.prefill([row], ids), [row]) for ids in prompts for row in rows]
    answers, logits = probe.decode(merge([probe.prefill(rows, ids) for ids in prompts]), rows * len(prompts))
    worst = 0.0
    for i, ((expected,), single) in enumerate(singles):
        # Up to the first token that differs, whose own logits tell why.
        same = next((t for t, (a, b) in enumerate(zip(answers[i], expected, strict=True)) if a != b), STEPS - 1)
        worst = max(worst, probe.error(logits[: same + 1, i], single[: same + 1, 0]))
    return worst


def shared_prefill(probe: Probe) -> float:
    """Several interventions that read a prompt in one pass against each alone, forming the weights."""
    rows: list[Actions] = [(), (KeepHeads(0),), (KeepHeads(1),)]
    with probe.logits() as passes:
        probe.prefill(rows)
    return max(probe.error(passes[0][i], probe.under(*row)[0, -2]) for i, row in enumerate(rows))


def phases(probe: Probe) -> float:
    """(Layer, token) cases where no heads were kept in another phase than declared, under both recipes."""
    wrong, length = 0, len(probe.ids) + STEPS - 1
    for recipe in (CORRECTED, PAPER):
        # The last prompt token belongs to generation; under PAPER Jamba's does not.
        reading = torch.arange(length) < prompt_tokens(probe.model, probe.ids, recipe)
        for during, expected in (("prefill", ~reading), ("generation", reading)):
            layers = probe.recorded(during, recipe, 0)[0].kept
            for kept in map(torch.cat, layers.values()):
                wrong += int((kept != expected[: len(kept)]).sum()) + abs(len(kept) - length)
            wrong += abs(len(layers) - len(probe.model.attention_layers)) * length
    return wrong


def own_continuation(probe: Probe) -> float:
    """Transformers alone: several tokens at once after a prompt that is in the cache, against one pass."""
    return probe.in_parts(len(probe.ids) // 2, len(probe.ids))


def own_steps(probe: Probe, positions: bool = True) -> float:
    """Transformers alone: one-token steps after a prompt against one pass."""
    return probe.in_parts(*range(len(probe.ids) - 4, len(probe.ids) + 1), positions=positions)


def own_padding(probe: Probe) -> float:
    """Transformers alone: a prompt with padding on its left against the prompt alone."""
    n, length = len(probe.ids) // 2, len(probe.ids)
    mask = torch.ones(2, length, dtype=torch.long, device=probe.model.device)
    mask[1, :n] = 0
    rows = (probe.ids, (0,) * n + probe.ids[: length - n])
    logits = probe.plainly(*rows, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0))
    return probe.error(logits[1, n:], probe.plain[: length - n])


class Check(NamedTuple):
    """A measurement: an error, a count (nothing is tolerated) or an effect (where an error is wanted)."""

    name: str
    measure: Callable[[Probe], float]
    kind: str = "error"


CHECKS = {
    "every_layer": Check("every attention layer is reached", every_layer, "count"),
    "all_heads": Check(
        "all heads kept = plain attention", lambda p: p.error(p.under(KeepHeads(p.model.heads)), p.plain)
    ),
    "silence": Check("no head kept = attention silent", silence),
    "no_op": Check("no silent no-op: k = 0 and k = 1 act", no_op, "effect"),
    "causal": Check("causal", causal),
    "window": Check("window", lambda p: p.recorded()[0].wrong, "count"),
    "steps": Check("one-token steps = one pass", steps),
    "reading_on": Check("reading on = one pass", reading_on),
    "fork": Check("fork of a prefill = rerun", fork),
    "batch": Check("ragged batch = single", batch),
    "shared_prefill": Check("shared prefill = each alone", shared_prefill),
    "phases": Check("phases as declared", phases, "count"),
    "prefill_untouched": Check(
        "generation leaves prefill untouched", lambda p: p.error(p.recorded("generation", k=0)[1], p.plain[-2])
    ),
    "own_steps": Check("transformers: one-token steps", own_steps),
    "own_positions": Check("transformers: steps without position ids", lambda p: own_steps(p, positions=False)),
    "own_continuation": Check("transformers: several tokens after a cache", own_continuation),
    "own_padding": Check("transformers: left padding", own_padding),
}
"""By the name under which `hybret.families` lists a defect of transformers."""


def verify(
    model: Model | str, tokens: int | None = None, device: str = "auto", dtype: str = "float32", progress: bool = True
) -> pd.DataFrame:
    """Check on a model what hybret rests on.

    Parameters
    ----------
    model : a `Model`, or a name for `hybret.load`; the name of a family gives a tiny one with random weights.
    tokens : length of the prompt, at least 12; default 16 more than the window, or 48 for global attention. A prompt
        within the window does not test the window.
    device, dtype : of `hybret.load`. Half precision tells gross errors only.
    progress : show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per check: model, family, check, error (missing if the check could not run), tolerance, verdict
        (``"pass"``, ``"fail"`` or ``"known defect of transformers"``), note (on a defect or a failure), transformers
        (its version).
    """
    if tokens is not None:
        integer("tokens", tokens, 12, MOST_TOKENS)
    probe = Probe(model if isinstance(model, Model) else load(model, device=device, dtype=dtype), tokens)
    lines, who = [], {"model": probe.model.name, "family": probe.model.family}
    with progress_bar(progress, probe.model.name, unit="check", total=len(CHECKS)) as bar:
        for key, check in CHECKS.items():
            bar.set_postfix_str(check.name)
            lines.append({**who, "check": check.name, **judged(probe, key)})
            bar.update()
    return pd.DataFrame(lines).assign(transformers=transformers.__version__)


def judged(probe: Probe, key: str) -> dict[str, Any]:
    """Error, tolerance, verdict and note of one check."""
    check, known = CHECKS[key], probe.model.traits.defects.get(key, "")
    tolerance = 0.0 if check.kind == "count" else TOLERANCE[probe.model.dtype]
    try:
        error, note = float(check.measure(probe)), known
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as problem:
        error, note = math.nan, known or f"{type(problem).__name__}: {(str(problem).splitlines() or [''])[0]}"
    holds = error > tolerance if check.kind == "effect" else error <= tolerance  # neither of NaN
    if known and holds:
        note = "does not show here; a defect of other versions, or too small in this model"
    verdict = PASS if holds else DEFECT if known else FAIL
    return {"error": error, "tolerance": tolerance, "verdict": verdict, "note": note}


def shown(table: pd.DataFrame) -> Group:
    """The checks as the command line prints them: a table, notes on its verdicts, and how many failed."""
    colour = {PASS: "green", DEFECT: "yellow", FAIL: "bold red"}
    effects = {check.name for check in CHECKS.values() if check.kind == "effect"}
    first, failed = table.iloc[0], int((table["verdict"] == FAIL).sum())
    lines, notes = Table("check", "error", "tolerance", "verdict", box=None), []
    for row in table.to_dict("records"):
        error = "-" if math.isnan(row["error"]) else f"{row['error']:.2g}"
        tolerance = f"{'over ' if row['check'] in effects else ''}{row['tolerance']:g}"
        lines.add_row(row["check"], error, tolerance, f"[{colour[row['verdict']]}]{row['verdict']}[/]")
        if row["note"]:
            notes.append(f"{row['check']}: {escape(printable(row['note']))}")
    head = f"{escape(printable(first['model']))} ({first['family']}), transformers {first['transformers']}"
    return Group(head, lines, *notes, f"{failed or 'no'} check{'' if failed == 1 else 's'} failed")
