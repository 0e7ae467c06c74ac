"""When retrieval forms, and with how many heads: the models that a training kept, asked for the paper's needle.

    python -m hybret.organisms.training.train --name griffin-tiny --snapshots --compile --out runs/griffin-tiny
    python -m hybret.organisms.training.emergence runs/griffin-tiny --out emergence.jsonl

One JSON object per model: what it answers with `k` heads of every attention layer while it answers, and with none while
it also reads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from hybret.errors import HybretError
from hybret.interventions.heads import KeepHeads
from hybret.models import load
from hybret.organisms.training import command
from hybret.organisms.training.probe import paper_prompts
from hybret.sweeping import sweep


def measure(folder: Path) -> dict[str, Any]:
    """Exact answers to the paper's needle inside the window, of a model that a training kept.

    `exact` is their share (0 to 1) by the number of heads, all of them and none included; `silent` the same without
    attention from the first token on; `n` the number of prompts.
    """
    model = load(str(folder))
    counts = sorted({*range(min(model.heads, 10) + 1), *range(12, model.heads + 1, 2), model.heads})
    conditions = {str(k): KeepHeads(k, during="generation") for k in counts} | {"silent": KeepHeads(0)}
    prompts = paper_prompts(model.tokenizer, model.window)["inside"]
    exact = sweep(model, prompts, conditions, progress=False).groupby("condition")["exact"].mean().round(4).to_dict()
    return {"silent": exact.pop("silent"), "exact": {k: exact[str(k)] for k in counts}, "n": len(prompts)}


def snapshots(run: Path) -> tuple[dict[str, Any], dict[int, Path]]:
    """The recipe of a training, and its models by the steps that they had seen; the finished one comes last."""
    log = run / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    found = {int(folder.name.removeprefix("step-")): folder for folder in run.glob("step-*")}
    ended = [line["step"] for line in lines if line["event"] == "end"]
    if not found or not ended:
        raise HybretError(f"{run} holds no finished training with snapshots; train with --snapshots first.")
    return lines[0]["training"], dict(sorted({**found, ended[-1]: run / "model"}.items()))


@command
def main(arguments: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.training.emergence")
    parser.add_argument("runs", nargs="+", type=Path, help="--out of trainings with --snapshots")
    parser.add_argument("--out", required=True, type=Path, help="file to write, one JSON object per model")
    options = parser.parse_args(arguments)
    trainings = [snapshots(run) for run in options.runs]
    with options.out.open("w", encoding="utf-8") as out:
        for training, models in trainings:
            for step, folder in models.items():
                about = {key: training[key] for key in ("name", "seed", "windows")} | {"step": step}
                about["tokens"] = step * training["batch_tokens"]
                out.write(json.dumps(about | measure(folder)) + "\n")
                out.flush()


if __name__ == "__main__":
    sys.exit(main())
