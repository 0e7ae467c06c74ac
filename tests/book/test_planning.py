"""Plans: counted work, exact parameters, more work costs more, and the published measurements are given back."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_cli import run
from transformers import AutoModelForCausalLM

import hybret as hb
from book.speed.bench import figure2_conditions
from book.speed.plan import MACHINES, NOTEBOOKS, Costs, Sweep, plan
from hybret.checkpoints import resolve
from hybret.devices import GIB
from hybret.families import PAPER_MODELS, paper_config
from hybret.hybrid import ORGANISM_LENGTHS, PAPER_LENGTHS
from hybret.tasks import niah

PUBLISHED = sorted((Path(__file__).parents[2] / "book" / "published").glob("bench-*.json"))


@pytest.mark.parametrize("name", PAPER_MODELS)
def test_parameters_and_weights_are_exact(name):
    """Against a build of its own without memory, and the size that the bench wrote down."""
    about = plan(name).attrs
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(paper_config(name))
    assert about["parameters"] == sum(p.numel() for p in net.parameters())
    assert about["weights"] == 2 * about["parameters"] and about["dtype"] == "bfloat16"


def test_small_models_too(griffin, tiny):
    for model in (griffin, tiny):
        about = plan(model.name, on="cpu").attrs
        assert (about["parameters"], about["dtype"]) == (model.parameters, "float32")


def cost(**options):
    about = plan(**{"model": "google/recurrentgemma-2b", **options}).attrs
    return about["seconds"], about["memory"]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_more_work_costs_more(notebook):
    def grows(*steps):
        found = [cost(notebook=notebook, **options) for options in steps]
        pairs = list(zip(found, found[1:], strict=False))
        return all(a[0] < b[0] and a[1] <= b[1] for a, b in pairs)

    assert grows(*({"lengths": n} for n in (1, 3, 10, 20)))
    assert grows(*({"depths": n} for n in (1, 3, 10, 20)))
    assert grows(*({"model": f"google/recurrentgemma-{size}"} for size in ("2b", "9b")))
    assert grows({"dtype": "bfloat16"}, {"dtype": "float32"})
    assert grows({"model": "griffin-tiny", "lengths": 2}, {"lengths": 2})
    assert cost(notebook=notebook, on="h200")[0] <= cost(notebook=notebook)[0]


def test_the_work_is_that_of_the_notebook(griffin):
    """Prompts, conditions and distinct prefills of Figure 2 and Table 1, and what the sweep then does."""
    table = plan("google/recurrentgemma-2b").set_index("sweep")
    first = table.iloc[0]
    assert list(first[["prompts", "conditions", "answers", "prefills"]]) == [110, 22, 2310, 11]  # all heads: both alike
    assert first["tokens"] == 11 * 11 * sum(PAPER_LENGTHS)
    assert list(plan("ai21labs/AI21-Jamba-Mini-1.6")["prefills"]) == [33, 1, 3]
    assert list(plan("google/recurrentgemma-2b", "manipulation")["prefills"]) == [5, 5]
    rows = hb.sweep(
        griffin,
        [*niah.grid(griffin, 2, 3), *niah.grid(griffin, 2, control=True)],
        {**figure2_conditions(griffin)},
        max_new_tokens=1,
        progress=False,
    )
    mine = plan("random-griffin", on="cpu", lengths=2, depths=3).iloc[0]
    assert mine["prompts"] * mine["conditions"] == len(rows)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_measurements_are_given_back(path):
    record = json.loads(path.read_text())
    where = record["machine"]
    small = where["model"] not in PAPER_MODELS
    machine = MACHINES["cpu" if "CPU" in where["device"] else "h100"]
    whole = ORGANISM_LENGTHS if small else PAPER_LENGTHS
    costs = Costs(resolve(where["model"], not small).config, where["model"], machine, where["dtype"], 2 * whole[-1])
    assert costs.parameters == where["parameters"]
    asked = {
        "figure2": tuple(figure2_conditions(SimpleNamespace(heads=costs.heads)).values()),
        "manipulation": tuple(hb.table1_conditions().values()),
    }
    for name in asked.keys() & record.keys():
        measured = record[name]
        assert costs.most == pytest.approx(measured["budget"]["rows"], rel=0.01)
        if measured["prompts"] == 100:
            grid = niah.labels(whole[0], whole[-1], 10), 10
        else:
            grid = niah.labels(250, 3200, 3), 2  # as many tokens in as many prompts
        line = costs.of(Sweep(name, asked[name], control=False), *grid)
        assert line["prompts"] == measured["prompts"]
        assert line["prefills"] == measured["limit"]["distinct_prefills"]
        assert 0.45 < (line["reading"] + line["answering"]) / measured["seconds"] < 1.5
        assert 0.5 < costs.memory(line["batch"], line["pass"])["memory"] / GIB / measured["memory_gib"] < 1.75


def test_the_command():
    found = run("plan", "--model", "ai21labs/AI21-Jamba-Mini-1.6")
    assert found.exit_code == 0
    for words in ("51,570,323,328 parameters", "DOES NOT FIT", "Not covered", "factor of two", "weights 96.1 GiB"):
        assert words in " ".join(found.stdout.split())
    found = json.loads(run("plan", "--model", "random:google/recurrentgemma-9b", "--on", "h200", "--json").stdout)
    assert found["parameters"] == 8_579_977_216 and found["memory"] < found["room"] and len(found["sweeps"]) == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--notebook", "poems"], "unknown notebook of a plan 'poems'; choose one of sparsification, manipulation"),
        (["--on", "abacus"], "unknown machine 'abacus'; choose one of h100"),
        (["--on", "cpu", "--dtype", "bfloat16"], "'bfloat16' was not measured on two CPU cores; choose float32"),
        (["--lengths", "0"], "lengths must be at least 1"),
        (["--model", "griffin-huge"], "unknown model 'griffin-huge'"),
    ],
)
def test_bad_input_is_one_sentence(words, says):
    found = run("plan", *words)
    assert found.exit_code == 2 and says in found.stderr and found.stderr.count("\n") <= 2
