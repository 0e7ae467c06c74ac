"""What a notebook will take on a model, before anything is built: memory and time, from measured constants.

Work is counted: prompts, conditions, and the distinct prefills among these (`hybret.interventions`). Time is

- reading: two operations for each weight that a token meets, at the machine's measured rate for large products, times
  `Machine.reading`; and one launch time for each layer and prompt;
- answering: for each step of a batch one launch time for each layer, the bytes of the weights and of the batch's keys
  and values at the memory's bandwidth, and the operations of its rows.

Memory is the weights, the keys and values of one batch of rows (twice: they are merged), the activations of one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from . import asked, niah
from .anatomy import attention_layers
from .bench.measuring import flops_per_token
from .engine.batches import MOST_ROWS, MOST_TOKENS, room_of
from .engine.generation import MAX_NEW_TOKENS
from .engine.sizing import GIB, cache_bytes, skeleton
from .errors import HybretError, printable
from .families import FAMILIES
from .figures.timings import duration
from .fitting import effective
from .interventions import Intervention, Keep, KeepHeads, Only, PerPhase, table1_conditions
from .models import ORGANISM_LENGTHS, PAPER_LENGTHS
from .presets import PAPER_MODELS, RANDOM, RANDOM_MODELS, head_counts
from .recipe import CORRECTED
from .sources import configuration, organisms

HOW = (
    "Estimated from counts of the work, the model's shape and constants of the machine; fitted to the sweeps in "
    "book/published (RecurrentGemma-2B and -9B and griffin-tiny on an H100, griffin-tiny on two CPU cores), which it "
    "gives back within about a factor of two."
)
NOT_COVERED = (
    "Not covered: download and loading, figures, other work on the machine. Other families than RecurrentGemma were "
    "not measured at full size: scans without a kernel and the experts of a mixture may take several times as long."
)


@dataclass(frozen=True)
class Machine:
    """Constants of one machine.

    Attributes
    ----------
    title : what it is.
    kind : ``"cuda"`` or ``"cpu"``.
    memory : bytes.
    rate : operations per second of large products, by dtype (`hybret.bench.measuring.matmul_rate`).
    reading : seconds of reading, by dtype, per second that the products alone would take.
    launch : seconds for each layer and pass.
    bandwidth : bytes per second of the memory.
    """

    title: str
    kind: str
    memory: int
    rate: dict[str, float]
    reading: dict[str, float]
    launch: float
    bandwidth: float


_H100 = Machine(
    "one NVIDIA H100 (80 GB)", "cuda", 79 * GIB, {"bfloat16": 770e12, "float32": 51e12},
    {"bfloat16": 1.35, "float32": 1.05}, 1.3e-3, 3.35e12,
)  # fmt: skip
MACHINES = {
    "h100": _H100,
    # The same chip with a larger and faster memory (141 GB at 4.8 TB/s, its data sheet); no sweep was measured on it.
    "h200": Machine(
        "one NVIDIA H200 (141 GB)", "cuda", 139 * GIB, _H100.rate, _H100.reading, _H100.launch, 4.8e12
    ),
    "cpu": Machine("two CPU cores", "cpu", 16 * GIB, {"float32": 0.164e12}, {"float32": 0.8}, 5e-5, 1e10),
}  # fmt: skip
RUNTIME = {"cuda": 0, "cpu": GIB // 2}
"""Memory of the process itself, where it shares the model's."""


@dataclass(frozen=True)
class Sweep:
    """A part of a notebook: grids of prompts under conditions.

    Attributes
    ----------
    what : in words.
    conditions : tuple of Intervention.
    grids : how many haystack seeds.
    control : also the prompts without a needle, one for each length.
    twice : prompts are read twice (JRT).
    """

    what: str
    conditions: tuple[Intervention, ...]
    grids: int = 1
    control: bool = True
    twice: bool = False


def _sparsification(ks: Sequence[int]) -> list[Sweep]:
    generation, both = (tuple(KeepHeads(k, during=d) for k in ks) for d in ("generation", "both"))
    few = tuple(KeepHeads(k, during=d) for k in (ks[-1], ks[-1] // 2, 0) for d in ("generation", "both"))
    return [
        Sweep("every k, both versions", generation + both),
        Sweep("every k, read twice (JRT)", generation, twice=True),
        Sweep("three k, two more haystacks", few, grids=2, control=False),
    ]


def _manipulation(_: Sequence[int]) -> list[Sweep]:
    pairs = tuple(table1_conditions().values())
    more = PerPhase(generation=Only(renormalise=True), prefill=Keep())
    return [Sweep("Table 1", (*pairs, more)), Sweep("Table 1, the other recipe", pairs)]


NOTEBOOKS: dict[str, Callable[[Sequence[int]], list[Sweep]]] = {
    "sparsification": _sparsification,
    "manipulation": _manipulation,
}
"""Notebooks by the sweeps that they make, for the numbers of heads of a curve."""


def plan(
    model: str,
    notebook: str = "sparsification",
    on: str = "h100",
    dtype: str = "auto",
    lengths: int = 10,
    depths: int = 10,
) -> pd.DataFrame:
    """Estimate a notebook's time and memory on a model.

    Parameters
    ----------
    model : str
        As in `hybret.load`; the configuration is all that is read.
    notebook : one of `NOTEBOOKS`.
    on : one of `MACHINES`.
    dtype : {"auto", "float32", "bfloat16"}
        ``"auto"``: what `hybret.load` would take there.
    lengths, depths : of the notebook.

    Returns
    -------
    pandas.DataFrame
        One row per sweep of the notebook: sweep, prompts, conditions, answers, prefills (distinct ones), tokens (to
        read, over all prefills), reading and answering (seconds). ``attrs``: model, notebook, machine, dtype,
        parameters, seconds, and in bytes weights, cache, activations, memory (their sum) and room (of the machine).
        `HOW` it is estimated and what is `NOT_COVERED` are sentences of this module.

    Raises
    ------
    HybretError
        Unknown model, notebook or machine, or a dtype that was not measured there.
    """
    asked.text("model", model)
    asked.one_of("notebook of a plan", notebook, NOTEBOOKS)
    asked.one_of("machine", on, MACHINES)
    for name, value in (("lengths", lengths), ("depths", depths)):
        asked.whole(name, value, 1, niah.MOST_LABELS)
    machine = MACHINES[on]
    model = model.removeprefix(RANDOM)
    small = model in (*organisms(), *RANDOM_MODELS, *FAMILIES)
    config = configuration(model, made_up=model in PAPER_MODELS)
    dtype = ("float32" if small or machine.kind == "cpu" else "bfloat16") if dtype == "auto" else dtype
    if not isinstance(dtype, str) or dtype not in machine.rate:
        raise HybretError(f"{dtype!r} was not measured on {machine.title}; choose {' or '.join(machine.rate)}")
    whole = ORGANISM_LENGTHS if small else PAPER_LENGTHS
    labels = niah.labels(whole[0], whole[-1], lengths)
    sweeps = NOTEBOOKS[notebook](head_counts(attention_layers(config, model)[1], model in organisms()))
    costs = Costs(config, model, machine, dtype, 2 * max(labels))
    table = pd.DataFrame([costs.of(sweep, labels, depths) for sweep in sweeps])
    about: dict[Any, Any] = {
        "model": model,
        "notebook": notebook,
        "machine": machine.title,
        "dtype": dtype,
        "parameters": costs.parameters,
        "seconds": float(table[["reading", "answering"]].to_numpy().sum()),
        **costs.memory(int(table["batch"].max()), int(table["pass"].max())),
        "room": machine.memory,
    }
    table.attrs = about
    return table.drop(columns=["batch", "pass"])


class Costs:
    """What one model's passes cost on a machine.

    Parameters
    ----------
    config, name : of the model.
    machine : Machine
    dtype : of weights and cache.
    longest : tokens of the longest prompt that rows are planned for.
    """

    def __init__(self, config: Any, name: str, machine: Machine, dtype: str, longest: int) -> None:
        net = skeleton(config)
        self.machine, self.dtype, self.family = machine, dtype, config.model_type
        self.layers, (attention, self.heads) = config.num_hidden_layers, attention_layers(config, name)
        self.width, self.inner = config.hidden_size, getattr(config, "intermediate_size", None) or config.hidden_size
        self.item = 4 if dtype == "float32" else 2
        self.parameters = sum(p.numel() for p in net.parameters())
        self.flops = flops_per_token(net)
        self.attention, self.config = len(attention), config
        self.most = MOST_ROWS[machine.kind]
        if machine.kind == "cuda":
            room = room_of(int(machine.memory), self.parameters * self.item)
            self.most = max(1, min(self.most, room // self.row_bytes(longest)))

    def row_bytes(self, tokens: int) -> int:
        """Keys and values of one row."""
        return cache_bytes(self.config, self.attention, tokens, self.item)

    def of(self, sweep: Sweep, labels: list[int], depths: int) -> dict[str, Any]:
        """The line of a sweep in `plan`; and of its largest ones the bytes of a ``batch``, the tokens of a ``pass``."""
        acting = [
            effective([c.at("prefill"), c.at("generation")], self.family, self.heads, CORRECTED)
            for c in sweep.conditions
        ]
        prefills, distinct = {str(a[0]) for a in acting}, {str(a) for a in acting}
        per_length = sweep.grids * (depths + sweep.control)
        prompts = per_length * len(labels)
        tokens = per_length * sum(labels) * (2 if sweep.twice else 1)
        answers = prompts * len(distinct)
        rows = min(answers, max(1, self.most // len(distinct)) * len(distinct))
        longest = max(labels) * (2 if sweep.twice else 1)
        cache = rows * self.row_bytes(longest)
        rate = self.machine.rate[self.dtype]
        step = (
            self.layers * self.machine.launch
            + (self.parameters * self.item + cache) / self.machine.bandwidth
            + rows * self.flops / rate
        )
        return {
            "sweep": sweep.what,
            "prompts": prompts,
            "conditions": len(sweep.conditions),
            "answers": answers,
            "prefills": len(prefills),
            "tokens": tokens * len(prefills),
            "reading": tokens * len(prefills) * self.flops / rate * self.machine.reading[self.dtype]
            + prompts * self.layers * self.machine.launch,
            "answering": math.ceil(answers / rows) * MAX_NEW_TOKENS * step,
            "batch": cache,
            "pass": min(MOST_TOKENS[self.machine.kind], longest * len(prefills)),
        }

    def memory(self, cache: int, tokens: int) -> dict[str, int]:
        """Bytes of weights, keys and values, activations of a pass of `tokens` tokens, and all together."""
        # Of a recurrent layer fp32 and of an MLP its dtype; the counts are fitted to two sizes of RecurrentGemma.
        activations = tokens * (22 * self.width * 4 + 8 * self.inner * self.item)
        parts = {"weights": self.parameters * self.item, "cache": 2 * cache, "activations": activations}
        return {**parts, "memory": sum(parts.values()) + RUNTIME[self.machine.kind]}


def shown(table: pd.DataFrame) -> Group:
    """A plan as the command line prints it."""
    about = table.attrs
    lines = Table("sweep", "prompts", "conditions", "answers", "tokens to read", "reading", "answering", box=None)
    for row in table.to_dict("records"):
        counts = [f"{row[name]:,}" for name in ("prompts", "conditions", "answers", "tokens")]
        lines.add_row(row["sweep"], *counts, duration(row["reading"]), duration(row["answering"]))
    gib = {part: f"{about[part] / GIB:.1f} GiB" for part in ("weights", "cache", "activations", "memory", "room")}
    fits = "fits" if about["memory"] <= about["room"] else "DOES NOT FIT"
    if fits != "fits" and about["weights"] + GIB <= about["room"]:
        fits = "more than there is: the sweep halves its batches, and takes longer"
    return Group(
        f"{about['notebook']} on {escape(printable(about['model']))}: {about['parameters']:,} parameters "
        f"in {about['dtype']}, on {about['machine']}",
        lines,
        f"time about {duration(about['seconds'])}",
        f"memory about {gib['memory']} of {gib['room']} ({fits}): weights {gib['weights']}, keys and values of a batch "
        f"{gib['cache']}, activations {gib['activations']}",
        HOW,
        NOT_COVERED,
    )
