"""Sweeps on Ray: the local rows, byte for byte, whatever is lost on the way."""

import dataclasses
import os
import signal
import sys
from contextlib import suppress
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from support import Budget, Timings, run

import hybret as hb
from hybret import HybretError, Keep, KeepHeads, PerPhase

CONDITIONS = {
    "keep": Keep(),
    "k=0": KeepHeads(0),
    "k=2": KeepHeads(2, during="generation"),
    "only": PerPhase(generation=hb.Only(), prefill=hb.Omit()),
}
# A batch holds the answers of one prompt; of several that two conditions share, of two.
OPTIONS = {"max_new_tokens": 4, "budget": Budget(5, 300), "progress": False}


def prompts_of(model):
    return hb.niah.grid(model, (128, 171), (0, 50, 100)) + hb.niah.grid(model, (128,), (0,), control=True)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def batches_in(found):
    return sum(name.startswith("answers/") for name in found)


@pytest.fixture(scope="module")
def subject():
    """In bfloat16 an answer's bits depend on all that is in its batch, and on the passes in which it was read."""
    return hb.load("griffin-tiny", device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def local(subject, tmp_path_factory):
    out = tmp_path_factory.mktemp("local")
    hb.sweep(subject, prompts_of(subject), CONDITIONS, out=out, **OPTIONS)
    return files(out)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'hybret[ray]')")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def engine(cluster):
    """Starting a worker takes seconds: the tests share them."""
    return hb.Ray(workers=2)


class Computed(dict):
    """Answers by (prompt, what acts), as `Timings.tokens` collects them: a batch, then it is kept, then the next."""

    def __init__(self, before):
        super().__init__()
        self.before, self.batches = before, []

    def update(self, answers):
        answers = dict(answers)
        assert not self.keys() & answers.keys(), "computed twice"
        self.before(len(self.batches))
        self.batches.append(answers)
        super().update(answers)


def sweep(model, before=lambda batches: None, **options):
    """The batches that a sweep computes; `before` is called with the number of those that are kept."""
    computed = Computed(before)
    stages = Timings(tokens=computed)
    with suppress(KeyboardInterrupt):
        hb.sweep(model, prompts_of(model), CONDITIONS, **OPTIONS | {"stages": stages} | options)
    return computed.batches, stages


def test_a_killed_worker_costs_its_batch_only(cluster, engine, subject, local, tmp_path):
    few, two = prompts_of(subject)[:2], OPTIONS | {"budget": Budget(2, 300)}
    hb.sweep(subject, few, {"null": hb.Null(), "binary": hb.Binary()}, **two, engine=engine)
    first, second = engine._pool
    pid = cluster.get(first.__ray_call__.remote(lambda _: os.getpid()))
    kill = lambda batches: os.kill(pid, signal.SIGKILL) if batches == 0 else None  # noqa: E731
    batches, stages = sweep(subject, kill, out=tmp_path, engine=engine)
    assert engine._pool[0] is not first and engine._pool[1] is second
    assert files(tmp_path) == local and len(batches) == batches_in(local)
    assert set(stages.seconds) == {"prefill", "fork", "decode", "scoring"}


def test_workers_compute_what_the_drivers_memory_made_of_the_budget(engine, subject, tmp_path, monkeypatch):
    """The run keeps the budget that was asked for, so the folder goes on with another memory."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    batches, _ = sweep(subject, out=tmp_path, engine=engine)
    ran = pd.concat([pd.read_parquet(path) for path in tmp_path.glob("answers/*.parquet")])
    assert set(ran["rows_per_batch"]) == {1} and len(ran) == sum(map(len, batches))
    monkeypatch.undo()
    assert sweep(subject, out=tmp_path, engine=engine)[0] == []


def test_a_driver_that_starts_again_computes_only_what_is_missing(engine, subject, local, tmp_path):
    def stop(batches):
        if batches == 3:
            raise KeyboardInterrupt

    first, _ = sweep(subject, stop, out=tmp_path, engine=engine)
    assert engine._pool == [] and len(list(tmp_path.glob("answers/*.parquet"))) == 3 < batches_in(local)
    other = hb.Ray(workers=1)
    second, _ = sweep(subject, out=tmp_path, engine=other)
    assert len(first) == 3 and len(second) == batches_in(local) - 3
    assert files(tmp_path) == local
    with pytest.raises(HybretError, match=r"another run \(it differs in window: \d+ there, 31 here\)"):
        sweep(dataclasses.replace(subject, window=31), engine=other)
    assert sweep(subject, out=tmp_path, engine="ray")[0] == []


def test_what_workers_cannot_do_is_one_sentence(cluster, griffin, tiny):
    def said(model, **options):
        with pytest.raises(HybretError) as caught:
            hb.sweep(model, prompts_of(tiny)[:1], CONDITIONS, **OPTIONS, engine=hb.Ray(workers=1, **options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "changed after it was loaded" in said(griffin)
    assert "the model is on cpu and a worker has 1 GPUs" in said(tiny, gpus_per_worker=1)
    torch.set_num_threads(3)
    try:
        assert "no node of the cluster has the 3 cores and 0 GPUs" in said(tiny)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1", "host:99999999"])
def test_a_bad_address_is_one_sentence(address, monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'hybret[ray]')")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found = run("sweep", "--engine", "ray", "--address", address)
    assert found.exit_code == 2 and "Traceback" not in found.output
    assert f"there is no Ray cluster at {address!r}; give host:port" in found.stderr and found.stderr.count("\n") == 1


def test_without_ray_the_remedy_is_said(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(HybretError, match=r"Ray is not installed; run pip install 'hybret\[ray\]'"):
        hb.sweep(tiny, prompts_of(tiny)[:1], CONDITIONS, out=tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()
