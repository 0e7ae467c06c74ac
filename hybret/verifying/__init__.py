"""Whether what hybret rests on holds for a model: measured on the model itself, one number per check.

An error is the largest difference of two logits that should be equal, divided by the standard deviation of the model's
logits; or a count. Checks whose name begins with "transformers" measure transformers' own code, without hybret's fixes:
what is wrong there is a known defect. Prompts are random tokens, longer than the model's window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
import transformers
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from hybret.engine.attach import implementation
from hybret.engine.decode import prompt_tokens
from hybret.engine.state import merge
from hybret.errors import HybretError, check_conditions, integer, printable
from hybret.interventions import PHASES, Actions, Intervention, Keep
from hybret.interventions.heads import KeepHeads
from hybret.models import Model, load
from hybret.recipe import CORRECTED, PAPER
from hybret.resolving import resolve
from hybret.sweeping import progress_bar
from hybret.verifying.probe import STEPS, Probe

MOST_TOKENS = 100_000
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5, "float16": 0.1}
"""Of an error. In fp32 every defect that was met is far above it; half precision tells gross ones only."""
PASS, FAIL, DEFECT, UNCHECKED = "pass", "fail", "known defect of transformers", "not checked"


def every_layer(probe: Probe) -> float:
    """Attention layers that did not go through hybret, or not once for every token."""
    expected = {f"layer {i}": len(probe.ids) + STEPS - 1 for i in probe.model.attention_layers}
    tokens = {layer: kept.shape[1] for layer, kept in probe.recorded()[0].kept.items()}
    return sum(tokens.get(layer) != expected.get(layer) for layer in {*tokens, *expected})


def silence(probe: Probe) -> float:
    """No head kept against attention replaced by zeros."""

    def silent(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return value.new_zeros(*query.transpose(1, 2).shape[:-1], value.shape[-1]), None

    with implementation(probe.net, silent):
        expected = probe.plainly(probe.ids)
    return probe.error(probe.under(KeepHeads(0)), expected)


def no_op(probe: Probe) -> float:
    """Change by no head and by one head alone; the smaller of both."""
    return min(probe.error(probe.under(KeepHeads(k))[0], probe.plain) for k in (0, 1) if k < probe.model.heads)


def causal(probe: Probe) -> float:
    """Change by other tokens at the end of the prompt, before them."""
    n = 2 * len(probe.ids) // 3
    ids = (*probe.ids[:n], *probe.prompt(len(probe.ids) - n))
    return probe.error(probe.under(ids=ids)[:, :n], probe.under()[:, :n])


def window(probe: Probe) -> float:
    """Keys that a query saw and should not have, or the reverse: of the last query and the middle one of every pass."""
    wrong, width = 0, probe.model.window
    for passes in probe.recorded(weights=True)[0].weights.values():
        before = 0
        for weights in passes:
            _, queries, keys = weights.shape
            for query in {queries // 2, queries - 1}:
                last = keys - queries + query  # the column of the query itself
                should = torch.zeros(keys, dtype=torch.bool)
                should[0 if width is None else max(0, last - width + 1) : last + 1] = True
                hidden = min(before + query + 1, width or before + queries) - int(should.sum())  # not in the cache
                wrong += int(((weights[:, query] > 0).any(0) != should).sum()) + abs(hidden)
            before += queries
    return wrong


def steps(probe: Probe) -> float:
    """One-token steps of an answer against one pass of transformers over prompt and answer."""
    (answer,), logits = probe.decode(probe.read(probe.ids)[0])
    return probe.error(logits[:, 0], probe.plainly([*probe.ids, *answer])[len(probe.ids) - 1 :][: len(logits)])


def reading_on(probe: Probe) -> float:
    """A prompt that is read in three chunks, as prompts that begin alike are, against one pass."""
    if not probe.model.traits.chunked_prefill:
        return own_continuation(probe)
    cuts = (len(probe.ids) // 2, len(probe.ids) // 2 + 1, len(probe.ids) - 1)
    return probe.error(probe.read(probe.ids, *cuts)[1], probe.plain[[cut - 1 for cut in cuts]])


def fork(probe: Probe) -> float:
    """A fork of a prefill whose first branch has gone on, in the prompt or with an answer, against one of its own."""
    state, _ = probe.read(probe.ids)
    spare = state.fork()
    probe.decode(state, [(KeepHeads(0),)])
    answered = probe.error(probe.decode(spare)[1], probe.decode(probe.read(probe.ids)[0])[1])
    if not probe.model.traits.chunked_prefill:
        return answered
    n = len(probe.ids)
    ids = (*probe.ids[: n // 2], *probe.prompt(n - n // 2))
    state, _ = probe.read(probe.ids, n // 2)
    spare = state.fork()
    probe.read(ids, n - 1, state=state)
    return max(answered, probe.error(probe.read(probe.ids, n - 1, state=spare)[1][0], probe.plain[-2]))


def batch(probe: Probe, condition: Intervention | None = None) -> float:
    """Prompts of several lengths, each with and without a condition, in one batch against each alone.

    By default with one head and with all. A `condition` is run as in a sweep, streamed and from a shared beginning,
    against forming the weights; one that changes nothing is refused.
    """
    acts = [resolve(c, probe.model, CORRECTED) for c in (Keep(), condition or KeepHeads(1))]
    rows = [a.prefill for a in acts]
    ahead = any(a.looks_ahead(CORRECTED) for a in acts[1].prefill)
    shared = condition is not None and probe.model.traits.chunked_prefill and not ahead
    prompts = [probe.ids, probe.prompt(2 * len(probe.ids) // 3), probe.prompt(5), probe.prompt(2)]
    alone, together = [], []
    for ids in prompts:
        for act in acts:
            state, _ = probe.read(ids, rows=[act.prefill], streaming=condition is None)
            alone.append(probe.decode(state, [act.generation], [ids]))
        cuts = (len(ids) // 3, len(ids) - 1) if shared else ()
        together.append(probe.read(ids, *cuts, rows=rows)[0])
    plain, changed = (torch.cat([logits for _, logits in alone[i::2]]) for i in (0, 1))
    if condition and probe.error(plain, changed) <= TOLERANCE[probe.model.dtype]:
        raise HybretError(f"{condition.label} changes nothing in this model")
    generations = [a.generation for a in acts] * len(prompts)
    answers, logits = probe.decode(merge(together), generations, [ids for ids in prompts for _ in acts])
    worst = 0.0
    for i, ((expected,), single) in enumerate(alone):
        # Up to the first token that differs, whose own logits tell why.
        same = next((t for t, (a, b) in enumerate(zip(answers[i], expected, strict=True)) if a != b), STEPS - 1)
        worst = max(worst, probe.error(logits[: same + 1, i], single[: same + 1, 0]))
    return worst


def shared_prefill(probe: Probe) -> float:
    """Several interventions that read a prompt in one pass against each alone, forming the weights."""
    rows: list[Actions] = [(), (KeepHeads(0),), (KeepHeads(1),)]
    _, logits = probe.read(probe.ids, rows=rows)
    return max(probe.error(logits[i], probe.under(*row)[0, -2]) for i, row in enumerate(rows))


def phases(probe: Probe) -> float:
    """(Layer, token) cases where no heads were kept in another phase than declared, under both recipes."""
    wrong, length = 0, len(probe.ids) + STEPS - 1
    for recipe in (CORRECTED, PAPER):
        # The last prompt token belongs to generation; under PAPER Jamba's does not.
        reading = torch.arange(length) < prompt_tokens(probe.model, probe.ids, recipe)
        for during, expected in zip(PHASES, (~reading, reading), strict=True):
            layers = probe.recorded(during, recipe, 0)[0].kept
            for kept in (heads.any(0) for heads in layers.values()):
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
    "window": Check("window", window, "count"),
    "steps": Check("one-token steps = one pass", steps),
    "reading_on": Check("reading on = one pass", reading_on),
    "fork": Check("fork of a prefill = rerun", fork),
    "batch": Check("ragged batch = single", batch),
    "shared_prefill": Check("shared prefill = each alone", shared_prefill),
    "phases": Check("phases as declared", phases, "count"),
    "prefill_untouched": Check(
        "generation leaves prefill unchanged", lambda p: p.error(p.recorded("generation", k=0)[1], p.plain[-2])
    ),
    "own_steps": Check("transformers: one-token steps", own_steps),
    "own_positions": Check("transformers: steps without position ids", lambda p: own_steps(p, positions=False)),
    "own_continuation": Check("transformers: several tokens after a cache", own_continuation),
    "own_padding": Check("transformers: left padding", own_padding),
}
"""By the name under which `hybret.families` lists a defect of transformers."""


def verify(
    model: Model | str,
    tokens: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    progress: bool = True,
    conditions: Mapping[str, Intervention] | None = None,
) -> pd.DataFrame:
    """Check on a model what hybret rests on.

    Parameters
    ----------
    model : a `Model`, or a name for `hybret.load`; the name of a family gives a tiny one with random weights.
    tokens : length of the prompt, at least 12. By default it goes past every length at which the model's configuration
        changes how it reads (its window, the chunks of a scan, a scaled RoPE), if that is within 8,192 tokens.
    device, dtype : of `hybret.load`. Half precision tells gross errors only.
    conditions : interventions, such as your own, each checked too: that it acts, and that it does in a sweep (streamed,
        from a shared beginning, in a ragged batch) what it does alone.

    Returns
    -------
    pandas.DataFrame
        One row per check: model, family, check, error (missing if the check could not run), tolerance, verdict
        (``"pass"``, ``"fail"`` or ``"known defect of transformers"``), note (on a defect or a failure), transformers
        (its version). A length that the prompt does not pass is a row with the verdict ``"not checked"``. Neither are
        the tokenizer, benchmarks, and other devices and dtypes than the model's.
    """
    if tokens is not None:
        integer("tokens", tokens, 12, MOST_TOKENS)
    probe = Probe(model if isinstance(model, Model) else load(model, device=device, dtype=dtype), tokens)
    checks = dict(CHECKS)
    for label, condition in ({} if conditions is None else check_conditions(conditions)).items():
        resolve(condition, probe.model, CORRECTED)
        checks[f"condition {label}"] = Check(f"{label}: in a sweep = alone", partial(batch, condition=condition))
    lines, who = [], {"model": probe.model.name, "family": probe.model.kind}
    with progress_bar(progress, probe.model.name, unit="check", total=len(checks)) as bar:
        for key, check in checks.items():
            bar.set_postfix_str(check.name)
            lines.append({**who, "check": check.name, **judged(probe, key, check)})
            bar.update()
    for name, length in probe.turns.items():
        if length >= len(probe.ids):
            skipped = {"error": math.nan, "tolerance": math.nan, "verdict": UNCHECKED}
            lines.append({**who, "check": f"past {name}", **skipped, "note": f"give at least {length + 16} tokens"})
    return pd.DataFrame(lines).assign(transformers=transformers.__version__)


def judged(probe: Probe, key: str, check: Check) -> dict[str, Any]:
    """Error, tolerance, verdict and note of one check."""
    known = probe.model.traits.defects.get(key, "")
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
    colour = {PASS: "green", DEFECT: "yellow", FAIL: "bold red", UNCHECKED: "yellow"}
    effects = {check.name for check in CHECKS.values() if check.kind == "effect"}
    first, failed = table.iloc[0], int((table["verdict"] == FAIL).sum())
    lines, notes = Table(box=None), []
    for column, least in (("check", 0), ("error", 8), ("tolerance", 10), ("verdict", 0)):  # no number is cut
        lines.add_column(column, min_width=least, overflow="fold")
    for row in table.to_dict("records"):
        error = "-" if math.isnan(row["error"]) else f"{row['error']:.2g}"
        tolerance = f"{'over ' if row['check'] in effects else ''}{row['tolerance']:g}".replace("nan", "-")
        lines.add_row(row["check"], error, tolerance, f"[{colour[row['verdict']]}]{row['verdict']}[/]")
        if row["note"]:
            notes.append(f"{row['check']}: {escape(printable(row['note']))}")
    head = f"{escape(printable(first['model']))} ({first['family']}), transformers {first['transformers']}"
    return Group(head, lines, *notes, f"{failed or 'no'} check{'' if failed == 1 else 's'} failed")
