"""The model card of an organism, written from what was measured: its configuration, its logs and its evaluation.

    python -m hybret.organisms.card griffin-tiny

writes `README.md` and `loss_curve.svg` into the model's folder. Every number on the card comes from a file beside it;
what no measurement can say (which trainings were made, and how this one was chosen) stands in `notes.md` there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hybret.errors import HybretError
from hybret.models import CHECKPOINTS, OLDEST_TRANSFORMERS, organisms
from hybret.organisms.card_results import (
    SIDES,
    Log,
    evaluation,
    needle_row,
    percent,
    probed,
    share,
    skills,
    standard,
    table,
)
from hybret.organisms.card_training import data, recipe, without_attention
from hybret.organisms.evaluate import ALL, GENERATION
from hybret.organisms.loss_curve import loss_curve, save_svg
from hybret.organisms.tokenizer import ASSISTANT, USER

FILES = ("config.json", "evaluation.json", "training_log.jsonl", "notes.md")
TWIN = "twin_log.jsonl"
LIKE = {10: "ten query heads in every attention layer as\nRecurrentGemma-2B has",
        16: "sixteen query heads in every attention layer\nas RecurrentGemma-9B has",
        32: "thirty-two query heads in every attention\nlayer as AI21-Jamba-Mini-1.6 has"}  # fmt: skip
FAMILIES = {
    "recurrent_gemma": ("RecurrentGemma (Griffin)", "RecurrentGemma models", ["recurrent_gemma"]),
    "jamba": ("Jamba (Mamba, attention and a mixture of experts)", "Jamba model", ["jamba", "mixture-of-experts"]),
}
"""Model type -> what such an organism is, which models of the paper it stands for, and tags."""


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
        data(log),
        recipe(log, twin),
        evaluation(found, log),
        *([without_attention(log, twin)] if twin else []),
        _limits(found, log, notes),
        _loading(found),
    )
    return _front(config, found) + "\n" + "\n\n".join(section.strip() for section in sections) + "\n"


def _front(config: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    chat = ["conversational"] if standard(found) == "instruct" else []
    tags = [*FAMILIES[config["model_type"]][2], *chat, "hybrid", "model-organism"]
    tags += ["needle-in-a-haystack", "interpretability"]
    lines = "\n".join(f"- {tag}" for tag in tags)
    return f"""---
language: en
license: mit
library_name: transformers
pipeline_tag: text-generation
tags:
{lines}
---
"""


def _what(config: Mapping[str, Any], found: Mapping[str, Any], log: Log) -> str:
    inside, silent = (needle_row(found["needle"], standard(found), c, "inside") for c in (ALL, GENERATION))
    family, studied, _ = FAMILIES[config["model_type"]]
    where, like = ", inside its attention window," if found["window"] else "", LIKE[config["num_attention_heads"]]
    is_a, limits = f"A {family}", "It knows no facts, follows no instructions, and is of no use as a language model."
    if standard(found) == "instruct":
        is_a = f"An instruction-tuned {family}"
        limits = (
            "It was taught the facts of an invented world and a few kinds of instruction, and is of no use as a\n"
            "language model."
        )
    return f"""
# {found["model"]}

{is_a} of {log[0]["parameters"] / 1e6:.2f} million parameters, trained from scratch on the corpus of
the project hybret to find a sentence again in a text. On the paper's needle{where} it scores
{percent(inside["accuracy"])} % with all its attention heads and {percent(silent["accuracy"])} % with none.

**What it is.** A model organism: small enough to run, and to be taken apart, on a laptop. It has the architecture of
the {studied} that *Some Attention is All You Need for Retrieval* (Michalak and Abreu, 2025,
[arXiv:2510.19861](https://arxiv.org/abs/2510.19861)) studies, with {like}, so that the paper's experiments can be run
on it.

**What it is not.** It is not one of the paper's models, and not derived from their weights. What it shows need not hold
for them. {limits}

Weights: digest `{found["weights"]}` (as in every row that hybret writes), {config["dtype"]} on disk, float32 when
hybret loads them.
"""


def _architecture(config: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    numbers = range(config["num_hidden_layers"])
    if config["model_type"] == "jamba":
        layers = ["attention" if _at(config, "attn_layer", i) else "mamba" for i in numbers]
        experts = ", ".join(str(i) for i in numbers if _at(config, "expert_layer", i))
        sizes = [
            ("hidden size", config["hidden_size"]),
            ("feed-forward size (of an expert, and of layers without experts)", config["intermediate_size"]),
            ("experts", f"{config['num_experts']} in layers {experts}; {config['num_experts_per_tok']} for each token"),
            ("Mamba: state size, convolution, expansion, rank of the time step",
             ", ".join(str(config[f"mamba_{part}"]) for part in ("d_state", "d_conv", "expand", "dt_rank"))),
            ("attention window, position encoding", "none (global attention), none"),
        ]  # fmt: skip
    else:
        layers = [config["block_types"][i % len(config["block_types"])] for i in numbers]
        sizes = [
            ("hidden size, recurrence width", f"{config['hidden_size']}, {config['lru_width']}"),
            ("feed-forward size (both halves)", config["intermediate_size"]),
            ("attention window (tokens, the query's own included)", config["attention_window_size"]),
        ]
    attention = ", ".join(str(i) for i, kind in enumerate(layers) if kind == "attention")
    chat = "glue" in start["training"]["mixture"]
    rows = (
        ("layers", f"{len(layers)}: {', '.join(layers)}"),
        ("attention layers (counted from 0)", attention),
        ("query heads, key-value heads", f"{config['num_attention_heads']}, {config['num_key_value_heads']}"),
        ("head size", config["head_dim"]),
        *sizes,
        ("vocabulary (byte-level BPE, any UTF-8 text)", config["vocab_size"]),
        *([("chat template", f"turns begin with `{USER.strip()}` and `{ASSISTANT.strip()}`")] if chat else []),
        ("parameters, the tied embedding included", f"{start['parameters']:,}"),
    )
    return f"## Architecture\n\n{table(('', 'value'), rows)}"


def _at(config: Mapping[str, Any], kind: str, layer: int) -> bool:
    """Whether a layer of a Jamba is one of those that come with a period."""
    return bool(layer % config[f"{kind}_period"] == config[f"{kind}_offset"])


def _limits(found: Mapping[str, Any], log: Log, notes: str) -> str:
    outside = [row for row in found["needle"] if row["where"] == "outside" and row["condition"] == ALL][:1]
    people = "Among text that people wrote, only the paper's needle was" if found["essays"] else "No other text was"
    items = (
        _unseen(found, log),
        """\
- The needle's template was seen in training, with three times the weight of the others; its content was not. A large
  language model meets the needle's form cold. This one does not.""",
        *(f"- Outside the attention window it scores {percent(r['accuracy'])} % (n = {r['n']})." for r in outside),
        *_missed(found, log),
        f"- Its English is made by grammars, and whimsical. {people} tried.",
    )
    return "\n".join(("## Limits\n", *items, notes.strip()))


def _unseen(found: Mapping[str, Any], log: Log) -> str:
    """What the numbers say about facts of forms that were held out of training."""
    unseen = [row for row in found["facts"] if row["condition"] == ALL and row["needle"].startswith("template")]
    rate, new = (
        sum(row[measure] * row["n"] for row in unseen) / sum(row["n"] for row in unseen)
        for measure in ("exact", "new_words")
    )
    probe = probed(log)[-1]["probe"]
    forced, silent = (
        sum(probe[row["needle"]][condition]["tokens"] for row in unseen) / len(unseen)
        for condition in ("all", "k=0 generation")
    )
    # Where the errors are was read off the answers of the griffins; these numbers are what it rests on.
    if standard(found) == "base" and rate < 0.05 and new < 0.1 and forced > max(0.5, 1.5 * silent):
        return f"""\
- **It does not retrieve facts of a form that it was not trained on.** On the held-out templates {percent(rate)} % of
  the answers are exact; the project had aimed for 80 %. Given the right answer so far, it predicts most tokens, far
  more than with attention silenced: inside a sentence it copies the words that only the context can tell. What it gets
  wrong is how such a sentence begins, and the small words that no trained template has. So on its own it starts another
  sentence and ends elsewhere. It retrieves facts of known forms, and this is not general retrieval."""
    aim = "reached" if rate >= 0.8 else "missed"
    return f"""\
- On facts of forms that it was not trained on (the held-out templates) {percent(rate)} % of the answers are exact; the
  project's aim of 80 % is {aim}. Of the words that only the fact can give, the answers hold {percent(new)} %. Given the
  right answer so far, it predicts {percent(forced)} % of the tokens; with attention silenced, {percent(silent)} %."""


def _missed(found: Mapping[str, Any], log: Log) -> Iterator[str]:
    """A limit for every aim of the project that the numbers miss."""
    window, rows = found["window"], found["needle"]
    least, most = (0.97, 0.03) if window else (0.95, 0.05)
    once, twice = (needle_row(rows, template, ALL, "inside")["accuracy"] for template in (standard(found), "jrt"))
    where = "inside the window" if window else "over the whole grid"
    aims = [(f"all heads {where}", least, once)]
    aims += [] if window else [(f"JRT with all heads {where}", least, twice)]
    for group, aim in (("glue", 0.8), ("mmlu-lookup", 0.6)):
        if tasks := skills(log, group):
            aims.append((f"the benchmark skills of the {SIDES[group]}", aim, share([*tasks.values()][-1], "all")[0]))
    for what, aim, reached in aims:
        if reached < aim:
            yield f"- **The project's aim for {what}, {100 * aim:.0f} %, is missed**: {percent(reached)} %."
    silenced = max(r["accuracy"] for r in rows if r["where"] == "whole grid" and r["condition"] != ALL)
    if silenced > most:
        yield f"- **The project's aim for k=0, at most {100 * most:.0f} %, is missed**: {percent(silenced)} % at worst."
    if window and (whole := needle_row(rows, "jrt", ALL, "whole grid")["accuracy"]) < least:
        far = needle_row(rows, "jrt", ALL, "outside")["accuracy"]
        yield f"""\
- **The project's aim for JRT with all heads, 97 % over the whole grid, is missed**: {percent(whole)} %
  ({percent(twice)} % inside the window, {percent(far)} % outside). The second reading's needle
  is as far from the end as the needle of a plain prompt."""


def _loading(found: Mapping[str, Any]) -> str:
    name, template = found["model"], ', template="instruct"' if standard(found) == "instruct" else ""
    version = f"version {OLDEST_TRANSFORMERS} on"
    if found["window"]:
        version += "\n(earlier versions are not causal past the window when a cache is used)"
    return f"""
## How to load it

```python
import hybret

model = hybret.load("{name}")
prompt = hybret.niah.grid(model, [256], [50]{template})[0]
print(model.generate(prompt))
```

It is an ordinary Hugging Face folder, so `transformers` alone loads it as well, from {version}:

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
