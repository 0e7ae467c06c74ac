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

from . import asked
from .anatomy import digest
from .engine.batches import Budget, Key, Stages, Work, answered, state_room
from .engine.placing import Elsewhere
from .errors import HybretError
from .models import Model, load, named
from .presets import RANDOM
from .provenance import differences
from .sources import organisms

PATIENCE = 3
"""Times that every worker may be lost with no batch finished in between, before a sweep gives up."""

Answers = list[tuple[list[Key], list[list[int]], Budget]]


class Worker:
    """One process that holds the model (a Ray actor).

    Parameters
    ----------
    threads : int
        Of torch. On a CPU their number decides how sums are taken.
    options : what `hybret.load` is called with.
    """

    def __init__(self, threads: int, **options: Any) -> None:
        torch.set_num_threads(threads)
        self.options = options
        self.model: Model | None = None

    def describe(self) -> Model:
        """The model, without its net."""
        model = self.held()
        net = Elsewhere(model.net.config, model.net.dtype, torch.device(model.device.type), state_room(model))
        return replace(model, net=net)

    def identity(self, name: str, work: Work) -> dict[str, Any]:
        """The run that this process would compute."""
        from .sweeping import identity

        return identity(replace(self.held(), name=name), work.recipe, work.max_new_tokens, work.budget)

    def answer(self, work: Work, batch: list[Key]) -> tuple[Answers, dict[str, float]]:
        """The answers of one batch, in several parts if memory ran out, and the seconds of each stage."""
        stages = Stages()
        return list(answered(self.held(), replace(work, batches=[batch]), stages)), dict(stages.seconds)

    def held(self) -> Model:
        """Loaded by the first call: what goes wrong while a process starts reaches the driver as a lost worker only."""
        self.model = self.model or load(**self.options)
        return self.model


@dataclass(eq=False)
class Ray:
    """A Ray cluster as the engine of sweeps; workers keep their model from one sweep to the next.

    Parameters
    ----------
    address : str, optional
        ``"host:port"`` of the head node, or ``"auto"``: the cluster that this node is part of. Default:
        ``RAY_ADDRESS``, else a cluster on this node, else one is started for this process. Where the process is
        connected already, that connection is used.
    workers : int, optional
        Default: as many as fit on the cluster, and no more than there are batches. One batch goes to one worker, so
        that many workers need a `Budget` of few rows.
    gpus_per_worker : float, optional
        Default: 1 if the model is on a GPU, else 0. A model is spread over several. Without GPUs a worker takes as many
        cores as torch has threads in the driver.
    """

    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    _pool: list[Any] = field(default_factory=list, init=False, repr=False)
    _holds: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.workers is not None:
            asked.whole("workers", self.workers, 1)
        if self.address is not None:
            asked.text("address", self.address)
        gpus = asked.number("gpus_per_worker", self.gpus_per_worker or 0)
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise HybretError(f"gpus_per_worker is {gpus}; give 0, a part of one GPU, or a whole number of them")

    def connect(self) -> Any:
        """The module `ray`, connected.

        Raises
        ------
        HybretError
            Ray is not installed, or there is no such cluster.
        """
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
                    f"there is no Ray cluster at {address!r}; give host:port as `ray start --head` prints it, or leave "
                    "the address out to use this node alone"
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

    def load(self, name: str, device: str = "auto", dtype: str = "auto", seed: int = 0) -> Model:
        """A model that only workers hold: the driver needs neither a GPU nor memory for it.

        Parameters
        ----------
        name, dtype, seed : as in `hybret.load`.
        device : {"auto", "cpu", "cuda"}
            ``"auto"``: GPUs if the cluster has any and `gpus_per_worker` is not 0.

        Returns
        -------
        Model
            For prompts, and for `hybret.sweep` with this engine.
        """
        ray = self.connect()
        if device not in ("auto", "cpu", "cuda"):
            raise HybretError(f"device is {device!r}; on Ray choose auto, cpu or cuda")
        if device == "auto":
            device = "cuda" if self.gpus_per_worker != 0 and ray.cluster_resources().get("GPU") else "cpu"
        named(name)  # an unknown name is said before a worker starts
        self._room(ray, device)
        source = _source(name)
        self.close()
        self._pool = [self._start(ray, {"name": source, "device": device, "dtype": dtype, "seed": seed})]
        model: Model = _get(ray, self._pool[0].describe.remote(), name)
        if source != name:
            model = replace(model, name=name)
        self._holds = _options(model)
        return model

    def close(self) -> None:
        """End the workers. They also end with the driver."""
        ray = self.connect()
        for worker in self._pool:
            ray.kill(worker)
        self._pool = []

    def answered(
        self, model: Model, work: Work, stages: Stages, run: dict[str, Any]
    ) -> Generator[tuple[list[Key], list[list[int]], Budget], None, None]:
        """Batches as workers finish them, in any order; otherwise as `hybret.engine.batches.answered`.

        A batch whose worker is lost goes to another one, and a new worker is started in its place.

        Raises
        ------
        HybretError
            No node has room for a worker, a worker cannot load the model or would compute another run than `run`, or
            workers are lost again and again.
        """
        if not work.batches:
            return
        ray = self.connect()
        if self._holds != _options(model):
            # Workers load the model anew, so what was changed in it here would be lost without a word.
            if not model.digest.startswith("random") and digest(model.net) != model.digest:
                raise HybretError(
                    f"the weights of {model.name} were changed after it was loaded, and workers cannot load them; "
                    "write them to a folder with save_pretrained (its tokenizer too) and load that"
                )
            self.close()
            self._holds = _options(model)
        room = self._room(ray, model.device.type)
        most = min(len(work.batches), self.workers or room)
        queue = deque(work.batches)
        shared = ray.put(replace(work, batches=[]))
        # By what is waited for: its worker and its batch. None: whether the worker is there and computes the same run.
        # A batch is given to a worker that is there, so that none waits for a node which never comes.
        running: dict[Any, tuple[Any, list[Key] | None]] = {}

        def check(worker: Any) -> None:
            running[worker.identity.remote(model.name, shared)] = worker, None

        lost = 0
        try:
            while len(self._pool) < most:
                self._pool.append(self._start(ray, self._holds))
            for worker in self._pool[:most]:
                check(worker)
            while queue or any(batch for _, batch in running.values()):
                (ready,), _ = ray.wait([*running], num_returns=1)
                worker, batch = running.pop(ready)
                try:
                    found = _get(ray, ready, model.name)
                except _LostError as problem:
                    lost += 1
                    if lost > PATIENCE * most:
                        raise HybretError(f"{problem} (finished answers are kept)") from problem
                    if batch:
                        queue.appendleft(batch)
                    ray.kill(worker)
                    self._pool[self._pool.index(worker)] = another = self._start(ray, self._holds)
                    check(another)
                    continue
                if batch is None and (other := differences(found, run)):
                    raise HybretError(
                        f"a worker would compute another run (it differs in {other}); install the same "
                        "versions on every node, and give a model that can be loaded there by its name or folder"
                    )
                if queue:
                    following = queue.popleft()
                    running[worker.answer.remote(shared, following)] = worker, following
                if batch is not None:
                    lost = 0
                    parts, seconds = found
                    for stage, spent in seconds.items():
                        stages.seconds[stage] += spent
                    yield from parts
        except BaseException:  # also Ctrl-C, and a driver that cannot write: nobody waits for what they compute
            self.close()
            raise

    def _size(self, kind: str) -> tuple[float, int]:
        """GPUs and cores of one worker."""
        gpus = (1 if kind == "cuda" else 0) if self.gpus_per_worker is None else self.gpus_per_worker
        return gpus, 1 if gpus else torch.get_num_threads()

    def _room(self, ray: Any, kind: str) -> int:
        """Workers that fit on the cluster."""
        gpus, cores = self._size(kind)
        if bool(gpus) != (kind == "cuda"):
            raise HybretError(
                f"the model is on {kind} and a worker has {gpus:g} GPUs; load it where the workers will hold it, with "
                "hybret.Ray.load"
            )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = [min(has.get("CPU", 0) // cores, has.get("GPU", 0) // gpus if gpus else math.inf) for has in nodes]
        if not sum(fit):
            raise HybretError(
                f"no node of the cluster has the {cores} cores and {gpus:g} GPUs that a worker takes; change "
                "gpus_per_worker, or OMP_NUM_THREADS for workers without GPUs"
            )
        return int(sum(fit))

    def _start(self, ray: Any, options: dict[str, Any]) -> Any:
        gpus, cores = self._size(options["device"])
        spread = {"device_map": "auto"} if gpus > 1 else {}
        actor = ray.remote(Worker).options(num_gpus=gpus, num_cpus=cores)
        return actor.remote(threads=cores, **options, **spread)


class _LostError(HybretError):
    """A worker has ended, or its node."""


def _get(ray: Any, ready: Any, name: str) -> Any:
    """A result; bad input that a worker met is said as here."""
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as problem:
        if isinstance(problem.cause, HybretError):
            raise HybretError(str(problem.cause)) from None
        raise
    except ray.exceptions.RayError as problem:
        reason = str(problem).strip().partition("\n")[0].rstrip(".:")
        raise _LostError(f"a worker was lost ({reason}); see whether a node's memory is enough for {name}") from problem


def _options(model: Model) -> dict[str, Any]:
    """What `hybret.load` is called with to get this model in another process."""
    number = model.digest.removeprefix("random")
    return {
        "name": _source(model.name),
        "device": model.device.type,
        "dtype": model.dtype,
        "seed": int(number) if number != model.digest else 0,
    }


def _source(name: str) -> str:
    """A name that means the same in every folder."""
    folder = name.removeprefix(RANDOM)
    if name in organisms() or not (Path(folder) / "config.json").is_file():
        return name
    return name.removesuffix(folder) + str(Path(folder).resolve())
