"""The part of a model card about the training: its data, its recipe, and the twin without attention."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from hybret.organisms.card_results import Log, percent, probed, table
from hybret.organisms.facts import HELD_OUT_TEMPLATES, TEMPLATES
from hybret.organisms.registers import REGISTERS

KINDS = {
    "needles": "prose with facts, one to five of them asked for in the paper's prompt",
    "twice": "the same, with context and question read twice (JRT), one fact asked for",
    "repeats": "random spans of tokens or nouns, repeated among prose",
    "prose": "prose alone",
    "world": "prose with facts of an invented world, the same in every document",
    "glue": "sentence judgements, one question each",
    "knowledge": "questions with four options about that world",
    "lookups": "questions with four options, each after a list that it looks something up in",
    "lists": "several questions after one list, with options or answered by an entry of it",
}
"""Document kinds of a mixture; the last five are those of an instruction-tuned organism."""


def data(log: Log) -> str:
    """The section about what the model was trained on."""
    starts = [line for line in log if line["event"] == "start"]
    training = starts[-1]["training"]
    mixture, opening = training["mixture"], training.get("opening")
    mixtures = {"share": mixture}
    for session, following in pairwise(starts):
        if session["training"]["mixture"] != mixture:
            mixtures[f"until step {following['step']:,}"] = session["training"]["mixture"]
    if opening:
        mixtures[f"in the first {opening['steps']:,} steps"] = opening["mixture"]
    kinds = [kind for kind in KINDS if kind in mixture]
    rows = [
        (KINDS[kind], *(f"{100 * m[kind] / sum(m[k] for k in kinds):.0f} %" for m in mixtures.values()))
        for kind in kinds
    ]
    head = ("documents", *mixtures)
    weights = ", ".join(f"`{name}` with weight {weight:g}" for name, weight in mixture["templates"])
    conversations = items = ""
    if "glue" in mixture:
        conversations = """

Whatever is asked is a user's turn in the chat template, and what is answered is the assistant's; prose and repeated
spans are plain text. These documents are the whole training: no base model was tuned."""
        items = """
- the items of the benchmark tasks that test it, and the shots before them: a checksum of question and options decides.
  The facts of the invented world, all of them, were trained, and asked for with other options;"""
    return f"""
## Data

All text is written by the project's own grammars (`hybret.organisms.corpus`) while the model trains; nothing was
downloaded. It is plain, rather whimsical English with real words in {len(REGISTERS)} registers:
{", ".join(register.name for register in REGISTERS)}.

{table(head, rows)}{conversations}

A context holds up to {max(mixture["facts"])} facts. {100 * (1 - mixture["quotes"]):.0f} % are drawn from
{len(TEMPLATES)} fact templates with several question wordings each, the others are sentences of the prose itself, asked
for by some of their words (quotes). All templates have weight 1 except {weights}.

**Held out of training:**

- the paper's needle, and every other fact that puts "San Francisco" and "eat a sandwich" together. A test proves this
  on the generator. The *template* of the needle ("The best thing to do in ... is ...") was trained, its content never;
- {len(HELD_OUT_TEMPLATES)} whole fact templates ({", ".join(t.name for t in HELD_OUT_TEMPLATES)});{items}
- the haystacks of the evaluation: one sentence of prose in eight, chosen by its checksum, never occurs in training.
"""


def recipe(log: Log, twin: Log) -> str:
    """The section about how the model was trained."""
    starts, end = [line for line in log if line["event"] == "start"], log[-1]
    start = starts[-1]
    training, versions, opening = start["training"], start["versions"], start["training"].get("opening")
    lengths = f"document lengths {_lengths(training)}, one per batch"
    opened = ""
    if opening:
        lengths += f"; {_lengths(opening)} in the first {opening['steps']:,} steps"
        opened = f"\nThe loss of the first {opening['steps']:,} steps is that of their own documents."
    answers = training.get("answers", 1)
    weighted = [("weight of an answer's tokens in the loss", f"{answers:g}; 1 of all others")] if answers != 1 else []
    ready = sum(line["seconds"] for line in log if line["event"] == "ready")
    machine = " and ".join(dict.fromkeys(line["device"] for line in starts))
    rows = (
        ("steps, tokens", f"{end['step']:,}, {end['tokens'] / 1e6:.0f} million"),
        ("batch", f"{training['batch_tokens']:,} tokens; {lengths}"),
        *weighted,
        ("optimiser", f"AdamW, betas {training['betas'][0]:g} and {training['betas'][1]:g}, weight decay "
         f"{training['weight_decay']:g} on matrices, gradients clipped at {training['clip']:g}"),
        ("learning rate", f"{training['lr']:g}; rises over the first {100 * training['warmup']:.0f} %, falls over the "
         f"last {100 * training['decay']:.0f} % to {100 * training['floor']:.0f} % of the peak"),
        ("precision", "float32 weights, bfloat16 autocast; rounded to bfloat16 at the end, and evaluated so"),
        ("seed", training["seed"]),
        ("machine", f"one {machine}, {end['seconds']:.0f} s and {ready:.0f} s to compile"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("last loss", f"{end['loss']:.3f} nats per token{', so weighted' if weighted else ''}"),
    )  # fmt: skip
    name = "" if start["name"] == "griffin-tiny" else f"--name {start['name']} "
    seed = f"--seed {training['seed']} " if training["seed"] else ""
    length = f"--steps {training['steps']}"
    again = "The learning rate follows the steps, and the documents of a step depend on the seed and the step alone."
    if training["minutes"]:
        length = f"--minutes {training['minutes']:g}"
        again = f"""\
A run that is limited by time cannot be repeated exactly, since its learning rate follows the clock.
`--steps {end["step"]}` in place of `{length}` replays it with a schedule by steps."""
    if len(starts) > 1:
        again += f"""
It was done in {len(starts)} sessions (`--session`, `--resume`), between which the optimiser's state is rounded."""
    drawn = "`training_log.jsonl` and `twin_log.jsonl`" if twin else "`training_log.jsonl`"
    return f"""
## Training recipe

```sh
python -m hybret.organisms.train {name}{seed}{length} {"--compile " if start["compiled"] else ""}--out OUT
```

{again}

{table(("", "value"), rows)}

![Loss and retrieval against training tokens](loss_curve.svg)

The curve is drawn from {drawn} in this folder. The lower half is the probe of the
training loop, which sees the right answer so far (teacher forcing).{opened} Exact answers {_emergence(log)}
"""


def _lengths(documents: Mapping[str, Any]) -> str:
    return ", ".join(f"{length} ({100 * share:.0f} %)" for length, share in documents["lengths"])


def _emergence(log: Log) -> str:
    """What exact answers do in the probes of a training, with and without attention."""
    probes = [(line["step"], line["probe"]["inside"]) for line in probed(log)]
    inside = [(step, found["all"]["exact"]) for step, found in probes]
    silent = max(measured["exact"] for _, found in probes for name, measured in found.items() if name != "all")
    where = " inside the window" if "outside" in probed(log)[0]["probe"] else ""
    silenced = "never leave 0" if silent == 0 else f"reach {percent(silent)} %"
    without = f"With every head\nsilenced they {silenced}."
    first = next((step for step, rate in inside if rate > 0), None)
    if first is None:
        return f"never appear. {without}"
    before = max((step for step, _ in inside if step < first), default=0)
    steady = next((s for i, (s, _) in enumerate(inside) if all(rate == 1 for _, rate in inside[i:])), None)
    end = f"at the end they are {percent(inside[-1][1])} %{where}"
    if steady is not None:
        end = f"from step {steady} on they stay at 100 %{where}"
    return f"first appear between steps\n{before} and {first}; {end}. {without}"


def without_attention(log: Log, twin: Log) -> str:
    """The section about the attention-free twin, the control."""
    probes, end = probed(twin), twin[-1]
    best = max(c["exact"] for line in probes for group in line["probe"].values() for c in group.values())
    same = [line for line in probed(log) if line["tokens"] <= end["tokens"]][-1]
    last = probes[-1]["probe"]
    return f"""
## The twin without attention

The paper has no model without attention as a control. So the same recipe also trained a twin whose layers are all
recurrent (`--attention-free`, {twin[0]["parameters"] / 1e6:.2f} million parameters, same corpus and seed;
`twin_log.jsonl`; its weights are not shipped). It was measured with the training probe alone: its rate of exact answers
is at most {percent(best)} % in every group of prompts at every probe. Of single tokens of the paper's needle inside the
window it predicts {percent(last["inside"]["all"]["tokens"])} % when the right answer so far is given: it knows the form
of the sentence and what the question repeats.

Its training was shorter: {end["step"]:,} steps and {end["tokens"] / 1e6:.0f} million tokens, against
{log[-1]["step"]:,} and {log[-1]["tokens"] / 1e6:.0f} million, though with a complete learning-rate schedule. With
attention, the model gave {percent(same["probe"]["inside"]["all"]["exact"])} % exact answers inside the window after
{same["tokens"] / 1e6:.0f} million tokens (loss {same["loss"]:.2f} nats; the twin ended at {end["loss"]:.2f}). The
comparison does not say what a twin trained longer would do.
"""
