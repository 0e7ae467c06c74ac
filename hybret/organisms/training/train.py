"""Training of the small models, and of their attention-free controls.

One command trains a model from scratch on documents that the project itself writes::

    python -m hybret.organisms.training.train --name griffin-tiny --compile --out runs/griffin-tiny

It writes `OUT/model` (an ordinary Hugging Face folder, bf16), `OUT/log.jsonl` (one JSON object per line) and
`OUT/resume` (what `--resume OUT` needs beside the model, in files the size of the model), all of them again at every
evaluation: an interrupted run loses a fifth of the training at most. The batch of a step depends on the seed and the
step alone, never on the number of worker processes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from hybret.engine import recurrences
from hybret.engine.scan import parallel_scans
from hybret.errors import HybretError
from hybret.organisms.training import command
from hybret.organisms.training.checkpoint import load, save, saved_state, ship
from hybret.organisms.training.experts import dense_experts
from hybret.organisms.training.feeding import batch, batches, sources
from hybret.organisms.training.loss import answer_tokens, causal_mask, loss_of
from hybret.organisms.training.mimetic import copying
from hybret.organisms.training.probe import probe
from hybret.organisms.training.recipes import RECIPES, Training
from hybret.organisms.training.tokenizer import ANSWER, ASSISTANT, train_tokenizer

if recurrences.triton is not None:  # else the scans are PyTorch's, which have their gradients
    import hybret.organisms.training.scan_gradients  # noqa: F401


AVERAGED_EVERY = 4  # steps
HELD_OUT_STEPS = 1 << 20  # beyond any opening
SNAPSHOTS = (400, 500, 600, 700, 800, 900, 1000, 1250, 1500, 2000, 3000, 4500, 7000, 10000)
"""Steps after which `--snapshots` keeps the model, for `hybret.organisms.training.emergence`."""
PROBES, SAVES = 20, 5  # in a whole training: of everything, and with the averaged weights, which are saved


def build(training: Training) -> Any:
    """The untrained model in fp32; the same seed gives the same weights."""
    torch.manual_seed(training.seed)
    fields = {name: value for name, value in training.config.items() if name != "model_type"}
    config = AutoConfig.for_model(training.family, **fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
    return copying(model) if training.mimetic else model


def optimizer_of(training: Training, model: torch.nn.Module, fused: bool) -> torch.optim.AdamW:
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and "embed" not in name else others).append(p)
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
    snapshots: bool = False,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> dict[str, Any]:
    """Train a small model, write it to a folder, and return the last line of the log.

    Parameters
    ----------
    training : what to compute.
    out : folder to write to; it must not hold another run.
    session : stop after this many minutes, for the rest to be done by a resumed run.
    resume : `out` of an earlier run of the same model, whose steps count as done; more `steps` go on beyond its end.
    device : default CUDA, which must be there then; ``"cpu"`` serves small models only.
    workers : processes that write documents; default all cores but two (none on the CPU).
    compiled : run the layers through torch.compile.
    snapshots : keep the model as it was after each of `SNAPSHOTS` steps, in folders `step-N`.
    say : called with each line of progress.
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
        raise HybretError(f"Nothing left to train: {state['step']} steps are done; give more steps.")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # worker processes are forked
    tokenizer: Any
    if resume is None:
        tokenizer = train_tokenizer(0, training.config["vocab_size"], training.paragraphs, training.chat)
    else:
        tokenizer = AutoTokenizer.from_pretrained(Path(resume) / "model")
    source = batches(training, tokenizer, state["step"], workers)
    first = next(source)  # starts the workers, before this process touches the GPU
    model: Any = build(training)
    averaged = build(training).to(target)
    model.to(target)
    optimizer = optimizer_of(training, model, fused=cuda)
    if resume is not None:
        load(Path(resume), state["step"], model, averaged, optimizer)
    out.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    start = {
        "event": "start", **state, "parameters": sum(p.numel() for p in model.parameters()),
        "batch_tokens": training.batch_tokens, "versions": {"python": platform.python_version(), **versions},
        "device": torch.cuda.get_device_name(target) if cuda else platform.processor() or "cpu", "workers": workers,
        "compiled": compiled, "resumed": resume is not None, "training": asdict(training),
    }  # fmt: skip
    with (out / "log.jsonl").open("w") as log, closing(source):

        def record(line: dict[str, Any]) -> dict[str, Any]:
            log.write(json.dumps(line) + "\n")
            log.flush()
            say(_short(line))
            if line["event"] in ("evaluation", "end"):
                save(out, model, averaged, tokenizer, optimizer, state)
            return line

        record(start)
        with parallel_scans(), dense_experts():
            documents = chain([first], source)
            return _loop(
                training, model, averaged, tokenizer, optimizer, documents, state, session, compiled, record,
                out if snapshots else None,
            )  # fmt: skip


def _masks(family: str, length: int, window: int | None, device: torch.device) -> Any:
    """The attention mask of a batch without padding, in the form that the family takes."""
    mask = None if window is None else causal_mask(length, window, device)  # none: attention is causal by itself
    return {"full_attention": mask, "linear_attention": None} if family == "jamba" else mask


def _short(line: Mapping[str, Any]) -> str:
    """A line of the log for the eye: of the probe only the rates of exact answers, attention on / zeroed."""
    words = []
    for key, value in line.items():
        if key.startswith("probe"):
            words += [f"{group} " + "/".join(f"{c['exact']:.2f}" for c in of.values()) for group, of in value.items()]
        elif key != "training":
            words.append(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)


def _loop(
    training: Training, model: Any, averaged: Any, tokenizer: Any, optimizer: Any, source: Iterator[np.ndarray],
    state: dict[str, Any], session: float | None, compiled: bool, record: Callable[[dict[str, Any]], dict[str, Any]],
    snapshots: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """The steps; updates `state` and returns the last line of the log."""
    device, config = model.device, model.config

    def mixed() -> Any:
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    own = getattr(config, "attention_window_size", None)
    windows = training.windows or (own,)
    masks = {(n, w): _masks(training.family, n, w, device) for n in training.all_lengths for w in {own, *windows}}
    marker = tokenizer((ASSISTANT if training.chat else ANSWER).lstrip(), add_special_tokens=False)["input_ids"]
    compute_loss = loss_of
    if compiled:
        torch._dynamo.config.cache_size_limit = 64  # one compilation per kind of layer and length
        compute_loss = torch.compile(loss_of, dynamic=False)
        for layer in model.model.layers:
            layer.compile(dynamic=False)

    def gradients(ids: Tensor, window: int | None) -> Tensor:
        # Entered anew for every step: autocast keeps the bf16 weights that it has made until it is left.
        with mixed():
            hidden = model.model(ids, attention_mask=masks[ids.shape[1], window], use_cache=False).last_hidden_state
            weights = None
            if training.answers != 1:
                weights = 1 + (training.answers - 1) * answer_tokens(ids, marker, config.eos_token_id).float()
            loss = compute_loss(hidden, model.lm_head.weight, getattr(config, "logits_soft_cap", None), ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    # The same for every seed: no training counts its seeds from below 0.
    others = replace(training, seed=-1)
    made = sources(others, tokenizer)
    held_out = [torch.from_numpy(batch(others, made, HELD_OUT_STEPS + i).astype(np.int64)).to(device) for i in range(4)]

    @torch.no_grad()
    def compute_held_out(ids: Tensor) -> Tensor:
        hidden = averaged.model(ids, attention_mask=masks[ids.shape[1], own], use_cache=False).last_hidden_state
        return loss_of(hidden, averaged.lm_head.weight, getattr(config, "logits_soft_cap", None), ids, None)

    weights, means = ([p.detach() for p in m.parameters()] for m in (model, averaged))
    began = time.perf_counter()
    for length in training.all_lengths:  # kernels are chosen and compiled before the clock starts
        gradients(torch.ones(training.batch_tokens // length, length, dtype=torch.long, device=device), own)
    if device.type == "cuda":
        with mixed(), torch.compiler.set_stance("force_eager"):
            probe(model, tokenizer, full=True)  # writes the prompts, which takes as long as a hundred steps
    record({"event": "ready", "seconds": time.perf_counter() - began})

    before, first, lap = state["seconds"], state["step"], time.perf_counter()
    began, losses, waited, loss = lap, torch.zeros((), device=device), 0.0, None
    evaluated, last = training.done(state), False
    while not last:
        asked = time.perf_counter()
        ids = torch.from_numpy(next(source).astype(np.int64))
        waited += time.perf_counter() - asked
        ids = ids.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else ids
        # Adam's moments are fresh or rounded at the start of every run, so each one warms up.
        rate = training.rate(training.done(state)) * min(1.0, (state["step"] - first + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses += gradients(ids, random.Random(f"window {training.seed} {state['step']}").choice(windows))
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        state["step"] += 1
        if state["step"] % AVERAGED_EVERY == 0:
            share = min(1.0, AVERAGED_EVERY / (training.averaged * state["step"]))
            torch._foreach_lerp_(means, weights, share)
        state["tokens"] += ids.numel()
        state["seconds"] = before + time.perf_counter() - began
        if snapshots and state["step"] in SNAPSHOTS:
            ship(snapshots / f"step-{state['step']}", averaged, tokenizer)
        last = training.done(state) >= 1 or (session is not None and time.perf_counter() - began >= 60 * session)
        if state["step"] % training.every == 0 or last:
            steps = (state["step"] - first - 1) % training.every + 1
            loss = losses.item() / steps  # waits for the GPU, so the time below is what the steps took
            ended = time.perf_counter()
            full, saves = (last or int(n * training.done(state)) > int(n * evaluated) for n in (PROBES, SAVES))
            evaluated = training.done(state)
            # The probe's shapes differ from the training's; compiling for them would take longer than they run.
            with mixed(), torch.compiler.set_stance("force_eager"):
                probes: dict[str, Any] = {"probe": probe(model, tokenizer, full)}
                if saves:
                    probes["probe_averaged"] = probe(averaged, tokenizer, full=True)
                    probes["held_out_loss"] = float(torch.stack([compute_held_out(ids) for ids in held_out]).mean())
            record({
                "event": "evaluation" if saves else "step", **state, "fraction": training.done(state),
                "lr": rate, "loss": loss,
                "tokens_per_second": steps * training.batch_tokens / (ended - lap), "waited": waited / (ended - lap),
                **probes,
            })  # fmt: skip
            losses.zero_()
            waited, lap = 0.0, time.perf_counter()
    return record({"event": "end", **state, "fraction": training.done(state), "loss": loss})


@command
def main(arguments: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.training.train", description="Train a model.")
    parser.add_argument("--name", default="griffin-tiny", choices=list(RECIPES))
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("--steps", type=int, help="length of the whole training (default: the recipe's)")
    parser.add_argument("--session", type=float, help="stop this run after so many minutes, to be resumed")
    parser.add_argument("--resume", type=Path, help="--out of an earlier run to go on from")
    parser.add_argument("--attention-free", action="store_true", help="train the control without attention layers")
    parser.add_argument("--windows", type=int, nargs="+", help="attention windows, one drawn for every batch")
    parser.add_argument("--mimetic", action="store_true", help="start Mamba layers as recurrences that copy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda (default) or cpu")
    parser.add_argument("--workers", type=int, help="processes that write documents (default all cores but two)")
    parser.add_argument("--compile", action="store_true", help="run the layers through torch.compile")
    parser.add_argument("--snapshots", action="store_true", help="keep the model after several numbers of steps")
    parser.add_argument("--smoke", action="store_true", help="three steps of a small model on the CPU")
    options = parser.parse_args(arguments)
    recipe, windows = RECIPES[options.name], tuple(options.windows or ())
    steps = recipe.steps if options.steps is None else options.steps
    training = replace(recipe, seed=options.seed, mimetic=options.mimetic, windows=windows, steps=steps)
    if options.attention_free:
        training = training.attention_free()
    if options.smoke:
        training = training.smoke()
    train(
        training, options.out, session=options.session, resume=options.resume, workers=options.workers,
        device="cpu" if options.smoke else options.device, compiled=options.compile, snapshots=options.snapshots,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
