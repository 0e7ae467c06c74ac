"""Loading hybrids: organisms shipped with hybret, random ones, and any Hugging Face folder or id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from . import asked, portrait
from .anatomy import attention_layers, digest, ends
from .engine.placing import Elsewhere, device_of, placement, random_net, require_on_gpus, several, spread
from .engine.sizing import require_room
from .errors import HybretError
from .families import FAMILIES
from .presets import RANDOM, RANDOM_MODELS, head_counts
from .progress import hidden
from .soundness import require_finite, require_fit, require_tokens, require_vocabulary, require_whole
from .sources import CHECKPOINTS as CHECKPOINTS
from .sources import configuration, organisms, said, source_of, tokenizer_folder

if TYPE_CHECKING:
    from .prompts import Prompt

# Before 5.13 RecurrentGemma is non-causal past its window when a cache is used (measured).
OLDEST_TRANSFORMERS = "5.13.1"
# DeepMind's sampler attends to window + 1 positions: with 2049 transformers agrees with it to 1e-5, with 2048 logits
# differ by up to 2.2 past the window (small random models). Models trained with transformers keep their window.
DEEPMIND_WINDOW = 2049

PAPER_LENGTHS = (250, 677, 1105, 1532, 1959, 2387, 2814, 3241, 3669, 4096)
PAPER_BUFFER = 200
# The paper's longest prompt is two windows; so is the organisms'. The shortest holds the needle and some prose.
ORGANISM_LENGTHS = (128, 171, 213, 256, 299, 341, 384, 427, 469, 512)
ORGANISM_BUFFER = 40


@dataclass
class Model:
    """A hybrid that is ready to be measured.

    Attributes
    ----------
    name : str
    net : transformers.PreTrainedModel
        In eval mode.
    tokenizer : transformers.PreTrainedTokenizerBase
    family : str
        transformers' model type, e.g. ``"recurrent_gemma"`` or ``"jamba"``.
    heads : int
        Query heads per attention layer.
    attention_layers : tuple of int
        Layer indices, from 0.
    window : int or None
        Keys that a query sees, itself included; None for global attention.
    instruct : bool
        Whether prompts go through the chat template.
    digest : str
        First 12 hex digits of the SHA-256 over the weights: stored with every row.
    lengths : tuple of int
        Length labels of the default grid, in tokens.
    buffer : int
        Tokens that a length label reserves for everything around haystack and needle.
    embedded : bool
        One of the small models that hybret trained itself.
    """

    name: str
    net: Any
    tokenizer: PreTrainedTokenizerBase
    family: str
    heads: int
    attention_layers: tuple[int, ...]
    window: int | None
    instruct: bool
    digest: str
    lengths: tuple[int, ...] = PAPER_LENGTHS
    buffer: int = PAPER_BUFFER
    embedded: bool = False
    eos: frozenset[int] = field(default=frozenset())

    def __repr__(self) -> str:
        return portrait.line(self)

    def _repr_html_(self) -> str:
        return portrait.html(self)

    @property
    def device(self) -> torch.device:
        return self.net.device if isinstance(self.net, Elsewhere) else self.net.get_input_embeddings().weight.device

    @property
    def dtype(self) -> str:
        return str(self.net.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(p.numel() for p in self.net.parameters())

    @property
    def made_up(self) -> bool:
        """Whether the weights are random, so that nothing it answers means anything."""
        return self.name in RANDOM_MODELS or self.digest.startswith(RANDOM[:-1])

    @property
    def ks(self) -> tuple[int, ...]:
        """Numbers of heads to keep in the book's curves (`head_counts`)."""
        return head_counts(self.heads, self.embedded)

    def generate(self, prompt: Prompt | str, max_new_tokens: int = 40) -> str:
        """Greedy answer to one prompt, under the intervention that `hybret.attach` put on this model, if any.

        Parameters
        ----------
        prompt : Prompt or str
            A plain string has no needle.
        max_new_tokens : int

        Returns
        -------
        str
            The answer before EOS.

        Raises
        ------
        HybretError
            The attached intervention cannot act: its needle is not there (in a control it need not be), or its phase
            has no token.
        """
        from .engine import acting, generation
        from .engine.scan import parallel_scans
        from .engine.tracing import attached, implementation
        from .interventions import PHASES, Keep
        from .recipe import CORRECTED

        asked.whole("max_new_tokens", max_new_tokens, 1)
        on = attached(self.net)
        rule, recipe = (on.intervention, on.recipe) if on else (Keep(), CORRECTED)
        ids: Sequence[int]
        if not isinstance(prompt, str) and hasattr(prompt, "needle_spans"):
            ids, spans, question = prompt.ids, prompt.needle_spans, prompt.question_span
        else:
            ids, spans, question = self.tokenizer(asked.text("prompt", prompt)).input_ids, (), None
        require_tokens(self, [ids], max_new_tokens)
        reading, control = generation.prompt_tokens(self, ids, recipe), not isinstance(prompt, str) and prompt.control
        acting.require(self, recipe, rule, len(ids), reading, max_new_tokens, None if control else spans)
        with parallel_scans(), implementation(self.net):
            answer = generation.generate(
                self,
                ids,
                rule,
                spans,
                recipe,
                max_new_tokens,
                on.trace if on else None,
                question,
            )
        if on:
            on.ran.update(PHASES)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))


def named(names: str) -> list[str]:
    """The models of a comma-separated list, in its order; nothing is loaded.

    Raises
    ------
    HybretError
        If the list is empty, names a model twice, or names one that `load` does not know.
    """
    if not isinstance(names, str):
        raise HybretError(f"model is {names!r}; give a text, several models separated by commas")
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found or len(set(found)) < len(found):
        raise HybretError(f"{names!r} must name at least one model, each once, separated by commas")
    for name in found:
        if name not in (*RANDOM_MODELS, *FAMILIES):
            source_of(name.removeprefix(RANDOM))
    return found


def load(
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    seed: int = 0,
    weights: str = "checkpoint",
    revision: str | None = None,
    device_map: str | None = None,
) -> Model:
    """Load a hybrid.

    Only safetensors are read and no code of a repository runs. Whether the weights fit is asked before anything is
    built, and before they are downloaded.

    Parameters
    ----------
    name : str
        An organism (``hybret models`` lists them), ``"random-griffin"`` / ``"random-jamba"`` or a family of
        `hybret.families.FAMILIES` such as ``"bamba"`` (tiny, random weights), a Hugging Face id such as
        ``"google/recurrentgemma-2b"``, or a folder with config.json and safetensors. ``"random:"`` before one of the
        paper's models or a folder is the same as ``weights="random"``.
    device : str
        ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...; ``"auto"`` takes a GPU when there is one, and all of them when the
        weights do not fit on the first (as ``device_map="auto"``).
    dtype : {"auto", "float32", "bfloat16", "float16"}
        ``"auto"``: float32 for organisms and on the CPU, bfloat16 (the authors') for other models on a GPU.
    seed : int
        Of random weights.
    weights : {"checkpoint", "random"}
        ``"random"`` builds one of the paper's models, or the model of a folder with config.json, at its full size on
        the device and without any download: for measuring time and memory. The tokenizer is an organism's: the same
        interface and fewer tokens, so a prompt of a given length holds less text. What the model answers means
        nothing; its name begins with ``"random:"`` and its digest with ``"random"``.
    revision : str, optional
        Commit, tag or branch of a Hugging Face id; default the newest. A commit pins the weights. The same in the name:
        ``"google/recurrentgemma-2b@2a4c..."``, which rows then carry.
    device_map : {"auto", "balanced"}, optional
        Spread the layers over all GPUs (accelerate does, which must be installed). `device` is then not used.

    Returns
    -------
    Model

    Raises
    ------
    HybretError
        Unknown model, device, dtype or revision; no access or network; not enough memory; no safetensors; transformers
        too old; no attention layers; no attention interface.
    """
    if Version(transformers.__version__) < Version(OLDEST_TRANSFORMERS):
        raise HybretError(
            f"transformers {transformers.__version__} is too old: its recurrent models do not go through the attention "
            f"interface correctly; install transformers>={OLDEST_TRANSFORMERS}"
        )
    asked.text("model", name)
    asked.seed(seed)
    asked.one_of("weights", weights, ("checkpoint", "random"))
    devices = spread(device_map) if device_map is not None else [device_of(device)]
    if name.startswith(RANDOM) or name in FAMILIES:
        name, weights = name.removeprefix(RANDOM), "random"
    tiny = name in (*RANDOM_MODELS, *FAMILIES)
    small = name in organisms() or tiny
    if isinstance(dtype, str) and dtype == "auto":
        dtype = "float32" if small or devices == ["cpu"] else "bfloat16"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise HybretError(f"unknown dtype {dtype!r}; choose auto, float32, bfloat16 or float16")
    if revision is not None:
        asked.text("revision", revision)
    made_up = tiny or weights == "random"
    source = str(tokenizer_folder()) if made_up else source_of(name)
    if not Path(source).exists():
        revision = revision or name.partition("@")[2] or None
    elif revision is not None:
        raise HybretError(f"{name!r} has no revisions here; only the weights of a Hugging Face id have")
    config = configuration(name, made_up, revision)
    layers, heads = attention_layers(config, name)
    if not small and config.model_type == "recurrent_gemma" and config.attention_window_size == DEEPMIND_WINDOW - 1:
        config.attention_window_size = DEEPMIND_WINDOW
    require_fit(name, config)
    if not small:
        if device == "auto" and device_map is None and (device_map := several(config, dtype)):
            devices = spread(device_map)
        with said(name, source, "build"):
            require_room(name, config, dtype, devices)
        if not made_up and devices != ["cpu"] and placement(devices, device_map) is None:
            require_room(name, config, dtype, ["cpu"])  # without accelerate the weights are read there first
    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "attn_implementation": "eager"}
    with said(name, source), hidden(small):
        if made_up:
            net = random_net(config, devices, device_map, seed, options)
        else:
            # What does not fit is looked at below, and said in one sentence with the tensor's name.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, use_safetensors=True, trust_remote_code=False, revision=revision or "main",
                device_map=placement(devices, device_map), output_loading_info=True, ignore_mismatched_sizes=True,
                **options,
            )  # fmt: skip
            net, info = loaded
            require_whole(name, info)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision or "main", trust_remote_code=False)
        tokenizer("a")  # settings that break the first text are met here, and not in a sweep
    if device_map:
        require_on_gpus(name, net)
    if not net._can_set_attn_implementation():
        raise HybretError(
            f"{name!r} ({config.model_type}) does not use transformers' attention interface, which hybret needs; "
            "choose a family that does, or a newer transformers"
        )
    require_vocabulary(name, net, tokenizer)
    if not made_up:
        require_finite(name, net)
    return Model(
        name=name if tiny or not made_up else f"{RANDOM}{name}",
        net=net.eval() if device_map else net.eval().to(devices[0]),
        tokenizer=tokenizer,
        family=config.model_type,
        heads=heads,
        attention_layers=layers,
        window=getattr(config, "sliding_window", None),
        instruct=getattr(tokenizer, "chat_template", None) is not None,
        digest=f"random{seed:06d}" if weights == "random" else digest(net),
        lengths=ORGANISM_LENGTHS if small else PAPER_LENGTHS,
        buffer=ORGANISM_BUFFER if small else PAPER_BUFFER,
        embedded=name in organisms(),
        eos=ends(config.eos_token_id, net.generation_config.eos_token_id),
    )
