"""Measurements: figures and tables say what the files say."""

import pytest

from book.speed import figures as speed_figures
from hybret import HybretError

SWEEP = {
    "prompts": 100, "longest_prompt_tokens": 507, "conditions": 22, "answers": 2200, "max_new_tokens": 40,
    "seconds": 45.0, "stages": {"prefill": 30.0, "fork": 0.2, "decode": 14.0, "scoring": 0.3}, "memory_gib": 0.75,
    "stock": {"answers": 20, "prompts": 5, "seconds_per_answer": 0.43, "seconds": 954.0, "memory_gib": 0.5},
    "ratio": 21.2, "answers_identical": 20, "answers_compared": 20,
    "limit": {"what": "matrix products", "distinct_prefills": 11, "seconds": 32.0},
}  # fmt: skip
WHERE = {"dtype": "float32", "device": "2 CPU threads", "date": "2026-01-31"}
CPU = {
    "machine": {"model": "griffin-tiny", "weights": "0123456789ab", "parameters": 7_500_000, **WHERE},
    "figure2": SWEEP,
    "manipulation": {**SWEEP, "seconds": 60.0, "ratio": 19.0},
}
WHERE = {"dtype": "bfloat16", "device": "NVIDIA H100", "date": "2026-02-01"}
RG = {"model": "google/recurrentgemma-2b", "weights": "random000000", "parameters": 2_700_000_000, **WHERE}
GPU = {"machine": RG, "figure2": {**SWEEP, "seconds": 27.0, "ratio": 272.0, "answers_identical": 17}}


def test_bars_are_the_stages_end_to_end_and_the_line_is_the_limit():
    figure = speed_figures.speed(speed_figures.measured([CPU, GPU]))
    cpu, gpu = figure.axes
    first = [bar[0] for bar in cpu.containers[:5]]
    assert [bar.get_label() for bar in cpu.containers[:5]] == ["prefill", "fork", "decode", "scoring", "other"]
    assert [patch.get_width() for patch in first] == pytest.approx([30, 0.2, 14, 0.3, 0.5])
    assert [patch.get_x() for patch in first] == pytest.approx([0, 30, 30.2, 44.2, 44.5])
    assert [line.get_xdata()[0] for line in cpu.get_lines()] == [32, 32]
    assert cpu.get_xlim()[0] == gpu.get_xlim()[0] == 0 and cpu.get_xlim()[1] > 60 > gpu.get_xlim()[1] > 32
    assert [label.get_text() for label in cpu.get_yticklabels()] == ["Figure 2", "Table 1"]


def test_durations_are_written_as_they_are_said_and_nothing_is_not_drawn():
    written = {0.0005: "0.5 ms", 0.0995: "100 ms", 0.4: "400 ms", 4.12: "4.1 s", 45.4: "45 s", 119.6: "2 min",
               953.8: "15 min 54 s", 3600: "1 h", 7380: "2 h 3 min", 7200: "2 h"}  # fmt: skip
    assert {seconds: speed_figures.duration(seconds) for seconds in written} == written
    for draw, records in ((speed_figures.speed, speed_figures.measured([])), (speed_figures.scaling, [])):
        with pytest.raises(HybretError, match="no measurements to draw; make one with"):
            draw(records)


def test_answers_that_differ_in_float32_are_a_fault():
    broken = {"machine": CPU["machine"], "figure2": {**SWEEP, "answers_identical": 19}}
    assert "a fault" in speed_figures.table(speed_figures.measured([broken])).data["identical tokens"][0]
    assert "a fault" not in speed_figures.table(speed_figures.measured([GPU])).data["identical tokens"][0]
