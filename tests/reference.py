"""The interventions a second time: slow, obvious and independent of hybret's own masks, softmax, entropy and choices.

Everything is computed in float64 by NumPy, from a layer's queries, keys and values and with all weights formed. Of
hybret only the frozen values are used, for what they say: the fields of interventions and of the recipe.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hybret import Binary, Compose, Keep, KeepHeads, Mass, Null, Omit, OmitHeads, Only, OnlyHeads, PerPhase


def acting(intervention, phase):
    """The elementary interventions of a phase, in order."""
    if isinstance(intervention, Keep):
        return []
    if isinstance(intervention, Compose):
        return [part for item in intervention.items for part in acting(item, phase)]
    if isinstance(intervention, PerPhase):
        return acting(intervention.prefill if phase == "prefill" else intervention.generation, phase)
    return [intervention] if intervention.during in ("both", phase) else []


@dataclass
class Where:
    """One row of one pass: its phase, the position of its last query, and what stands where in its prompt."""

    phase: str
    last: int
    spans: tuple = ()
    question: tuple | None = None
    window: int | None = None
    layer: int = 0
    family: str = "recurrent_gemma"


def bf16(x):
    """float32 rounded to the nearest bfloat16, ties to even."""
    bits = np.atleast_1d(np.asarray(x, np.float32)).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def entropy(weights, recipe):
    """Bits, of rows of weights."""
    if recipe.entropy_dtype == "bfloat16":  # as the authors': every operation rounds, the sum once at its end
        w = bf16(bf16(weights) + np.float32(recipe.entropy_eps))
        terms = bf16(w * bf16(np.log2(np.where(w > 0, w, np.float32(1)))))
        return bf16(-terms.sum(-1, dtype=np.float64)).astype(float).reshape(weights.shape[:-1])
    w = weights + recipe.entropy_eps
    return -(w * np.log2(np.where(w > 0, w, 1))).sum(-1)


def needle_tokens(where, recipe):
    """Positions of the needle; the authors look them up in a text without BOS, so each is one too low."""
    early = 1 if recipe.needle_span == "shifted" else 0
    copies = [min(where.spans)] if where.spans and recipe.needle_copies == "first" else where.spans
    return {p - early for first, end in copies for p in range(first, end) if p >= early}


def noise(*numbers):
    """32 bits of several numbers: each is mixed in by the finaliser of MurmurHash3."""
    mixed, *rest = numbers
    for number in rest:
        mixed = ((mixed ^ number) + 0x9E3779B9) % 2**32
        mixed = (mixed ^ mixed >> 16) * 0x85EBCA6B % 2**32
        mixed = (mixed ^ mixed >> 13) * 0xC2B2AE35 % 2**32
        mixed ^= mixed >> 16
    return mixed


def layer(q, k, v, scaling, intervention, where, recipe):
    """What one row's attention layer gives, before heads are silenced, and what decides which are.

    Parameters
    ----------
    q : float64 ``(heads, queries, dim)``
    k, v : float64 ``(key-value heads, keys, dim)``: the last keys, of which the last is the last query's own.
    scaling : float

    Returns
    -------
    output : float64 ``(heads, queries, dim)``
    choices : list of (metric, k, scores ``(heads, queries)``): the k lowest of each query are kept.
    """
    heads, queries, _ = q.shape
    keys, groups = k.shape[1], heads // k.shape[0]
    at_query, at_key = (where.last + 1 + np.arange(-n, 0) for n in (queries, keys))
    on_needle = np.isin(at_key, [*needle_tokens(where, recipe)])
    behind = at_query[:, None] - at_key
    seen = (at_key >= 0) & (behind >= 0) & (behind < (where.window or np.inf))
    k, v = k.repeat(groups, 0), v.repeat(groups, 0)
    scores = np.where(seen, q @ k.swapaxes(1, 2) * scaling, -np.inf)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    plain = raised / raised.sum(-1, keepdims=True)
    actions = [a for a in acting(intervention, where.phase) if a.layers is None or where.layer in a.layers]
    weights = plain.copy()
    for action in actions:
        gate = isinstance(action, (KeepHeads, OnlyHeads, OmitHeads))
        if gate or (where.family == "jamba" and recipe.jamba_manipulation == "no-op"):
            continue
        if where.phase == "generation" and recipe.out_of_window == "untouched" and not (seen & on_needle).any():
            continue
        weights = manipulated(action, weights, plain, seen, on_needle, at_query, at_key, where, recipe)
    choices = []
    for action in (a for a in actions if isinstance(a, (OnlyHeads, OmitHeads))):
        named = np.array([((where.layer, h) in action.heads) == isinstance(action, OnlyHeads) for h in range(heads)])
        choices.append(("named", int(named.sum()), 1.0 - named[:, None].repeat(queries, 1)))
    for action in (a for a in actions if isinstance(a, KeepHeads) and a.k < heads):
        if "entropy" in action.metric:
            scores = entropy(plain, recipe) * (-1 if action.metric == "highest entropy" else 1)
        elif action.metric == "needle":
            scores = -np.minimum(plain[..., on_needle].sum(-1), 1 - 1e-5)
        elif action.metric == "random":
            scores = [[float(noise(action.seed, where.layer, at, h)) for at in at_query.tolist()] for h in range(heads)]
        else:
            scores = -np.linalg.norm({"output-norm": plain @ v, "weight-norm": plain}[action.metric], axis=-1)
        choices.append((action.metric, action.k, np.array(scores)))
    return weights @ v, choices


def silent(intervention, where, heads):
    """What a silenced head of a layer gives, ``(heads, 1 or dim)``: 0, or the mean that the intervention brings."""
    means = [a.instead for a in acting(intervention, where.phase) if a.instead is not None]
    return means[0].heads[where.layer].double().numpy() if means else np.zeros((heads, 1))


def manipulated(action, weights, plain, seen, on_needle, at_query, at_key, where, recipe):
    """The weights ``(heads, queries, keys)`` after one intervention."""
    total, on = (w.sum(-1, keepdims=True) for w in (weights, weights[..., on_needle]))
    if isinstance(action, Omit):
        return np.where(on_needle, 0, weights)
    if isinstance(action, Only):
        left = on_needle | np.zeros_like(seen)
        left |= ("self" in action.also) & (at_key == at_query[:, None])
        left |= ("first" in action.also) & (at_key == 0)
        for part, border in zip(("question", "answer"), where.question or (), strict=False):
            left |= (part in action.also) & (at_key >= border)
        changed = np.where(left, weights, 0)
        kept = changed.sum(-1, keepdims=True)
        return changed / np.where(kept > 0, kept, 1) if action.renormalise else changed
    if isinstance(action, Binary) and recipe.binary == "scalar":
        # The authors' list of needle tokens: in prefill those of the prompt, later those that are still in the window.
        tokens = (on_needle & seen.any(0)).sum()
        return np.where(on_needle, on.sum() / len(weights) / max(tokens, 1), np.zeros_like(weights))
    if isinstance(action, Binary):
        here = on_needle & seen
        return here * on / np.maximum(here.sum(-1, keepdims=True), 1)
    if isinstance(action, Mass):
        wanted = plain[..., on_needle].sum(-1, keepdims=True) if action.total == "needle" else action.total
        return weights / np.where(total > 0, total, 1) * wanted
    assert isinstance(action, Null)
    return np.zeros_like(weights)


def kept_heads(choices, i, heard, margin, recipe):
    """Heads that go on for query `i`; where rounding, or `torch.topk`, decides, those of `heard` that may.

    Parameters
    ----------
    choices : as of `layer`.
    heard : set of int
        Heads that the implementation let through, as far as that can be seen.
    margin : function of metric and score
        By how much it may be off.

    Returns
    -------
    (kept, sure) : set of int, and whether nothing was as near as that.
    """
    kept, sure = None, True
    for metric, k, scores in choices:
        score = scores[:, i]
        order = sorted(range(len(score)), key=lambda h: (score[h], h))
        mine = set(order[:k])
        if 0 < k < len(order):
            last, first = score[order[k - 1]], score[order[k]]
            if first - last <= margin(metric, last) and (first > last or recipe.tie_break == "topk"):
                sure = False
                certain = {h for h in order if score[h] < last - margin(metric, last)}
                possible = {h for h in order if score[h] <= first + margin(metric, first)}
                assert len(heard & possible) <= k
                mine = certain | (heard & possible)
        kept = mine if kept is None else kept & mine
    return kept, sure
