"""Loading hybrids: small models shipped with hybret, random ones, and any Hugging Face folder or id."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from hybret import checkpoints
from hybret.checkpoints import CHECKPOINTS, named, organisms
from hybret.devices import Machine, Placement, check_on_gpus, skeleton
from hybret.engine import decode
from hybret.engine.attach import attached, implementation
from hybret.engine.scan import parallel_scans
from hybret.errors import SEEDS, HybretError, conform, integer, one_of, text
from hybret.families import RANDOM_MODELS, attention_layers
from hybret.hybrid import ORGANISM_BUFFER, ORGANISM_LENGTHS, Hybrid, checksum, digest_of, window_of
from hybret.interventions import PHASES, Keep
from hybret.prompts import PAPER_NEEDLE, Prompt
from hybret.recipe import CORRECTED, Recipe
from hybret.resolving import Resolved, resolve
from hybret.tasks.encoding import check_made_for

__all__ = ["CHECKPOINTS", "OLDEST_TRANSFORMERS", "Model", "load", "named", "organisms"]

# Before 5.13 RecurrentGemma is non-causal past its window when a cache is used (measured).
OLDEST_TRANSFORMERS = "5.13.1"


class Model(Hybrid):
    """A hybrid that answers; `load` returns one. Its attributes are those of `hybret.hybrid.Hybrid`."""

    def generate(self, prompt: Prompt | str, max_new_tokens: int = 40) -> str:
        """Greedy answer to one prompt, under the intervention that `hybret.attach` put on this model, if any.

        A plain string has no needle.
        """
        integer("max_new_tokens", max_new_tokens, 1)
        on = attached(self.net)
        rule, recipe = (on.intervention, on.recipe) if on else (Keep(), CORRECTED)
        if not isinstance(prompt, Prompt):
            prompt = Prompt(prompt, tuple(self.tokenizer(text("prompt", prompt)).input_ids), PAPER_NEEDLE)
        check_prompts(self, [prompt], [resolve(rule, self, recipe)], on.recipe if on else None, max_new_tokens)
        ids, spans, question = prompt.ids, prompt.needle_spans, prompt.question_span
        with parallel_scans(), implementation(self.net):
            trace = on.trace if on else None
            answer = decode.generate(self, ids, rule, spans, recipe, max_new_tokens, trace, question)
        if on:
            on.ran.update(PHASES)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))


def check_prompts(
    model: Model, prompts: Sequence[Prompt], conditions: Iterable[Resolved], recipe: Recipe | None, max_new_tokens: int
) -> None:
    """Refuse prompts for another model or recipe (None is any), and those on which one of the conditions cannot act."""
    check_made_for(model, prompts, recipe)
    checkpoints.check_tokens(model, [p.ids for p in prompts], max_new_tokens)
    for p, condition in product(prompts, conditions):
        reading = decode.prompt_tokens(model, p.ids, recipe or CORRECTED)
        needle = None if p.control else p.needle_spans
        condition.check_prompt(len(p.ids), reading, max_new_tokens, needle, p.question_span)


def load(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    weights: str = "checkpoint",
    revision: str | None = None,
    device_map: str | None = None,
    machine: Machine | None = None,
) -> Model:
    """Load a hybrid: safetensors only, never code of a repository, and weights that fit are downloaded only.

    Parameters
    ----------
    name : one of our small models (``hybret models`` lists them), ``"random-griffin"``, ``"random-jamba"`` or a family
        of `hybret.families.FAMILIES` such as ``"bamba"`` (tiny, random weights), a Hugging Face id such as
        ``"google/recurrentgemma-2b"``, or a folder with config.json and safetensors.
    device : ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; ``"auto"`` takes a GPU when there is one, and all of them when
        the weights do not fit on the first (as ``device_map="auto"``).
    dtype : ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``: float32 for our small models and on the CPU,
        bfloat16 (the authors') for other models on a GPU.
    seed : of random weights.
    weights : ``"checkpoint"``; or ``"random"``, as ``"random:"`` before the name: one of the paper's models or that of
        a folder with config.json is built at full size without any download, to measure time and memory. The tokenizer
        is a small model's (fewer tokens, so a length holds less text), answers mean nothing, and the digest begins with
        ``"random"``.
    revision : commit, tag or branch of a Hugging Face id, as ``@`` behind it; default the newest. Rows carry it in the
        model's name: ``"google/recurrentgemma-2b@2a4c..."``.
    device_map : ``"auto"`` or ``"balanced"`` spreads the layers over all GPUs with accelerate; `device` is not used.
    machine : devices and memory to decide by; default this machine's.
    """
    version = transformers.__version__
    if Version(version) < Version(OLDEST_TRANSFORMERS):
        raise HybretError(f"transformers {version} is too old; install transformers>={OLDEST_TRANSFORMERS}")
    text("model", name)
    integer("seed", seed, 0, SEEDS)
    one_of("weights", weights, ("checkpoint", "random"))
    conform("revision", revision, str | None)
    machine = machine or Machine()
    place = machine.placement(device, device_map)
    src = checkpoints.resolve(name, weights == "random", revision)
    if isinstance(dtype, str) and dtype == "auto":
        dtype = "float32" if src.small or place.devices == ["cpu"] else "bfloat16"
    one_of("dtype", dtype, ("float32", "bfloat16", "float16"))
    layers, heads = attention_layers(src.config, src.name)
    checkpoints.check_config(src.name, src.config)
    if not src.small:
        auto = device == "auto" and device_map is None
        with checkpoints.explained(src.name, "build"):
            place = machine.fitted(src.name, src.config, dtype, place, auto, read=not src.random)
    net, tokenizer = _build(src, place, dtype, seed)
    # Chat models name their end of turn in the generation config alone.
    ends = src.config.eos_token_id, net.generation_config.eos_token_id
    seeded = src.random and (name not in RANDOM_MODELS or weights == "random")
    grid: dict[str, Any] = {"lengths": ORGANISM_LENGTHS, "buffer": ORGANISM_BUFFER} if src.small else {}
    return Model(
        name=src.name,
        net=net,
        tokenizer=tokenizer,
        family=src.config.model_type,
        heads=heads,
        attention_layers=layers,
        window=window_of(net),
        instruct=getattr(tokenizer, "chat_template", None) is not None,
        digest=f"random{seed:06d}" if seeded else digest_of(net.state_dict()),
        checksum=checksum(net),
        embedded=src.kind == "organism",
        eos=frozenset(i for ids in ends if ids is not None for i in (ids if isinstance(ids, list) else [ids])),
        **grid,
    )


def _build(src: checkpoints.Source, place: Placement, dtype: str, seed: int) -> tuple[Any, Any]:
    """Network and tokenizer, checked."""
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    info: dict[str, Any] | None = None
    files: dict[str, Any] = {"revision": src.revision or "main", "trust_remote_code": False}
    tokenizer = checkpoints.tokenizer_of(src, **files)
    with checkpoints.explained(src.name), _quiet(bars=sys.stderr.isatty() and not (src.small or src.random)):
        if not src.random:
            # Tensors of another shape are met below, with their names.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                src.location, config=src.config, use_safetensors=True, device_map=place.device_map,
                output_loading_info=True, ignore_mismatched_sizes=True, **files, **options,
            )  # fmt: skip
            net, info = loaded
        elif place.spread:  # a checkpoint without weights: transformers spreads the layers and fills in all of them
            torch.manual_seed(seed)
            net = type(skeleton(src.config)).from_pretrained(
                None, config=src.config, state_dict={}, device_map=place.device_map, **options
            )
        else:
            torch.manual_seed(seed)
            with torch.device(place.devices[0]):
                net = AutoModelForCausalLM.from_config(src.config, **options)
    if place.spread:
        check_on_gpus(src.name, net)
    if not net._can_set_attn_implementation():
        raise HybretError(f"{src.name!r} does not use transformers' attention interface; choose another family")
    checkpoints.check_loaded(src.name, net, tokenizer, info)
    return net.eval() if place.spread else net.eval().to(place.devices[0]), tokenizer


@contextmanager
def _quiet(bars: bool) -> Iterator[None]:
    """Hide transformers' report of tensors that do not fit, which hybret refuses, and its bars where nobody looks."""
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
