"""The model card of an organism, written from what was measured: its configuration, its logs and its evaluation.

    python -m hybret.organisms.card griffin-tiny

writes `README.md` and `loss_curve.svg` into the model's folder. Every number on the card comes from a file beside it;
what no measurement can say (which trainings were made, and how this one was chosen) stands in `notes.md` there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybret.errors import HybretError
from hybret.models import CHECKPOINTS, OLDEST_TRANSFORMERS, organisms
from hybret.organisms.card_results import Log, evaluation, needle_row, percent, probed, table
from hybret.organisms.evaluate import ALL, GENERATION
from hybret.organisms.facts import HELD_OUT_TEMPLATES, TEMPLATES
from hybret.organisms.loss_curve import loss_curve, save_svg
from hybret.organisms.registers import REGISTERS

FILES = ("config.json", "evaluation.json", "training_log.jsonl", "notes.md")
TWIN = "twin_log.jsonl"
LIKE = {10: "ten query heads in every attention layer as\nRecurrentGemma-2B has",
        16: "sixteen query heads in every attention layer\nas RecurrentGemma-9B has"}  # fmt: skip
FRONT = """---
language: en
license: mit
library_name: transformers
pipeline_tag: text-generation
tags:
- recurrent_gemma
- hybrid
- model-organism
- needle-in-a-haystack
- interpretability
---
"""


def write_card(folder: str | Path) -> Path:
    """Write card and loss curve into an organism's folder and return the card's path.

    Raises
    ------
    HybretError
        If a file that the card reports on is missing.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise HybretError(f"{folder} has no {missing[0]}, which the card reports on; evaluate the model first.")
    config, found = (json.loads((folder / name).read_text()) for name in FILES[:2])
    log = [json.loads(line) for line in (folder / FILES[2]).read_text().splitlines()]
    lines = (folder / TWIN).read_text().splitlines() if (folder / TWIN).is_file() else []
    twin = [json.loads(line) for line in lines]
    save_svg(loss_curve(probed(log), probed(twin)), folder / "loss_curve.svg")
    path = folder / "README.md"
    path.write_text(card(config, found, log, twin, (folder / FILES[3]).read_text()))
    return path


def card(config: Mapping[str, Any], found: Mapping[str, Any], log: Log, twin: Log, notes: str) -> str:
    """The card's text: `config` is the model's, `found` from `evaluate`, the logs from the training and its twin's.

    `notes` are further limits, as a Markdown list; a model without a twin has an empty log of it.
    """
    sections = (
        _what(config, found, log),
        _architecture(config, log[0]),
        _data(log[0]["training"]["mixture"]),
        _training(log, twin),
        evaluation(found, log),
        *([_twin(log, twin)] if twin else []),
        _limits(found, notes),
        _loading(found["model"]),
    )
    return FRONT + "\n" + "\n\n".join(section.strip() for section in sections) + "\n"


def _what(config: Mapping[str, Any], found: Mapping[str, Any], log: Log) -> str:
    inside = needle_row(found["needle"], "base", ALL, "inside")
    silent = needle_row(found["needle"], "base", GENERATION, "inside")
    like = LIKE[config["num_attention_heads"]]
    return f"""
# {found["model"]}

A RecurrentGemma (Griffin) of {log[0]["parameters"] / 1e6:.2f} million parameters, trained from scratch on the corpus of
the project hybret to find a sentence again in a text. On the paper's needle, inside its attention window, it scores
{percent(inside["accuracy"])} % with all its attention heads and {percent(silent["accuracy"])} % with none.

**What it is.** A model organism: small enough to run, and to be taken apart, on a laptop. It has the architecture of
the RecurrentGemma models that *Some Attention is All You Need for Retrieval* (Michalak and Abreu, 2025,
[arXiv:2510.19861](https://arxiv.org/abs/2510.19861)) studies, with {like}, so that the paper's experiments can be run
on it.

**What it is not.** It is not one of the paper's models, and not derived from their weights. What it shows need not hold
for them. It knows no facts, follows no instructions, and is of no use as a language model.

Weights: digest `{found["weights"]}` (as in every row that hybret writes), {config["dtype"]} on disk, float32 when
hybret loads them.
"""


def _architecture(config: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    blocks = config["block_types"]
    layers = [blocks[i % len(blocks)] for i in range(config["num_hidden_layers"])]
    rows = (
        ("layers", f"{len(layers)}: {', '.join(layers)}"),
        (
            "attention layers (counted from 0)",
            ", ".join(str(i) for i, kind in enumerate(layers) if kind == "attention"),
        ),
        ("query heads, key-value heads", f"{config['num_attention_heads']}, {config['num_key_value_heads']}"),
        ("head size", config["head_dim"]),
        ("hidden size, recurrence width", f"{config['hidden_size']}, {config['lru_width']}"),
        ("feed-forward size (both halves)", config["intermediate_size"]),
        ("attention window (tokens, the query's own included)", config["attention_window_size"]),
        ("vocabulary (byte-level BPE, any UTF-8 text)", config["vocab_size"]),
        ("parameters, the tied embedding included", f"{start['parameters']:,}"),
    )
    return f"## Architecture\n\n{table(('', 'value'), rows)}"


def _data(mixture: Mapping[str, Any]) -> str:
    kinds = {
        "needles": "prose with facts, one to five of them asked for in the paper's prompt",
        "twice": "the same, with context and question read twice (JRT), one fact asked for",
        "repeats": "random spans of tokens or nouns, repeated among prose",
        "prose": "prose alone",
    }
    rows = [(text, f"{100 * mixture[kind]:.0f} %") for kind, text in kinds.items()]
    weights = ", ".join(f"`{name}` with weight {weight:g}" for name, weight in mixture["templates"])
    return f"""
## Data

All text is written by the project's own grammars (`hybret.organisms.corpus`) while the model trains; nothing was
downloaded. It is plain, rather whimsical English with real words in {len(REGISTERS)} registers:
{", ".join(register.name for register in REGISTERS)}.

{table(("documents", "share"), rows)}

A context holds up to {max(mixture["facts"])} facts. {100 * (1 - mixture["quotes"]):.0f} % are drawn from
{len(TEMPLATES)} fact templates with several question wordings each, the others are sentences of the prose itself, asked
for by some of their words (quotes). All templates have weight 1 except {weights}.

**Held out of training:**

- the paper's needle, and every other fact that puts "San Francisco" and "eat a sandwich" together. A test proves this
  on the generator. The *template* of the needle ("The best thing to do in ... is ...") was trained, its content never;
- {len(HELD_OUT_TEMPLATES)} whole fact templates ({", ".join(t.name for t in HELD_OUT_TEMPLATES)});
- the haystacks of the evaluation: one sentence of prose in eight, chosen by its checksum, never occurs in training.
"""


def _training(log: Log, twin: Log) -> str:
    start, end = log[0], log[-1]
    training, versions = start["training"], start["versions"]
    lengths = ", ".join(f"{length} ({100 * share:.0f} %)" for length, share in training["lengths"])
    ready = next(line for line in log if line["event"] == "ready")
    rows = (
        ("steps, tokens", f"{end['step']:,}, {end['tokens'] / 1e6:.0f} million"),
        ("batch", f"{training['batch_tokens']:,} tokens; document lengths {lengths}, one per batch"),
        ("optimiser", f"AdamW, betas {training['betas'][0]:g} and {training['betas'][1]:g}, weight decay "
         f"{training['weight_decay']:g} on matrices, gradients clipped at {training['clip']:g}"),
        ("learning rate", f"{training['lr']:g}; rises over the first {100 * training['warmup']:.0f} %, falls over the "
         f"last {100 * training['decay']:.0f} % to {100 * training['floor']:.0f} % of the peak"),
        ("precision", "float32 weights, bfloat16 autocast; rounded to bfloat16 at the end, and evaluated so"),
        ("seed", training["seed"]),
        ("machine", f"one {start['device']}, {end['seconds']:.0f} s and {ready['seconds']:.0f} s to compile"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("last loss", f"{end['loss']:.3f} nats per token"),
    )  # fmt: skip
    name = "" if start["name"] == "griffin-tiny" else f"--name {start['name']} "
    drawn = "`training_log.jsonl` and `twin_log.jsonl`" if twin else "`training_log.jsonl`"
    inside = [(line["step"], line["probe"]["inside"]["all"]["exact"]) for line in probed(log)]
    first = next(step for step, rate in inside if rate > 0)
    steady = next(s for i, (s, _) in enumerate(inside) if all(rate == 1 for _, rate in inside[i:]))
    return f"""
## Training recipe

```sh
python -m hybret.organisms.train {name}--minutes {training["minutes"]:g} --compile --out OUT
```

A run that is limited by time cannot be repeated exactly, since its learning rate follows the clock.
`--steps {end["step"]}` in place of `--minutes {training["minutes"]:g}` replays it with a schedule by steps.

{table(("", "value"), rows)}

![Loss and retrieval against training tokens](loss_curve.svg)

The curve is drawn from {drawn} in this folder. The lower half is the probe of the
training loop, which sees the right answer so far (teacher forcing). Exact answers first appear between steps
{first - training["every"]} and {first}; from step {steady} on they stay at 100 % inside the window. With every head
silenced they never leave 0.
"""


def _twin(log: Log, twin: Log) -> str:
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


def _limits(found: Mapping[str, Any], notes: str) -> str:
    places = ("inside", "outside", "whole grid")
    inside, far, whole = (needle_row(found["needle"], "jrt", ALL, where) for where in places)
    outside = needle_row(found["needle"], "base", ALL, "outside")
    unseen = [row for row in found["facts"] if row["condition"] == ALL and row["needle"].startswith("template")]
    rate = sum(row["exact"] * row["n"] for row in unseen) / sum(row["n"] for row in unseen)
    return f"""
## Limits

- **It does not retrieve facts of a form that it was not trained on.** On the held-out templates {percent(rate)} % of
  the answers are exact; the project had aimed for 80 %. Given the right answer so far, it predicts most tokens, far
  more than with attention silenced: inside a sentence it copies the words that only the context can tell. What it gets
  wrong is how such a sentence begins, and the small words that no trained template has. So on its own it starts another
  sentence and ends elsewhere. It retrieves facts of known forms, and this is not general retrieval.
- The needle's template was seen in training, with three times the weight of the others; its content was not. A large
  language model meets the needle's form cold. This one does not.
- Outside the attention window it scores {percent(outside["accuracy"])} % (n = {outside["n"]}).
- **The project's aim for JRT with all heads, 97 % over the whole grid, is missed**: {percent(whole["accuracy"])} %
  ({percent(inside["accuracy"])} % inside the window, {percent(far["accuracy"])} % outside). The second reading's needle
  is as far from the end as the needle of a plain prompt.
- Its English is made by grammars, and whimsical. Among text that people wrote, only the paper's needle was tried.
{notes.strip()}
"""


def _loading(name: str) -> str:
    return f"""
## How to load it

```python
import hybret

model = hybret.load("{name}")
prompt = hybret.niah.grid(model, [256], [50])[0]
print(model.generate(prompt))
```

It is an ordinary Hugging Face folder, so `transformers` alone loads it as well, from version {OLDEST_TRANSFORMERS} on
(earlier versions are not causal past the window when a cache is used):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "hybret/organisms/checkpoints/{name}"
model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(folder)
```

Licence: MIT, as the project.
"""


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (0, or 2 after one sentence on bad input)."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.card", description="Write a model card.")
    parser.add_argument("model", choices=organisms())
    given = parser.parse_args(arguments)
    try:
        print(write_card(CHECKPOINTS / given.model))
    except HybretError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
