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
from hybret.interventions import KeepHeads
from hybret.models import load
from hybret.organisms.training.probe import paper_prompts
from hybret.sweeping import sweep


def measure(folder: Path) -> dict[str, Any]:
    """Exact answers to the paper's needle inside the window, by the number of heads kept while answering.

    Parameters
    ----------
    folder : a model that `hybret.organisms.training.train` wrote.

    Returns
    -------
    dict : `exact`, share of exact answers (0 to 1) by the number of heads, all of them and none included; `silent`, the
        same without attention from the first token on; `n`, prompts.
    """
    model = load(str(folder))
    heads = model.heads
    counts = sorted({*range(min(heads, 10) + 1), *range(12, heads + 1, 2), heads})
    conditions = {str(k): KeepHeads(k, during="generation") for k in counts} | {"silent": KeepHeads(0)}
    prompts = paper_prompts(model.tokenizer, model.window)["inside"]
    exact = sweep(model, prompts, conditions, progress=False).groupby("condition")["exact"].mean().round(4)
    return {
        "exact": {k: float(exact[str(k)]) for k in counts}, "silent": float(exact["silent"]), "n": len(prompts)
    }  # fmt: skip


def snapshots(run: Path) -> dict[int, Path]:
    """The models of a training by the steps that they had seen; the finished one comes last."""
    found = {int(folder.name.removeprefix("step-")): folder for folder in run.glob("step-*")}
    ended = [line for line in _log(run) if line["event"] == "end"]
    if not found or not ended:
        raise HybretError(f"{run} holds no finished training with snapshots; train with --snapshots first.")
    return dict(sorted({**found, ended[-1]["step"]: run / "model"}.items()))


def _log(run: Path) -> list[dict[str, Any]]:
    log = run / "log.jsonl"
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (0, or 2 after one sentence on bad input)."""
    parser = argparse.ArgumentParser(prog="python -m hybret.organisms.training.emergence")
    parser.add_argument("runs", nargs="+", type=Path, help="--out of trainings with --snapshots")
    parser.add_argument("--out", required=True, type=Path, help="file to write, one JSON object per model")
    options = parser.parse_args(arguments)
    try:
        asked = [(run, step, folder) for run in options.runs for step, folder in snapshots(run).items()]
        with options.out.open("w", encoding="utf-8") as out:
            for run, step, folder in asked:
                training = _log(run)[0]["training"]
                about = {"name": training["name"], "seed": training["seed"], "step": step}
                out.write(json.dumps({**about, "tokens": step * training["batch_tokens"], **measure(folder)}) + "\n")
                out.flush()
    except HybretError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
