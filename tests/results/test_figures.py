"""Figures: what is drawn is what the rows say, it can be read by everybody, and a file is the same every time."""

import itertools
import re
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_figures_speed import CPU, LAYER

from book.paper import figures as paper_figures
from book.paper.only_keep import PARTS
from book.speed import figures as speed_figures
from hybret import figures, metrics
from hybret.errors import HybretError
from hybret.figures.style import COLOURS

ELSEWHERE = (
    "benchmarks",
    "duration",
    "glue",
    "measured",
    "save",
    "subtasks",
    "verdicts",
    "words",
)  # no figure, or tested there
LENGTHS, DEPTHS = (80, 300, 512), (0.0, 50.0, 100.0)


def cells(**columns) -> pd.DataFrame:
    """One row per cell of a 3 x 3 grid; the score is 5 unless the needle is out of the window."""
    rows = []
    for length, depth in itertools.product(LENGTHS, DEPTHS):
        distance = int(length * (1 - depth / 100)) + 10
        inside = distance < 256
        rows.append(
            {
                "model": "griffin-tiny", "weights": "0123456789ab", "recipe": "CORRECTED", "template": "base",
                "condition": "keep", "needle": "paper", "length": length, "depth": depth, "distance": distance,
                "in_window": inside, "score": 5.0 * inside, "exact": inside, "prompt": f"{length}-{depth}",
                "rubric": "table2", "generation": "keep", "prefill": "keep", "k": 10, "during": "generation",
            }
        )  # fmt: skip
    return pd.DataFrame(rows).assign(**columns).astype({"k": "Int64"})


def control(rows: pd.DataFrame, score: float) -> pd.DataFrame:
    """The no-needle prompts of `rows`: one for each length."""
    kept = rows[rows["depth"] == 0]
    return kept.assign(needle="none", depth=np.nan, distance=-1, in_window=False, score=score, exact=False)


@pytest.fixture
def sweep() -> pd.DataFrame:
    parts = [cells(k=k, during=d) for k in (1, 10) for d in ("generation", "both")]
    silent = [cells(k=0, during=d, score=0.0, exact=False) for d in ("generation", "both")]
    rows = pd.concat([*parts, *silent], ignore_index=True)
    return pd.concat([rows, control(rows, score=0.5)], ignore_index=True)


@pytest.fixture
def pairs() -> pd.DataFrame:
    table = [cells(prefill=p, generation=g, condition=f"{g}-{p}") for p in ("keep", "null") for g in ("keep", "omit")]
    rows = pd.concat(table, ignore_index=True)
    omit = rows["generation"] == "omit"
    return rows.assign(score=rows["score"].mask(omit, 0.0), exact=rows["exact"] & ~omit)


def text(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def arms() -> dict:
    original = np.full(20, 0.05)
    omit = original.copy()
    omit[5:9] = 0
    return {"Keep": original, "Omit": omit}


TOKENS = [f"t{i}" for i in range(20)]
FORKS = pd.DataFrame(
    {
        "field": ["binary", "needle_span", "jamba_manipulation"],
        "condition": ["Binary-Keep", "Only-Keep", "Omit-Keep"],
        "difference": [0.01, -0.2, np.nan],
        "low": [-0.02, -0.3, np.nan],
        "high": [0.04, -0.1, np.nan],
    }
)
SHARES = pd.DataFrame(
    [
        {"layer": f"layer {layer}", "step": step, "part": part, "mass": (0.3, 0.25, 0.2, 0.1, 0.1, 0.05)[i]}
        for layer, step, (i, part) in itertools.product((2, 5), (0, 1), enumerate(PARTS))
    ]
)


def every_figure(sweep: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Figure]:
    generation = sweep[sweep["during"] == "generation"]
    jrt = pd.concat([generation, generation.assign(template="jrt")])
    bits = {"layer 2": np.arange(12.0).reshape(4, 3)}
    return {
        "accuracy_by_k": figures.accuracy_by_k(sweep),
        "jrt_by_k": figures.jrt_by_k(jrt),
        "retrieval_maps": figures.retrieval_maps(pairs, "prefill", "generation"),
        "annotated_map": figures.annotated_map(cells()),
        "weights": figures.weights(arms(), (5, 9), TOKENS, "model griffin-tiny (01234567)"),
        "head_selection": figures.head_selection(bits, {"layer 2": bits["layer 2"] < 3}, list("abc"), "griffin-tiny"),
        "table1": figures.table1(pairs, {("Keep", "Keep"): 0.503}),
        "by_distance": figures.by_distance(pairs, window=256),
        "departures": paper_figures.departures(FORKS, "model griffin-tiny"),
        "home": figures.home(generation),
        "arms": paper_figures.arms(
            metrics.accuracy(pairs.assign(arm=pairs["condition"]), by="arm"), "griffin-tiny", "arms"
        ),
        "attention_parts": paper_figures.attention_parts(SHARES, ["The", " best"], "griffin-tiny"),
        "doses": paper_figures.doses(pairs.assign(mass=pairs["length"] / 80), "mass", "mass", by="condition"),
        "speed": speed_figures.speed(speed_figures.measured([CPU])),
        "scaling": speed_figures.scaling([LAYER]),
    }


def test_every_figure_names_its_model_and_labels_its_axes(sweep, pairs):
    drawn = every_figure(sweep, pairs)
    assert set(drawn) | {*ELSEWHERE} == set(figures.__all__)
    for name, figure in drawn.items():
        assert "griffin-tiny" in text(figure), name
        labelled = [a for a in figure.axes if a.get_xlabel() or a.get_ylabel()]
        assert labelled or "prompt length (tokens)" in text(figure), name
        sizes = [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text().strip()]
        assert min(sizes) >= 8, name


@pytest.mark.parametrize("name", ["accuracy_by_k", "retrieval_maps", "table1"])
def test_figures_from_rows_state_recipe_and_n(sweep, pairs, name):
    said = text(every_figure(sweep, pairs)[name])
    assert "recipe CORRECTED" in said and "n = 9 prompts" in said and "01234567" in said


def test_accuracy_by_k_draws_both_versions_over_the_floor(sweep):
    axes = figures.accuracy_by_k(sweep).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    curve, floor = lines["generation version"], lines["generation version, floor (no needle)"]
    inside = 100 * cells()["in_window"].mean()
    assert curve.get_xdata().tolist() == [0, 1, 10] and curve.get_ydata().tolist() == pytest.approx([0, inside, inside])
    assert floor.get_ydata().tolist() == pytest.approx([10, 10, 10])
    assert floor.get_zorder() < curve.get_zorder()
    assert "prefill version" in lines and len(axes.collections) == 4  # two bands, two floors


def test_full_needles_and_the_papers_tipping_point_stand_beside_the_mean(sweep):
    lowered = sweep.assign(exact=sweep["exact"] & (sweep["k"] == 10))
    lines = {line.get_label(): line for line in figures.accuracy_by_k(lowered).axes[0].get_lines()}
    inside = 100 * cells()["in_window"].mean()
    assert lines["generation version, full needle"].get_ydata().tolist() == pytest.approx([0, 0, inside])
    assert lines["tipping point of RG-2B"].get_xdata().tolist() == [1]  # ten heads, as RG-2B
    assert "tipping point" not in text(figures.accuracy_by_k(lowered[lowered["k"] < 10]))


def test_a_curve_that_ends_below_all_heads_is_not_taken_for_a_smaller_model(sweep):
    acted = sweep.assign(acted_prefill=0, acted_generation=np.where(sweep["k"] < 10, 7, 0))
    for rows, whole in ((sweep, True), (acted, True), (acted.assign(acted_generation=7), False)):
        said = text(figures.accuracy_by_k(rows))
        assert ("of 10" in said, "tipping point" in said) == (whole, whole)
    with pytest.raises(HybretError, match="end below all its heads, which this figure shows; run that k as well"):
        figures.home(acted.assign(acted_generation=7).query("during == 'generation'"))


def three(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as those of three models with different heads; the last one is instruction-tuned."""
    named = {"griffin-tiny": 10, "griffin-small": 16, "jamba-tiny": 32}
    parts = [rows.assign(model=m, k=rows["k"].replace(10, heads)) for m, heads in named.items()]
    parts[2] = parts[2].assign(template=parts[2]["template"].replace("base", "instruct"), in_window=True)
    return pd.concat(parts, ignore_index=True)


def test_models_stand_side_by_side_each_with_its_own_heads(sweep):
    rows = three(sweep)
    for figure in (figures.accuracy_by_k(rows), figures.jrt_by_k(rows[rows["during"] == "generation"])):
        assert [axes.get_title() for axes in figure.axes] == ["griffin-tiny", "griffin-small", "jamba-tiny"]
        assert [axes.get_xlabel().split()[-1] for axes in figure.axes] == ["10", "16", "32"]
        assert [axes.get_ylabel() != "" for axes in figure.axes] == [True, False, False]
        assert all(name in text(figure) for name in ("griffin-tiny (01234567)", "jamba-tiny (01234567)"))
    once = text(figures.jrt_by_k(rows[rows["during"] == "generation"]))
    assert "JRT" not in once and once.count("standard prompt") == 1
    tips = [line.get_label() for a in figures.accuracy_by_k(rows).axes for line in a.get_lines()]
    assert [label for label in tips if label.startswith("tipping")] == [
        f"tipping point of {name}" for name in ("RG-2B", "RG-9B", "Jamba")
    ]


def test_maps_of_several_models_share_rows_for_what_a_reader_calls_alike(sweep):
    rows = three(sweep[(sweep["during"] == "generation") & (sweep["k"] == 10)])
    figure = figures.retrieval_maps(pd.concat([rows, rows.assign(template="jrt")]), "template", "model")
    maps = [axes for axes in figure.axes if axes.patches]
    assert len(maps) == 6 and [a.get_ylabel() for a in maps if a.get_ylabel()] == [
        "standard prompt",
        "JRT (read twice)",
    ]
    assert [a.get_title().split("\n")[0] for a in maps[:3]] == ["griffin-tiny", "griffin-small", "jamba-tiny"]
    edges = [len(c.get_segments()) for a in maps for c in a.collections]
    assert edges == [4, 4, 0, 4, 4, 0]  # global attention has no edge


def test_home_puts_models_with_different_heads_on_one_scale(sweep):
    figure = figures.home(three(sweep[sweep["during"] == "generation"]))
    curve = figure.axes[0]
    ends = {line.get_label(): line.get_xdata()[-1] for line in curve.get_lines()}
    assert [ends[name] for name in ("griffin-tiny", "griffin-small", "jamba-tiny")] == pytest.approx([100] * 3)
    assert "griffin-tiny, all 10 heads kept" in text(figure) and "jamba-tiny, all" not in text(figure)


def test_floor_rows_may_come_apart(sweep):
    needle = sweep[sweep["needle"] != "none"]
    assert "floor" not in text(figures.accuracy_by_k(needle))
    assert "floor" in text(figures.accuracy_by_k(needle, control(needle, 1.0)))


def test_the_floor_of_another_needle_is_not_drawn(sweep):
    rows = sweep.assign(asked="a", haystack="h")
    needle, ground = rows[rows["needle"] != "none"], rows[rows["needle"] == "none"]
    assert "floor" in text(figures.accuracy_by_k(pd.concat([needle, ground])))
    for strange in (ground.assign(asked="b"), ground.assign(haystack="hills"), ground.assign(template="jrt")):
        assert "floor" not in text(figures.accuracy_by_k(pd.concat([needle, strange])))
        assert "floor" not in text(figures.home(pd.concat([needle, strange]).query("during == 'generation'")))
        with pytest.raises(HybretError, match="floor_rows are the control of other rows; give that of the same needle"):
            figures.accuracy_by_k(needle, strange)


MIXED = [{"needle": "lamp"}, {"haystack": "hills"}, {"weights": "other"}, {"dtype": "bfloat16"}, {"template": "jrt"},
         {"recipe": "PAPER"}, {"intervention": "KeepHeads(k=10, metric='l2')"}]  # fmt: skip


@pytest.mark.parametrize("other", MIXED, ids=[next(iter(each)) for each in MIXED])
@pytest.mark.parametrize(
    "name", ["accuracy_by_k", "retrieval_maps", "annotated_map", "home", "table1", "by_distance", "doses"]
)
def test_no_figure_averages_what_is_not_alike_without_a_word(name, other):
    rows = cells(haystack="h", dtype="float32", intervention="KeepHeads(k=10, metric='entropy')", dose=1)
    more = {"by_distance": (256,), "doses": ("dose", "dose", "condition")}.get(name, ())
    ((column, value),) = other.items()
    draw = getattr(figures, name)
    draw(rows, *more)
    with pytest.raises(HybretError, match=f"mix several values of '{column}' in one mean .*{re.escape(value)}"):
        draw(pd.concat([rows, rows.assign(**other)]), *more)
    with pytest.raises(HybretError, match="are there twice, the same condition on the same prompt"):
        draw(pd.concat([rows, rows]), *more)


def test_seeds_of_one_haystack_are_averaged():
    rows = pd.concat([cells(haystack_seed=seed, prompt=[f"{seed}-{i}" for i in range(9)]) for seed in (0, 1)])
    assert "n = 18 prompts a map" in text(figures.retrieval_maps(rows, None, None))


def test_n_counts_prompts_and_not_cells():
    rows = cells(prompt=[f"p{max(i, 2)}" for i in range(9)])  # the first three cells are one prompt
    assert "n = 7 prompts a map" in text(figures.retrieval_maps(rows, None, None))
    assert "n = 7 prompts each" in text(figures.accuracy_by_k(rows))


def test_rounding_makes_no_other_cells_lines_or_maps():
    rows = cells()
    noisy = rows.assign(
        depth=rows["depth"] * (1 + 1e-15) + 1e-13,
        length=rows["length"] + 1000,
        k=rows["k"].astype(float) * (1 - 1e-15),
        prompt="other " + rows["prompt"],
    )
    both = pd.concat([rows.assign(k=rows["k"].astype(float)), noisy], ignore_index=True)
    assert both["depth"].nunique() > 3 and both["k"].nunique() == 2
    figure = figures.retrieval_maps(both)
    (drawn,) = [axes for axes in figure.axes if axes.patches and axes.get_title()]
    assert drawn.get_title().startswith("k = 10\n") and len(scores_at(drawn)) == 18
    line = next(
        line for line in figures.accuracy_by_k(both).axes[0].get_lines() if line.get_label() == "generation version"
    )
    assert line.get_xdata().tolist() == [10]
    dosed = paper_figures.doses(both.assign(dose=[0.3, 0.1 + 0.2] * 9), "dose", "dose", by="condition").axes[0]
    assert len(dosed.get_lines()[0].get_xdata()) == 1


@pytest.mark.parametrize(("maps", "lines"), [(1, 1), (5, 1), (6, 2), (7, 2), (12, 3), (13, 4), (20, 5)])
def test_many_maps_go_on_in_further_lines(maps, lines):
    labels = [f"condition {i} of a dozen, with a long name" for i in range(maps)]
    rows = pd.concat([cells(condition=label) for label in labels])
    figure = figures.retrieval_maps(rows, None, "condition")
    figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if len(scores_at(axes)) == 9]
    assert len(drawn) == maps and len({round(axes.get_position().y0, 2) for axes in drawn}) == lines
    width, height = figure.get_size_inches()
    sizes = {(axes.get_position().width * width, axes.get_position().height * height) for axes in drawn}
    assert width <= 7 and height < 13
    assert min(w for w, _ in sizes) > 0.9 and min(h for _, h in sizes) > 0.6  # inches
    titles = [axes.title.get_window_extent() for axes in drawn]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(titles, 2))
    assert [" ".join(axes.get_title().split("\n")[:-1]) for axes in drawn] == labels


def test_lines_differ_in_marker_and_in_a_colour_that_colour_blind_readers_see(sweep):
    drawn = figures.accuracy_by_k(sweep).axes[0].get_lines()
    lines = [line for line in drawn if line.get_label() in ("generation version", "prefill version")]
    assert len({line.get_marker() for line in lines}) == len(lines) == 2
    assert {line.get_color() for line in lines} <= set(COLOURS)
    # Viénot's simulation of missing red and green cones: all pairs stay well apart.
    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    blind = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    for kind, missing in blind.items():
        seen = [np.linalg.inv(lms) @ missing @ lms @ np.array(to_rgb(c)) for c in COLOURS]
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.1, kind


def scores_at(axes) -> dict[tuple[float, float], float]:
    """(column, row) of every square of a map, to its score."""
    found = {}
    for patch in axes.patches:
        if (patch.get_gid() or "").startswith("score-"):
            corners = patch.get_path().vertices.reshape(-1, 5, 2)[:, 0]
            found |= {tuple(corner): float(patch.get_gid().removeprefix("score-")) for corner in corners.tolist()}
    return found


def test_map_has_the_right_cells_and_the_start_of_the_context_on_top():
    rows = cells()
    rows["score"] = np.arange(9) / 2.0  # length major, then depth
    figure = figures.retrieval_maps(rows, None, None)
    axes = figure.axes[0]
    expected = {(x, y): (3 * x + y) / 2 for x in range(3) for y in range(3)}
    assert scores_at(axes) == expected
    assert axes.get_ylim() == (3, 0)  # row 0, depth 0, is drawn at the top
    ticks = dict(zip(axes.get_yticks(), [t.get_text() for t in axes.get_yticklabels()], strict=True))
    assert ticks == {0.5: "start of context", 2.5: "end of context"}
    assert "40 % · full 67 %" in text(figure)  # mean score 2 of 5; six of nine rows hold the full needle


def test_shared_axes_keep_the_orientation(pairs):
    grid = [a for a in figures.retrieval_maps(pairs, "prefill", "generation").axes if a.patches][:4]
    assert [a.get_ylim() for a in grid] == [(3, 0)] * 4
    assert [max(scores_at(a).values()) for a in grid] == [5, 0, 5, 0]


def test_window_edge_parts_visible_needles_from_the_others():
    (edge,) = figures.retrieval_maps(cells(), None, None).axes[0].collections
    segments = {tuple(map(tuple, s)) for s in edge.get_segments()}
    # In the window: all of 80; of 300 the depths 50 and 100; of 512 only depth 100.
    assert segments == {((1, 0), (1, 1)), ((1, 1), (2, 1)), ((2, 1), (2, 2)), ((2, 2), (3, 2))}


def test_the_annotated_map_marks_the_best_and_the_worst_cell():
    figure = figures.annotated_map(cells())
    placed = {t.get_text(): t.get_position() for t in figure.axes[0].texts}
    assert set(placed) == set("12345")
    scores = scores_at(figure.axes[0])
    assert [scores[tuple(c - 0.5 for c in placed[n])] for n in "34"] == [5.0, 0.0]


def test_maps_of_a_rubric_of_ten_points_show_shares_of_ten():
    ten = cells().assign(rubric="2025-05", score=lambda rows: 2 * rows["score"])
    for draw in (partial(figures.retrieval_maps, row_by=None, col_by=None), figures.annotated_map):
        axes, bar, *_ = draw(ten).axes
        assert axes.get_title() == draw(cells()).axes[0].get_title()
        assert scores_at(axes) == scores_at(draw(cells()).axes[0])
        assert (bar.get_ylabel(), draw(cells()).axes[1].get_ylabel()) == (
            "mean score (scaled to 0 to 5)",
            "mean score (0 to 5)",
        )


def test_cells_that_were_not_run_are_not_scores():
    rows = cells()[1:]
    assert len(scores_at(figures.retrieval_maps(rows, None, None).axes[0])) == 8


def test_table1_shows_ours_beside_the_papers(pairs):
    said = text(figures.table1(pairs, {("Keep", "Keep"): 0.503, ("Null", "Omit"): 0.0}))
    assert f"{100 * cells()['in_window'].mean():.1f} %" in said
    assert said.count("paper 50.3") == 1 and said.count("paper 0.0") == 1


def test_weights_state_the_share_on_the_needle():
    said = text(figures.weights(arms(), (5, 9), TOKENS, "note"))
    assert "on the needle 20.0 %, on all other tokens 80.0 %" in said
    assert "on the needle 0.0 %, on all other tokens 80.0 %" in said


def test_head_selection_frames_exactly_the_kept_heads():
    bits = np.random.default_rng(0).random((4, 3))
    kept = np.zeros((4, 3), dtype=bool)
    kept[2, 0] = kept[1, 2] = True
    axes = figures.head_selection({"layer 2": bits}, {"layer 2": kept}, list("abc"), "note").axes[0]
    assert {(int(p.get_x()), int(p.get_y())) for p in axes.patches} == {(0, 2), (2, 1)}


def test_departures_mark_intervals_without_zero_and_what_cannot_show():
    axes = paper_figures.departures(FORKS, "note").axes[0]
    points = {line.get_marker(): line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 1}
    assert points == {"o": pytest.approx(1.0), "D": pytest.approx(-20.0)}
    assert "cannot show" in text(axes.figure)


def test_parts_of_attention_fill_every_step():
    figure = paper_figures.attention_parts(SHARES, ["The", " best"], "note")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["layer 2", "layer 5"]
    for axes in figure.axes:
        tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
        assert len(tops) == 2 * len(PARTS) and tops[-2:] == pytest.approx([100, 100])
        assert axes.patches[0].get_height() == pytest.approx(30)  # the needle's share, at the bottom


def test_doses_draw_the_accuracy_at_each(pairs):
    axes = paper_figures.doses(pairs.assign(mass=pairs["length"] / 80), "mass", "mass", by="condition").axes[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "keep-keep")
    expected = 100 * cells().groupby("length")["in_window"].mean()
    assert line.get_xdata().tolist() == [n / 80 for n in LENGTHS]
    assert line.get_ydata().tolist() == pytest.approx(expected.tolist())


def test_by_distance_counts_in_windows(pairs):
    axes = figures.by_distance(pairs[pairs["condition"] == "keep-keep"], window=256).axes[0]
    line = next(line for line in axes.get_lines() if line.get_label() == "keep-keep")
    near, far = (line.get_ydata()[line.get_xdata() < 1], line.get_ydata()[line.get_xdata() > 1])
    assert set(near) == {100.0} and set(far) == {0.0} and len(near) and len(far)


@pytest.mark.parametrize("rows", [cells()[:1], cells(k=3), cells()[cells()["depth"] == 0]], ids=["row", "k", "depth"])
def test_little_data_is_drawn(rows, tmp_path):
    for i, draw in enumerate((figures.accuracy_by_k, figures.jrt_by_k, figures.retrieval_maps, figures.home)):
        figures.save(draw(rows), f"figure-{i}", tmp_path)
    figures.save(figures.by_distance(rows, window=None), "distance", tmp_path)
    figures.save(figures.table1(rows), "table", tmp_path)
    assert len(list(tmp_path.glob("*.svg"))) == 6


def test_saved_files_are_the_same_every_time_and_keep_their_text(sweep, tmp_path):
    for folder in ("one", "two"):
        picture = figures.save(figures.accuracy_by_k(sweep), "by-k", tmp_path / folder)
        assert picture._repr_mimebundle_()["image/svg+xml"] == picture.svg.read_text()
    for suffix in ("svg", "pdf"):
        one, two = ((tmp_path / folder / f"by-k.{suffix}").read_bytes() for folder in ("one", "two"))
        assert one == two
    svg = (tmp_path / "one" / "by-k.svg").read_text()
    assert re.search(r"<text[^>]*>generation version</text>", svg) and "<dc:date>" not in svg
    assert len(svg) < 60_000


def test_settings_of_the_reader_are_left_alone(sweep):
    before = dict(matplotlib.rcParams)
    figures.accuracy_by_k(sweep)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.retrieval_maps(cells(), None, None, palette="jet"), "unknown palette 'jet'"),
        (lambda: figures.accuracy_by_k(control(cells(), 0.0)), "no rows with a needle"),
        (lambda: figures.table1(cells(prefill="k=3")), "no manipulations"),
        (lambda: figures.weights(arms(), (18, 25), TOKENS, ""), "one weight for each of the 20 tokens"),
        (lambda: figures.head_selection({"a": np.zeros((2, 3))}, {}, list("abc"), ""), "must both be"),
        (lambda: paper_figures.departures(FORKS[:0], ""), "the table is empty"),
        (lambda: paper_figures.arms(FORKS[:0], "", "arms"), "the table is empty"),
        (lambda: paper_figures.attention_parts(SHARES, ["The"], ""), "2 steps and 1 tokens"),
        (lambda: figures.save(Figure(), "../x", "."), "plain file name"),
        (lambda: figures.save(Figure(), "x", "/dev/null/x"), "cannot write a figure"),
    ],
)
def test_bad_input_is_said_in_one_sentence(call, message):
    with pytest.raises(HybretError, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_authors_palette_is_an_option():
    faces = {
        palette: figures.retrieval_maps(cells(), None, None, palette).axes[0].patches[-1].get_facecolor()[:3]
        for palette in ("cividis", "authors")
    }
    assert faces["authors"] == pytest.approx(to_rgb("#0CD79F"), abs=0.01) and faces["cividis"] != faces["authors"]
