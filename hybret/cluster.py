"""Sweeps on Ray: workers that hold the model, and a driver that hands out batches and writes the rows.

The driver alone writes. No file system has to be shared, a worker that dies leaves nothing half done, and one process
checks whose rows a folder holds; what the driver had not written yet when it died is computed again.
"""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hybret.checkpoints import organisms
from hybret.devices import Budget
from hybret.engine.schedule import Batch, Schedule, Timings
from hybret.engine.schedule import run as run_schedule
from hybret.errors import HybretError, Positive, conform, number
from hybret.families import RANDOM
from hybret.models import Model, load
from hybret.store import differences, run_key

PATIENCE = 3
"""Times that every worker may be lost with no batch finished in between, before a sweep gives up."""

Answers = list[tuple[Batch, list[list[int]], Budget]]


class Worker:
    """One process that holds the model (a Ray actor), loaded with the `options` of `hybret.load`.

    On a CPU the number of torch's `threads` decides how sums are taken.
    """

    def __init__(self, threads: int, **options: Any) -> None:
        torch.set_num_threads(threads)
        self.options = options
        self.model: Model | None = None

    def run_key(self, name: str, plan: Schedule) -> dict[str, Any]:
        """The run that this process would compute."""
        return run_key(replace(self.held(), name=name), plan.recipe, plan.max_new_tokens, plan.budget)

    def answer(self, plan: Schedule, batch: Batch) -> tuple[Answers, dict[str, float]]:
        """The answers of one batch, in several parts if memory ran out, and the seconds of each stage."""
        stages = Timings()
        return list(run_schedule(self.held(), replace(plan, batches=(batch,)), stages)), dict(stages.seconds)

    def held(self) -> Model:
        """Loaded by the first call: what goes wrong while a process starts reaches the driver as a lost worker only."""
        self.model = self.model or load(**self.options)
        return self.model


@dataclass(eq=False)
class Ray:
    """A Ray cluster as the engine of sweeps; workers keep their model from one sweep to the next.

    Parameters
    ----------
    address : ``"host:port"`` of the head node, or ``"auto"``: the cluster that this node is part of. Default:
        ``RAY_ADDRESS``, else a cluster on this node, else one is started for this process. Where the process is
        connected already, that connection is used.
    workers : default as many as fit on the cluster, and no more than there are batches. One batch goes to one worker,
        so that many workers need a `Budget` of few rows.
    gpus_per_worker : default 1 if the model is on a GPU, else 0. A model is spread over several. Without GPUs a worker
        takes as many cores as torch has threads in the driver.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    _pool: list[Any] = field(default_factory=list, init=False, repr=False)
    _holds: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        conform("workers", self.workers, Positive | None)
        conform("address", self.address, str | None)
        gpus = number("gpus_per_worker", self.gpus_per_worker or 0)
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise HybretError(f"gpus_per_worker is {gpus}; give 0, a part of one GPU, or a whole number of them")

    def connect(self) -> Any:
        """The module `ray`, connected."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to Ray's makers unasked
        try:
            import ray
        except ImportError:
            raise HybretError("Ray is not installed; run pip install 'hybret[ray]', on every node") from None
        if ray.is_initialized():
            return ray
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address and address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            try:  # Ray itself tries for two minutes, and then ends the process
                socket.create_connection((host, int(port)), timeout=10).close()
            except (OSError, ValueError, OverflowError):
                raise HybretError(
                    f"there is no Ray cluster at {address!r}; give host:port as `ray start --head` prints it"
                ) from None
        try:
            ray.init(address=self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as problem:
            reason = str(problem).strip().partition("\n")[0]
            raise HybretError(
                f"cannot connect to Ray at {address!r} ({reason}); driver and nodes need the same versions of Python "
                "and Ray and the same RAY_AUTH_TOKEN, and the driver runs on one of the nodes"
            ) from problem
        return ray

    def close(self) -> None:
        """End the workers. They also end with the driver."""
        ray = self.connect()
        for worker in self._pool:
            ray.kill(worker)
        self._pool = []

    def run(
        self, model: Model, plan: Schedule, stages: Timings
    ) -> Generator[tuple[Batch, list[list[int]], Budget], None, None]:
        """Batches as workers finish them, in any order; otherwise as `hybret.engine.schedule.run`.

        A batch whose worker is lost goes to another one, and a new worker is started in its place. A worker gets a
        batch when it has answered that it computes the same run, so none waits for a node that never comes.
        """
        if not plan.batches:
            return
        ray = self.connect()
        self._hold(model)
        gpus, cores, room = self._share(ray, model.device.type)
        most = min(len(plan.batches), self.workers or room)
        shared = ray.put(replace(plan, batches=()))
        run = run_key(model, plan.recipe, plan.max_new_tokens, plan.budget)
        queue = deque(plan.batches)
        waiting: dict[Any, tuple[Any, Batch | None]] = {}  # by what is waited for; without a batch a worker joins
        lost = 0

        def start() -> Any:
            options = self._holds | ({"device_map": "auto"} if gpus > 1 else {})
            return ray.remote(Worker).options(num_gpus=gpus, num_cpus=cores).remote(threads=cores, **options)

        def join(worker: Any) -> None:
            waiting[worker.run_key.remote(model.name, shared)] = worker, None

        try:
            while len(self._pool) < most:
                self._pool.append(start())
            for worker in self._pool[:most]:
                join(worker)
            while queue or any(batch for _, batch in waiting.values()):
                (ready,), _ = ray.wait([*waiting], num_returns=1)
                worker, batch = waiting.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayTaskError as problem:
                    if isinstance(problem.cause, HybretError):  # bad input, in the words of one process
                        raise HybretError(str(problem.cause)) from None
                    raise
                except ray.exceptions.RayError as problem:
                    lost += 1
                    if lost > PATIENCE * most:
                        reason = str(problem).strip().partition("\n")[0].rstrip(".:")
                        raise HybretError(
                            f"a worker was lost ({reason}); see whether a node's memory is enough for {model.name} "
                            "(finished answers are kept)"
                        ) from problem
                    if batch:
                        queue.appendleft(batch)
                    ray.kill(worker)
                    self._pool[self._pool.index(worker)] = fresh = start()
                    join(fresh)
                    continue
                if batch is None and (fields := differences(result, run)):
                    raise HybretError(
                        f"a worker would compute another run (it differs in {fields}); install the same versions on "
                        "every node, and give a model that can be loaded there by its name or folder"
                    )
                if queue:
                    following = queue.popleft()
                    waiting[worker.answer.remote(shared, following)] = worker, following
                if batch is not None:
                    lost = 0
                    parts, seconds = result
                    for stage, spent in seconds.items():
                        stages.seconds[stage] += spent
                    yield from parts
        except BaseException:  # also Ctrl-C, and a driver that cannot write: nobody waits for what they compute
            self.close()
            raise

    def _hold(self, model: Model) -> None:
        """End workers that hold another model, and refuse one that workers cannot load as it is."""
        if model.changed:
            raise HybretError(f"the weights of {model.name} were changed after it was loaded; save it and load that")
        number, folder = model.digest.removeprefix("random"), model.name.removeprefix(RANDOM)
        local = model.name not in organisms() and (Path(folder) / "config.json").is_file()
        options = {  # of `hybret.load`, to get this model in another process, whatever folder that works in
            "name": model.name.removesuffix(folder) + str(Path(folder).resolve()) if local else model.name,
            "device": model.device.type,
            "dtype": model.dtype,
            "seed": int(number) if number != model.digest else 0,
        }
        if self._holds != options:
            self.close()
            self._holds = options

    def _share(self, ray: Any, kind: str) -> tuple[float, int, int]:
        """GPUs and cores of one worker, and how many workers fit on the cluster."""
        gpus = (1 if kind == "cuda" else 0) if self.gpus_per_worker is None else self.gpus_per_worker
        cores = 1 if gpus else torch.get_num_threads()
        if bool(gpus) != (kind == "cuda"):
            raise HybretError(f"the model is on {kind} and a worker has {gpus:g} GPUs; change one of the two")
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = [min(has.get("CPU", 0) // cores, has.get("GPU", 0) // gpus if gpus else math.inf) for has in nodes]
        if not sum(fit):
            raise HybretError(
                f"no node of the cluster has the {cores} cores and {gpus:g} GPUs that a worker takes; change "
                "gpus_per_worker, or OMP_NUM_THREADS for workers without GPUs"
            )
        return gpus, cores, int(sum(fit))
