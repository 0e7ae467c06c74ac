"""The training recipes of the organisms, and of an attention-free twin.

One command trains the model from scratch on documents that the project itself writes::

    python -m hybret.organisms.train --name griffin-tiny --minutes 8 --out runs/griffin-tiny

It writes `OUT/model` (an ordinary Hugging Face folder, bf16), `OUT/log.jsonl` (one JSON object per line) and
`OUT/resume` (what `--resume OUT` needs beside the model, in files the size of the model), all of them again at every
evaluation: an interrupted run loses a fifth of the training at most. The batch of a step depends
on the seed and the step alone, never on the number of worker processes. A run that is limited by time cannot be
repeated exactly, because its learning rate follows the clock; its log says how many steps it did, and `--steps` with
that number repeats it with a schedule by steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hybret.engine.scan import parallel_scans
from hybret.errors import HybretError
from hybret.organisms.checkpoint import load, save, saved_state
from hybret.organisms.experts import dense_experts
from hybret.organisms.feeding import batches
from hybret.organisms.probe import probe
from hybret.organisms.tokenizer import ASSISTANT, train_tokenizer
from hybret.organisms.training import RECIPES, Training


def build(training: Training) -> Any:
    """The untrained model in fp32; the same seed gives the same weights."""
    torch.manual_seed(training.seed)
    fields = {name: value for name, value in training.config.items() if name != "model_type"}
    config = AutoConfig.for_model(training.family, **fields)
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()


def causal_mask(length: int, window: int, device: torch.device) -> Tensor:
    """What a token may attend to, shape (1, 1, length, length): itself and the window - 1 tokens before it.

    Made once per length: transformers would build it anew in every step, and wait for the GPU to do so.
    """
    at = torch.arange(length, device=device)
    distance = at[:, None] - at
    return ((distance >= 0) & (distance < window))[None, None]


def answer_tokens(ids: Tensor, marker: Sequence[int], eos: int) -> Tensor:
    """Whether a token belongs to an answer: after the marker of an assistant's turn up to its `eos`, shape of `ids`."""
    size, at = len(marker), torch.arange(ids.shape[1], device=ids.device)
    opened = torch.zeros_like(ids)
    matches = torch.stack([ids[:, i : ids.shape[1] - size + 1 + i] == token for i, token in enumerate(marker)]).all(0)
    opened[:, size - 1 :] = matches * at[size - 1 :]
    closed = (ids == eos) * at
    inside = opened.cummax(1).values > closed.cummax(1).values
    return F.pad(inside[:, :-1], (1, 0))


def loss_of(hidden: Tensor, head: Tensor, cap: float | None, ids: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy (nats) of each next token, weighted by the tokens' own weights, if any.

    The soft cap, if any, and the softmax are in fp32.
    """
    logits = F.linear(hidden[:, :-1], head).float()
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    if weights is None:
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (each * weights).sum() / weights.sum()


def optimizer_of(training: Training, model: torch.nn.Module, fused: bool) -> torch.optim.AdamW:
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in named if not (p.ndim >= 2 and "embed" not in name)]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.lr, betas=training.betas, fused=fused)


def train(
    training: Training,
    out: str | Path,
    *,
    session: float | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    compiled: bool = False,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Train an organism and write it to a folder.

    Parameters
    ----------
    training : what to compute.
    out : folder to write to; it must not hold another run.
    session : stop after this many minutes, for the rest to be done by a resumed run.
    resume : `out` of an earlier run of the same organism. Its steps and time count as done; give a longer `training` to
        go on beyond its end.
    device : default CUDA, which must be there then; ``"cpu"`` serves small models only.
    workers : processes that write documents; default all cores but two (none on the CPU).
    compiled : run the layers through torch.compile.
    say : called with each line of progress.

    Returns
    -------
    dict : the last line of the log (`step`, `seconds`, `tokens`, `loss` in nats, ...).

    Raises
    ------
    HybretError
        On bad input, before any training.
    """
    training.check()
    if session is not None and session <= 0:
        raise HybretError(f"A session needs a positive number of minutes, got {session}.")
    out = Path(out)
    if (out / "log.jsonl").exists():
        raise HybretError(f"{out} already holds a training run; give another folder for this one.")
    if device is None and not torch.cuda.is_available():
        raise HybretError("Training needs a CUDA GPU and none was found; --smoke tries the recipe on the CPU.")
    target = torch.device(device or "cuda")
    cuda = target.type == "cuda"
    workers = (max(1, (os.cpu_count() or 1) - 2) if cuda else 0) if workers is None else workers
    state: dict[str, Any] = {"name": training.name, "step": 0, "seconds": 0.0, "tokens": 0}
    if resume is not None:
        state = saved_state(Path(resume), training)
    if training.done(state) >= 1:
        raise HybretError(f"Nothing left to train: {state['step']} steps are done; give more minutes or steps.")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # worker processes are forked
    tokenizer: Any
    if resume is None:
        tokenizer = train_tokenizer(training.seed, training.config["vocab_size"], training.paragraphs, training.chat)
    else:
        tokenizer = AutoTokenizer.from_pretrained(Path(resume) / "model")
    source = batches(training, tokenizer, state["step"], workers)
    first = next(source)  # starts the workers, before this process touches the GPU
    model: Any = build(training)
    model.to(target)
    optimizer = optimizer_of(training, model, fused=cuda)
    if resume is not None:
        load(Path(resume), state["step"], model, optimizer)
    out.mkdir(parents=True, exist_ok=True)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    parameters = sum(p.numel() for p in model.parameters())
    start = {
        "event": "start", **state, "parameters": parameters, "batch_tokens": training.batch_tokens,
        "versions": versions,
        "device": torch.cuda.get_device_name(target) if cuda else platform.processor() or "cpu", "workers": workers,
        "compiled": compiled, "resumed": resume is not None, "training": asdict(training),
    }  # fmt: skip
    with (out / "log.jsonl").open("w") as log, closing(source):

        def record(line: dict[str, Any]) -> dict[str, Any]:
            log.write(json.dumps(line) + "\n")
            log.flush()
            say(_short(line))
            if line["event"] in ("evaluation", "end"):
                save(out, model, tokenizer, optimizer, state)
            return line

        record(start)
        with parallel_scans(), dense_experts():
            last = _loop(
                training, model, tokenizer, optimizer, chain([first], source), state, session, compiled, record
            )
    return last


def _masks(config: Any, length: int, device: torch.device) -> Any:
    """The attention mask of a batch without padding, in the form that the family takes."""
    window = getattr(config, "attention_window_size", None)
    if window is None:  # global attention: none given, attention is causal by itself
        return {"full_attention": None, "linear_attention": None}
    return causal_mask(length, window, device)


def _short(line: Mapping[str, Any]) -> str:
    """A line of the log for the eye: of the probe only the rates of exact answers, attention on / zeroed."""
    words = []
    for key, value in line.items():
        if key == "probe":
            words += [
                f"{group} " + "/".join(f"{c['exact']:.2f}" for c in found.values()) for group, found in value.items()
            ]
        elif key != "training":
            words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)


def _loop(
    training: Training, model: Any, tokenizer: Any, optimizer: Any, source: Iterator[np.ndarray], state: dict[str, Any],
    session: float | None, compiled: bool, record: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The steps; updates `state` and returns the last line of the log."""
    device, config = model.device, model.config

    def mixed() -> Any:
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    masks = {length: _masks(config, length, device) for length in training.all_lengths}
    marker = tokenizer(ASSISTANT.lstrip(), add_special_tokens=False)["input_ids"]
    compute_loss = loss_of
    if compiled:
        torch._dynamo.config.cache_size_limit = 64  # one compilation per kind of layer and length
        compute_loss = torch.compile(loss_of, dynamic=False)
        for layer in model.model.layers:
            layer.compile(dynamic=False)

    def gradients(ids: Tensor) -> Tensor:
        # Entered anew for every step: autocast keeps the bf16 weights that it has made until it is left.
        with mixed():
            hidden = model.model(ids, attention_mask=masks[ids.shape[1]], use_cache=False).last_hidden_state
            weights = None
            if training.answers != 1:
                weights = 1 + (training.answers - 1) * answer_tokens(ids, marker, config.eos_token_id).float()
            loss = compute_loss(hidden, model.lm_head.weight, getattr(config, "logits_soft_cap", None), ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    began = time.perf_counter()
    for length in training.all_lengths:  # kernels are chosen and compiled before the clock starts
        gradients(torch.ones(training.batch_tokens // length, length, dtype=torch.long, device=device))
    record({"event": "ready", "seconds": time.perf_counter() - began})

    before, first, lap = state["seconds"], state["step"], time.perf_counter()
    began, losses, waited, loss = lap, torch.zeros((), device=device), 0.0, None
    evaluated = int(5 * training.done(state))
    while training.done(state) < 1 and (session is None or time.perf_counter() - began < 60 * session):
        asked = time.perf_counter()
        ids = torch.from_numpy(next(source).astype(np.int64))
        waited += time.perf_counter() - asked
        ids = ids.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else ids
        # Adam's moments are fresh or rounded at the start of every run, so each one warms up.
        rate = training.rate(training.done(state)) * min(1.0, (state["step"] - first + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses += gradients(ids)
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        state["step"] += 1
        state["tokens"] += ids.numel()
        state["seconds"] = before + time.perf_counter() - began
        if state["step"] % training.every == 0 or training.done(state) >= 1:
            steps = (state["step"] - first - 1) % training.every + 1
            loss = losses.item() / steps  # waits for the GPU, so the time below is what the steps took
            now = time.perf_counter()
            full = int(5 * training.done(state)) > evaluated
            evaluated = int(5 * training.done(state))
            # The probe's shapes differ from the training's; compiling for them would take longer than they run.
            with mixed(), torch.compiler.set_stance("force_eager"):
                found = probe(model, tokenizer, full)
            record({
                "event": "evaluation" if full else "step", **state, "fraction": training.done(state),
                "lr": rate, "loss": loss,
                "tokens_per_second": steps * training.batch_tokens / (now - lap), "waited": waited / (now - lap),
                "probe": found,
            })  # fmt: skip
            losses.zero_()
            waited, lap = 0.0, time.perf_counter()
    return record({"event": "end", **state, "fraction": training.done(state), "loss": loss})


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (0, or 2 after one sentence on bad input)."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.train", description="Train an embedded model.")
    parser.add_argument("--name", default="griffin-tiny", choices=list(RECIPES))
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="length of the whole training in minutes (default 8)")
    length.add_argument("--steps", type=int, help="length of the whole training in steps")
    parser.add_argument("--session", type=float, help="stop this run after so many minutes, to be resumed")
    parser.add_argument("--resume", type=Path, help="--out of an earlier run to go on from")
    parser.add_argument("--attention-free", action="store_true", help="train the twin without attention layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda (default) or cpu")
    parser.add_argument("--workers", type=int, help="processes that write documents (default all cores but two)")
    parser.add_argument("--compile", action="store_true", help="run the layers through torch.compile")
    parser.add_argument("--smoke", action="store_true", help="three steps of a small model on the CPU")
    given = parser.parse_args(arguments)
    training = replace(RECIPES[given.name], seed=given.seed)
    if given.minutes is not None or given.steps is not None:
        training = replace(training, minutes=given.minutes, steps=given.steps)
    try:
        if given.attention_free:
            training = training.attention_free()
        if given.smoke:
            training = training.smoke()
        train(
            training, given.out, session=given.session, resume=given.resume, workers=given.workers,
            device="cpu" if given.smoke else given.device, compiled=given.compile,
        )  # fmt: skip
    except HybretError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
