"""What heads and mixers give on average, for interventions that put this in place of 0."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor

from hybret.engine import attention, decode
from hybret.engine.attach import implementation
from hybret.engine.mixers import mixers_of
from hybret.engine.scan import parallel_scans
from hybret.errors import HybretError
from hybret.files import digest
from hybret.hybrid import Hybrid
from hybret.interventions import Means
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED


def mean_outputs(model: Hybrid, prompts: Sequence[Prompt]) -> Means:
    """The mean output of every head, before the output projection, and of every other mixer, without an intervention.

    Means are over all tokens of all `prompts`, BOS included, in float64. Give prompts that the evaluation does not use.
    """
    if not prompts:
        raise HybretError("there are no prompts to take means over; build some with hybret.niah.grid")
    model.check_state()
    heads, others, calls = dict[int, Tensor](), dict[int, Tensor](), 0

    def add(sums: dict[int, Tensor], layer: int, output: Tensor) -> None:
        sums[layer] = sums.get(layer, 0) + output[0].double().sum(0).cpu()  # over the tokens of the only row

    def attend(*args: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        nonlocal calls
        output, weights = attention.attention(*args, **named)
        add(heads, model.attention_layers[calls % len(model.attention_layers)], output)
        calls += 1
        return output, weights

    def listen(layer: int, _: Any, __: Any, output: Any) -> None:
        add(others, layer, output[0] if isinstance(output, tuple) else output)

    with ExitStack() as hooks, parallel_scans(), implementation(model.net, attend):
        for layer, mixer in mixers_of(model.net):
            hooks.enter_context(mixer.register_forward_hook(partial(listen, layer)))
        for prompt in prompts:
            decode.prefill(model, [*prompt.ids, prompt.ids[-1]], [()], (), CORRECTED)  # all: the last token is not read
    if calls != len(prompts) * len(model.attention_layers):
        raise HybretError(f"attention ran {calls} times over {len(prompts)} prompts in {model.name}; report the model")
    tokens = sum(len(prompt.ids) for prompt in prompts)
    kept = ({layer: (x / tokens).float() for layer, x in sums.items()} for sums in (heads, others))
    return Means(digest(model.digest, *(f"{prompt.ids}" for prompt in prompts)), model.digest, *kept)
