"""Loading hybrids: organisms shipped with hybret, random ones, and any Hugging Face folder or id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from hybret import checkpoints
from hybret.checkpoints import CHECKPOINTS, named, organisms
from hybret.devices import Machine, Placement, check_on_gpus, skeleton
from hybret.engine import decode
from hybret.engine.attach import attached, implementation
from hybret.engine.scan import parallel_scans
from hybret.errors import SEEDS, HybretError, integer, one_of, text
from hybret.families import RANDOM_MODELS, attention_layers
from hybret.hybrid import ORGANISM_BUFFER, ORGANISM_LENGTHS, PAPER_BUFFER, PAPER_LENGTHS, Hybrid
from hybret.interventions import PHASES, Keep
from hybret.prompts import Prompt
from hybret.recipe import CORRECTED
from hybret.resolving import resolve
from hybret.tasks.encoding import check_tokenizer

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
        if isinstance(prompt, Prompt):
            check_tokenizer(self, [prompt])
            ids, spans, question, control = prompt.ids, prompt.needle_spans, prompt.question_span, prompt.control
        else:
            ids, spans, question, control = self.tokenizer(text("prompt", prompt)).input_ids, (), None, False
        checkpoints.check_prompts(self, [ids], max_new_tokens)
        reading, resolved = decode.prompt_tokens(self, ids, recipe), resolve(rule, self, recipe)
        resolved.check_prompt(len(ids), reading, max_new_tokens, None if control else spans, question)
        with parallel_scans(), implementation(self.net):
            trace = on.trace if on else None
            answer = decode.generate(self, ids, rule, spans, recipe, max_new_tokens, trace, question)
        if on:
            on.ran.update(PHASES)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))


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
    if Version(transformers.__version__) < Version(OLDEST_TRANSFORMERS):
        raise HybretError(
            f"transformers {transformers.__version__} is too old: its recurrent models do not go through the "
            f"attention interface correctly; install transformers>={OLDEST_TRANSFORMERS}"
        )
    text("model", name)
    integer("seed", seed, 0, SEEDS)
    one_of("weights", weights, ("checkpoint", "random"))
    if revision is not None:
        text("revision", revision)
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
    return Model(
        name=src.name,
        net=net,
        tokenizer=tokenizer,
        family=src.config.model_type,
        heads=heads,
        attention_layers=layers,
        window=checkpoints.window(net),
        instruct=getattr(tokenizer, "chat_template", None) is not None,
        digest=f"random{seed:06d}" if seeded else checkpoints.digest(net),
        checksum=checkpoints.checksum(net),
        lengths=ORGANISM_LENGTHS if src.small else PAPER_LENGTHS,
        buffer=ORGANISM_BUFFER if src.small else PAPER_BUFFER,
        embedded=src.kind == "organism",
        eos=frozenset(i for ids in ends if ids is not None for i in (ids if isinstance(ids, list) else [ids])),
    )


def _build(src: checkpoints.Source, place: Placement, dtype: str, seed: int) -> tuple[Any, Any]:
    """Network and tokenizer, checked."""
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    info: dict[str, Any] | None = None
    files: dict[str, Any] = {"revision": src.revision or "main", "trust_remote_code": False}
    with checkpoints.explained(src.name), _quiet(src.small or src.random):
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
        if not src.random:
            checkpoints.check_tokenizer_files(src)
        tokenizer = AutoTokenizer.from_pretrained(src.location, **files)
        tokenizer("a")  # settings that break the first text are met here, and not in a sweep
    if place.spread:
        check_on_gpus(src.name, net)
    if not net._can_set_attn_implementation():
        raise HybretError(
            f"{src.name!r} ({src.config.model_type}) does not use transformers' attention interface; choose a family "
            "that does, or a newer transformers"
        )
    checkpoints.check_loaded(src.name, net, tokenizer, info)
    return net.eval() if place.spread else net.eval().to(place.devices[0]), tokenizer


@contextmanager
def _quiet(hide: bool) -> Iterator[None]:
    """Hide transformers' bars and its list of missing weights: for weights that are small, or made."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if hide:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
