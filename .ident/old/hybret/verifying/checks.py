"""What hybret rests on, as functions of a model under test; each returns an error, which `hybret.verify` judges.

An error is the largest difference of two logits that should be equal, divided by the standard deviation of the model's
logits; or a count, where a check counts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from hybret.engine.generation import WHOLE, extend, merge, prompt_tokens
from hybret.engine.states import restore_recurrent, start
from hybret.interventions import KeepHeads
from hybret.recipe import CORRECTED, PAPER
from hybret.verifying.subjects import STEPS, Actions, Bench

SILENT = "hybret-silent"


def every_layer(bench: Bench) -> float:
    """Attention layers that did not go through hybret, or did more than once."""
    record, _ = bench.recorded("both", CORRECTED, bench.model.heads)
    passes = {f"layer {i}": STEPS + 1 for i in bench.model.attention_layers}
    found = {layer: len(kept) for layer, kept in record.kept.items()}
    return sum(found.get(layer) != passes.get(layer) for layer in {*found, *passes})


def all_heads(bench: Bench) -> float:
    """hybret with all heads kept against transformers' eager attention, forming the weights and streaming."""
    action = (KeepHeads(bench.model.heads),)
    return max(bench.error(bench.under(action, streaming=s), bench.plain) for s in (False, True))


def silence(bench: Bench) -> float:
    """No head kept against attention replaced by zeros."""

    def silent(module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return value.new_zeros(*query.transpose(1, 2).shape[:-1], value.shape[-1]), None

    AttentionInterface.register(SILENT, silent)
    AttentionMaskInterface.register(SILENT, eager_mask)
    before = bench.net.config._attn_implementation
    bench.net.set_attn_implementation(SILENT)
    try:
        expected = bench.plainly(bench.ids)
    finally:
        bench.net.set_attn_implementation(before)
    return max(bench.error(bench.under((KeepHeads(0),), streaming=s), expected) for s in (False, True))


def no_op(bench: Bench) -> float:
    """What no head and the first head alone change; the smaller of both."""
    return min(bench.error(bench.under((KeepHeads(k),)), bench.plain) for k in (0, 1) if k < bench.model.heads)


def causal(bench: Bench) -> float:
    """What other tokens at the end of the prompt change before them."""
    n = 2 * len(bench.ids) // 3
    other = (*bench.ids[:n], *bench.prompt(len(bench.ids) - n))
    return max(
        bench.error(bench.under((), other, streaming=s)[:n], bench.under((), streaming=s)[:n]) for s in (False, True)
    )


def window(bench: Bench) -> float:
    """Keys that a query sees and should not, or the reverse, while reading and while answering."""
    record, _ = bench.recorded("both", CORRECTED, bench.model.heads)
    return record.wrong


def steps(bench: Bench) -> float:
    """One-token steps of an answer against one pass of transformers over prompt and answer."""
    (answer,), found = bench.decode(bench.prefill())
    whole = bench.plainly([*bench.ids, *answer])
    return bench.error(found[:, 0], whole[len(bench.ids) - 1 :][: len(found)])


def reading_on(bench: Bench) -> float:
    """A prompt that is read in three parts, as prompts that begin alike are, against one pass."""
    if bench.model.family in WHOLE:
        return own_continuation(bench)
    n = len(bench.ids)
    with bench.engine(), bench.logits() as found:
        state = start(bench.model, 1)
        for until in (n // 2, n // 2 + 1, n - 1):
            state = extend(bench.model, state, bench.ids, until, [()], (), CORRECTED)
    return bench.error(torch.stack([x[0] for x in found]), bench.plain[[n // 2 - 1, n // 2, n - 2]])


def fork(bench: Bench) -> float:
    """A fork of a prefill whose other branch has gone on, in the prompt or with an answer, against one of its own."""
    state = bench.prefill()
    spare = state.fork()
    bench.decode(state, [(KeepHeads(0),)])
    answered = bench.error(bench.decode(spare)[1], bench.decode(bench.prefill())[1])
    if bench.model.family in WHOLE:
        return answered
    n = len(bench.ids)
    other = (*bench.ids[: n // 2], *bench.prompt(n - n // 2))
    with bench.engine(), bench.logits() as found:
        state = extend(bench.model, start(bench.model, 1), bench.ids, n // 2, [()], (), CORRECTED)
        spare = state.fork()
        extend(bench.model, state, other, n - 1, [()], (), CORRECTED)
        extend(bench.model, spare, bench.ids, n - 1, [()], (), CORRECTED)
    return max(answered, bench.error(found[-1][0], bench.plain[-2]))


def batch(bench: Bench) -> float:
    """Prompts of several lengths, each with and without its heads, in one batch against each alone."""
    rows: list[Actions] = [(), (KeepHeads(1),)]
    prompts = [bench.ids, bench.prompt(2 * len(bench.ids) // 3), bench.prompt(5), bench.prompt(2)]
    alone = [[bench.decode(bench.prefill([r], ids), [r]) for r in rows] for ids in prompts]
    together = merge([bench.prefill(rows, ids) for ids in prompts])
    answers, found = bench.decode(together, rows * len(prompts))
    worst = 0.0
    for i, (expected, logits) in enumerate(pair for pairs in alone for pair in pairs):
        # Up to the first token that differs, whose own logits tell why.
        same = next((t for t, (a, b) in enumerate(zip(answers[i], expected[0], strict=True)) if a != b), STEPS - 1)
        worst = max(worst, bench.error(found[: same + 1, i], logits[: same + 1, 0]))
    return worst


def shared_prefill(bench: Bench) -> float:
    """Several interventions that read a prompt in one pass against each alone, forming the weights."""
    rows: list[Actions] = [(), (KeepHeads(0),), (KeepHeads(1),)]
    with bench.logits() as found:
        bench.prefill(rows)
    return max(bench.error(found[0][i], bench.under(row)[-2]) for i, row in enumerate(rows))


def phases(bench: Bench) -> float:
    """(Layer, token) cases where no heads were kept in another phase than declared, under both recipes.

    The last prompt token belongs to generation; under `PAPER` Jamba's does not.
    """
    wrong = 0
    whole = len(bench.ids) + STEPS - 1
    for recipe in (CORRECTED, PAPER):
        edge = prompt_tokens(bench.model, bench.ids, recipe)
        for during in ("prefill", "generation"):
            record, _ = bench.recorded(during, recipe, 0)
            reading = torch.arange(whole) < edge
            for kept in record.kept.values():
                found = torch.cat(kept)
                wrong += int((found != (~reading if during == "prefill" else reading)[: len(found)]).sum())
                wrong += abs(len(found) - whole)
            wrong += abs(len(record.kept) - len(bench.model.attention_layers)) * whole
    return wrong


def prefill_untouched(bench: Bench) -> float:
    """What an intervention declared for generation changes in the logits and the state that prefill leaves."""
    _, found = bench.recorded("generation", CORRECTED, 0)
    return bench.error(found[0][0], bench.plain[-2])


def own_steps(bench: Bench) -> float:
    """Transformers alone: one-token steps after a prompt against one pass."""
    n = len(bench.ids) - 4
    state = start(bench.model, 1)
    restore_recurrent(bench.net, state.recurrent)
    parts = [bench.plainly(bench.ids[:n], state.cache)]
    parts += [bench.plainly(bench.ids[t : t + 1], state.cache, t) for t in range(n, len(bench.ids))]
    return bench.error(torch.cat(parts), bench.plain)


def own_positions(bench: Bench) -> float:
    """Transformers alone: the same without position ids, which it then makes up."""
    n = len(bench.ids) - 4
    state = start(bench.model, 1)
    restore_recurrent(bench.net, state.recurrent)
    cuts = [0, *range(n, len(bench.ids) + 1)]
    parts = [torch.tensor([bench.ids[a:b]], device=bench.model.device) for a, b in zip(cuts, cuts[1:], strict=False)]
    with torch.inference_mode():
        found = [bench.net(input_ids=x, past_key_values=state.cache, use_cache=True).logits[0] for x in parts]
    return bench.error(torch.cat(found), bench.plain)


def own_continuation(bench: Bench) -> float:
    """Transformers alone: several tokens at once after a prompt that is in the cache, against one pass."""
    n = len(bench.ids) // 2
    state = start(bench.model, 1)
    restore_recurrent(bench.net, state.recurrent)
    parts = [bench.plainly(bench.ids[:n], state.cache), bench.plainly(bench.ids[n:], state.cache, n)]
    return bench.error(torch.cat(parts), bench.plain)


def own_padding(bench: Bench) -> float:
    """Transformers alone: a prompt with padding on its left against the prompt alone."""
    n = len(bench.ids) // 2
    device = bench.model.device
    ids = torch.tensor([bench.ids, (0,) * n + bench.ids[: len(bench.ids) - n]], device=device)
    shown = torch.ones_like(ids)
    shown[1, :n] = 0
    position = (shown.cumsum(-1) - 1).clamp_min(0)
    state = start(bench.model, 1)
    restore_recurrent(bench.net, [x.expand(2, *x.shape[1:]) for x in state.recurrent])
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": shown, "position_ids": position}
        found = bench.net(**inputs, past_key_values=state.cache, use_cache=True).logits[1, n:]
    return bench.error(found, bench.plain[: len(found)])
