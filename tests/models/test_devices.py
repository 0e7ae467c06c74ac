"""Devices: which there are, and what is refused before anything is built because it does not fit on them."""

from types import SimpleNamespace

import pytest
from support import Timings, inputs_of, paper_config

import hybret as hb
from hybret.devices import GIB, STATE_SHARE, Machine, check_on_gpus, free_bytes, row_bytes, weight_bytes

JAMBA, GRIFFIN = "random:ai21labs/AI21-Jamba-Mini-1.6", "google/recurrentgemma-2b"


def machine(gpus=0, accelerate=True, free=20, cpu=20):
    """GiB free on each GPU and on the CPU."""
    return Machine(gpus, accelerate, lambda device: (cpu if device == "cpu" else free) * GIB)


REFUSED = {
    "CPU": (JAMBA, {"device": "cpu"}, machine(), "take 192.1 GiB in float32, and 20.0 GiB are free on cpu; use "
            'a larger machine, dtype="bfloat16"'),
    "one GPU of two": (JAMBA, {"device": "cuda"}, machine(2),
                       "in bfloat16, and 20.0 GiB are free on cuda; "),
    "auto takes both": (JAMBA, {}, machine(2), "and 40.0 GiB are free on cuda:0 and cuda:1"),
    "spread": (JAMBA, {"device_map": "balanced"}, machine(2), "and 40.0 GiB are free on cuda:0 and cuda:1"),
    "auto without accelerate": (JAMBA, {}, machine(2, accelerate=False), "and 20.0 GiB are free on cuda;"),
    "map": ("griffin-tiny", {"device_map": "sideways"}, machine(2),
            "unknown device_map 'sideways'; choose one of auto, balanced"),
    "map without a GPU": ("griffin-tiny", {"device_map": "auto"}, machine(), "over GPUs, and there is none"),
    "map without accelerate": ("griffin-tiny", {"device_map": "auto"}, machine(2, accelerate=False),
                               "needs accelerate; pip install accelerate"),
    "no GPU": ("griffin-tiny", {"device": "cuda"}, machine(), "device 'cuda' is not available; choose auto, cpu"),
    "no third GPU": ("griffin-tiny", {"device": "cuda:2"}, machine(2), "device 'cuda:2' is not available"),
    "TPU": ("griffin-tiny", {"device": "tpu"}, machine(2), "device 'tpu' is not available"),
    "meta": ("griffin-tiny", {"device": "meta"}, machine(2), "device 'meta' is not available"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_there_or_does_not_fit_is_refused(case):
    name, options, there, words = REFUSED[case]
    with pytest.raises(hb.HybretError, match=words):
        hb.load(name, **options, machine=there)


def test_memory_is_checked_before_weights_are_read(tmp_path):
    folder = tmp_path / "griffin"
    paper_config(GRIFFIN).save_pretrained(folder)
    for options, there, says in (
        ({"device": "cpu"}, machine(cpu=2), "its weights take 5.0 GiB in bfloat16, and 2.0 GiB are free on cpu"),
        ({"device": "cpu"}, machine(cpu=6), "there is no tokenizer"),  # there are none
        ({"device": "cuda"}, machine(1, accelerate=False, free=80, cpu=2),
         "2.0 GiB are free on cpu; .* accelerate, which reads weights"),
    ):  # fmt: skip
        with pytest.raises(hb.HybretError, match=says):
            hb.load(str(folder), dtype="bfloat16", **options, machine=there)


def test_auto_takes_one_gpu_where_it_has_room():
    there, config = machine(2), paper_config(GRIFFIN)
    place = there.fitted("x", config, "bfloat16", there.placement(), auto=True, read=True)
    assert (place.devices, place.device_map, place.spread) == (["cuda"], {"": "cuda"}, False)
    assert there.placement(device_map="auto").devices == ["cuda:0", "cuda:1"]
    assert machine(1, accelerate=False).placement().device_map is None and machine().placement().devices == ["cpu"]


def test_the_estimate_of_memory_is_exact(griffin):
    assert weight_bytes(griffin.net.config, "float32") == 4 * griffin.parameters
    assert weight_bytes(griffin.net.config, "bfloat16") == 2 * griffin.parameters
    assert 2**20 < free_bytes("cpu") < 2**60


def test_on_the_cpu_rows_fit_into_what_is_free_and_a_run_goes_on_when_that_changes(jamba, tmp_path, monkeypatch):
    """Its attention is global: a row grows with its prompt. The conditions of one prompt always decode together."""
    short, long = (hb.niah.grid(jamba, (length,), (0, 50, 100)) for length in (128, 400))
    conditions = {"keep": hb.Keep(), **{f"k={k}": hb.KeepHeads(k, during="generation") for k in (0, 2, 4)}}
    size = row_bytes(jamba, max(len(p.ids) for p in long) + 6)

    def sweep(room, prompts, out=None):
        """Answers, which were computed, and the most rows of a pass, with room for so many of the longest prompt."""
        free = SimpleNamespace(available=int((room + 0.5) * size / STATE_SHARE))
        monkeypatch.setattr("psutil.virtual_memory", lambda: free)
        stages = Timings()
        with inputs_of(jamba.net) as read:
            rows = hb.sweep(jamba, prompts, conditions, out=out, max_new_tokens=6, progress=False, stages=stages)
        return rows["answer"].tolist(), set(stages.tokens), max((beside for beside, _ in read), default=0)

    expected, _, most = sweep(640, short + long)
    assert most == 6 * 4
    assert sweep(10, short)[2] == 3 * 4  # as they are shorter
    _, first, most = sweep(10, short + long[:1], tmp_path)
    assert len(first) == 4 * 4 and most == 2 * 4
    answers, second, most = sweep(5, short + long, tmp_path)
    assert answers == expected and not first & second and most == 4
    assert not sweep(640, short + long, tmp_path)[1]


def test_a_model_that_is_partly_off_the_gpus_is_refused():
    whole, partly = (SimpleNamespace(hf_device_map=m) for m in ({"": 0}, {"model.layers.0": 0, "lm_head": "cpu"}))
    check_on_gpus("x", whole)
    with pytest.raises(hb.HybretError, match="x does not fit on the GPUs: accelerate left lm_head in slower memory"):
        check_on_gpus("x", partly)
