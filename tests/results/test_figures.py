"""Figures: what is drawn is what the rows say, it can be read by everybody, and a file is the same every time."""

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support import (
    ALIKE,
    cells,
    check_no_mixed_means,
    check_readable,
    control,
    curves,
    pairs,
    squares,
    text,
    three_models,
)

from hybret import HybretError, figures

TOKENS = [f"t{i}" for i in range(20)]
MANIPULATED = {"Keep": np.full(20, 0.05), "Omit": np.where((np.arange(20) >= 5) & (np.arange(20) < 9), 0, 0.05)}
BITS = {"layer 2": np.arange(12.0).reshape(4, 3)}
INSIDE = 100 * cells()["in_window"].mean()
TIPPING = {10: 1, 16: 2, 32: 4}


def generation():
    return curves().query("during == 'generation'")


DRAWN = {
    "accuracy_by_k": lambda: figures.accuracy_by_k(curves()),
    "jrt_by_k": lambda: figures.jrt_by_k(pd.concat([generation(), generation().assign(template="jrt")])),
    "retrieval_maps": lambda: figures.retrieval_maps(pairs(), "prefill", "generation"),
    "weights": lambda: figures.weights(MANIPULATED, (5, 9), TOKENS, "model griffin-tiny (01234567)"),
    "head_selection": lambda: figures.head_selection(BITS, {"layer 2": BITS["layer 2"] < 3}, "abc", "griffin-tiny"),
    "table1": lambda: figures.table1(pairs(), {("Keep", "Keep"): 0.503}),
    "by_distance": lambda: figures.by_distance(pairs(), window=256),
}


def test_every_figure_can_be_read():
    assert set(DRAWN) == set(figures.__all__) - {"glue", "note", "save", "words"}
    for name, draw in DRAWN.items():
        check_readable(figure := draw(), name)
        if name not in ("weights", "head_selection"):
            assert all(part in text(figure) for part in ("recipe CORRECTED", "n = 9 prompts", "01234567"))


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_accuracy_by_k_draws_both_versions_over_the_floor():
    lowered = curves().assign(exact=lambda rows: rows["exact"] & (rows["k"] == 10))
    axes = figures.accuracy_by_k(lowered).axes[0]
    lines = lines_of(axes)
    curve, floor = lines["generation version"], lines["generation version, without the needle"]
    assert curve.get_xdata().tolist() == [0, 1, 10] and curve.get_ydata().tolist() == pytest.approx([0, INSIDE, INSIDE])
    assert lines["generation version, full needle"].get_ydata().tolist() == pytest.approx([0, 0, INSIDE])
    assert floor.get_ydata().tolist() == pytest.approx([10, 10, 10])
    assert floor.get_zorder() < curve.get_zorder()
    assert "prefill version" in lines and len(axes.collections) == 4  # two bands, two floors


@pytest.mark.parametrize(("acted", "all_heads"), [(None, True), (0, True), (7, False)])
def test_a_curve_that_ends_below_all_heads_is_not_taken_for_a_smaller_model(acted, all_heads):
    rows = curves()
    if acted is not None:
        rows = rows.assign(acted_prefill=0, acted_generation=np.where(rows["k"] < 10, 7, acted))
    shown = text(figures.accuracy_by_k(rows, reference=TIPPING))
    assert ("of 10" in shown, "tipping point" in shown) == (all_heads, all_heads)
    for reference in (None, {9: 1}):
        assert "tipping point" not in text(figures.accuracy_by_k(rows, reference=reference))


def test_models_stand_side_by_side_each_with_its_own_heads():
    rows = three_models(curves())
    once = figures.jrt_by_k(rows[rows["during"] == "generation"])
    by_k = figures.accuracy_by_k(rows, reference=TIPPING)
    for figure in (by_k, once):
        assert [axes.get_title() for axes in figure.axes] == ["griffin-tiny", "griffin-small", "jamba-tiny"]
        assert [axes.get_xlabel().split()[-1] for axes in figure.axes] == ["10", "16", "32"]
        assert [axes.get_ylabel() != "" for axes in figure.axes] == [True, False, False]
        assert all(name in text(figure) for name in ("griffin-tiny (01234567)", "jamba-tiny (01234567)"))
    assert "JRT" not in text(once) and text(once).count("standard prompt") == 1
    assert [lines_of(axes)["the paper's tipping point"].get_xdata().tolist() for axes in by_k.axes] == [[1], [2], [4]]


def test_the_floor_is_that_of_the_same_needle():
    rows = curves().assign(asked="a", haystack="h")
    needle, ground = rows[rows["needle"] != "none"], rows[rows["needle"] == "none"]
    assert "without the needle" in text(figures.accuracy_by_k(rows))
    assert "without the needle" not in text(figures.accuracy_by_k(needle))
    for strange in (ground.assign(asked="b"), ground.assign(haystack="hills"), ground.assign(template="jrt")):
        assert "without the needle" not in text(figures.accuracy_by_k(pd.concat([needle, strange])))


@pytest.mark.parametrize("name", ["accuracy_by_k", "retrieval_maps", "table1", "by_distance"])
def test_no_figure_averages_different_things(name):
    draw = getattr(figures, name)
    check_no_mixed_means((lambda rows: draw(rows, 256)) if name == "by_distance" else draw, ALIKE)


def test_n_counts_prompts_and_not_cells():
    rows = cells(prompt=[f"p{max(i, 2)}" for i in range(9)])  # the first three cells are one prompt
    assert "n = 7 prompts a map" in text(figures.retrieval_maps(rows, None, None))
    assert "n = 7 prompts each" in text(figures.accuracy_by_k(rows))
    seeds = pd.concat([cells(haystack_seed=seed, prompt=[f"{seed}-{i}" for i in range(9)]) for seed in (0, 1)])
    assert "n = 18 prompts a map" in text(figures.retrieval_maps(seeds, None, None))


def test_map_has_the_right_cells_and_the_start_of_the_context_on_top():
    rows = cells()
    rows["score"] = np.arange(9) / 2.0  # length major, then depth
    figure = figures.retrieval_maps(rows, None, None)
    axes = figure.axes[0]
    assert squares(axes) == {(x, y): (3 * x + y) / 2 for x in range(3) for y in range(3)}
    assert axes.get_ylim() == (3, 0)  # row 0, depth 0, is drawn at the top
    ticks = dict(zip(axes.get_yticks(), [t.get_text() for t in axes.get_yticklabels()], strict=True))
    assert ticks == {0.5: "start of context", 2.5: "end of context"}
    assert "40 % · full 67 %" in text(figure)  # mean score 2 of 5; six of nine rows hold the full needle
    assert len(squares(figures.retrieval_maps(rows[1:], None, None).axes[0])) == 8  # a cell that was not run
    several = [a for a in DRAWN["retrieval_maps"]().axes if a.patches][:4]
    assert [a.get_ylim() for a in several] == [(3, 0)] * 4
    assert [max(squares(a).values()) for a in several] == [5, 0, 5, 0]


def test_window_edge_parts_visible_needles_from_the_others():
    (edge,) = figures.retrieval_maps(cells(), None, None).axes[0].collections
    segments = {tuple(map(tuple, s)) for s in edge.get_segments()}
    # In the window: all of 80; of 300 the depths 50 and 100; of 512 only depth 100.
    assert segments == {((1, 0), (1, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2)), ((2, 2), (3, 2))}


def test_maps_of_a_rubric_of_ten_points_show_shares_of_ten():
    ten = cells().assign(rubric="2025-05", score=lambda rows: 2 * rows["score"])
    drawn, of_five = (figures.retrieval_maps(rows, None, None).axes for rows in (ten, cells()))
    assert drawn[0].get_title() == of_five[0].get_title() and squares(drawn[0]) == squares(of_five[0])
    labels = [axes[1].get_ylabel() for axes in (drawn, of_five)]
    assert labels == ["mean score (scaled to 0 to 5)", "mean score (0 to 5)"]


def test_what_is_written_into_figures_is_what_was_measured():
    shown = text(figures.table1(pairs(), {("Keep", "Keep"): 0.503, ("Null", "Omit"): 0.0}))
    assert f"{INSIDE:.1f} %" in shown and shown.count("paper 50.3") == shown.count("paper 0.0") == 1
    shown = text(DRAWN["weights"]())
    assert all(f"on the needle {share} %, on all other tokens 80.0 %" in shown for share in ("20.0", "0.0"))


def test_head_selection_frames_exactly_the_kept_heads():
    bits = np.random.default_rng(0).random((4, 3))
    kept = np.zeros((4, 3), dtype=bool)
    kept[2, 0] = kept[1, 2] = True
    axes = figures.head_selection({"layer 2": bits}, {"layer 2": kept}, list("abc"), "note").axes[0]
    assert {(int(p.get_x()), int(p.get_y())) for p in axes.patches} == {(0, 2), (2, 1)}


def test_by_distance_counts_in_windows():
    line = lines_of(DRAWN["by_distance"]().axes[0])["keep-keep"]
    near, far = (line.get_ydata()[line.get_xdata() < 1], line.get_ydata()[line.get_xdata() > 1])
    assert set(near) == {100.0} and set(far) == {0.0} and len(near) and len(far)


def test_saved_files_are_the_same_every_time_and_keep_their_text(tmp_path, monkeypatch):
    monkeypatch.setenv("HYBRET_RUN_FILES", str(tmp_path / "files"))
    before = dict(matplotlib.rcParams)
    for folder in ("one", "two"):
        picture = figures.save(figures.accuracy_by_k(curves()), "by-k", tmp_path / folder)
        assert picture._repr_mimebundle_()["image/svg+xml"] == picture.svg.read_text()
    assert dict(matplotlib.rcParams) == before  # the settings of the reader
    for suffix in ("svg", "pdf"):
        one, two = ((tmp_path / folder / f"by-k.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
    svg = (tmp_path / "one" / "by-k.svg").read_text()
    assert re.search(r"<text[^>]*>generation version</text>", svg) and "<dc:date>" not in svg
    assert len(svg) < 60_000
    written = (tmp_path / "files").read_text().splitlines()
    assert written == [str(tmp_path / f"{folder}/by-k.{kind}") for folder in ("one", "two") for kind in ("svg", "pdf")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.accuracy_by_k(control(cells(), 0.0)), "no rows with a needle"),
        (lambda: figures.table1(cells(prefill="k=3")), "no manipulations"),
        (lambda: figures.weights(MANIPULATED, (18, 25), TOKENS, ""), "each of the 20 tokens"),
        (lambda: figures.head_selection({"a": np.zeros((2, 3))}, {}, list("abc"), ""), "must both be"),
        (lambda: figures.save(Figure(), "../x", "."), "plain file name"),
        (lambda: figures.save(Figure(), "x", "/dev/null/x"), "cannot write a figure"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(HybretError, match=re.escape(message)):
        call()
