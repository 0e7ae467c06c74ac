"""Prompts: the grid's labels, where the needle is, and what is refused."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hybret.errors import HybretError
from hybret.prompts import PAPER_NEEDLE, Needle
from hybret.recipe import CORRECTED, PAPER
from hybret.tasks import niah
from hybret.tasks.niah import grid

ESSAYS = Path(__file__).parents[2].parent / "shared" / "niah" / "essays"
LENGTHS = [250, 677, 1105, 1532, 1959, 2387, 2814, 3241, 3669, 4096]
DEPTHS = [0, 11, 22, 33, 44, 56, 67, 78, 89, 100]
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def words(n: int) -> str:
    """Prose of `n` short sentences, every fourth one a question, every seventh with 3.5 in it."""
    nouns = ["river", "house", "garden", "letter", "summer", "engine", "window", "mountain", "teacher", "market"]
    verbs = ["keeps", "finds", "leaves", "opens", "follows", "carries", "watches", "paints"]
    out = []
    for i in range(n):
        number = " about 3.5 miles away" if i % 7 == 3 else ""
        end = "?" if i % 4 == 3 else "."
        first, second = nouns[i % 10], nouns[(i * 3 + 1) % 10]
        out.append(f"The {first} {verbs[i % 8]} a {second} near the {nouns[i * 7 % 10]}{number}{end}")
    return " ".join(out)


HAY = words(600)
ENDING = "ANSWER: Here is the most relevant sentence in the context: "
FRAME = f"CONTEXT: QUESTION: {PAPER_NEEDLE.question} ANSWER: Here is the most relevant sentence in the context: "


def byte_level(bos: bool = True, chat: str | None = CHAT) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<bos>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([HAY, 4 * PAPER_NEEDLE.sentence, 4 * FRAME], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>")
    tokenizer.chat_template = chat
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


def real_depth(prompt: niah.Prompt) -> int:
    return prompt.text.index(PAPER_NEEDLE.sentence)


def test_the_papers_grid_has_its_labels(tokenizer):
    prompts = grid(tokenizer, haystack=HAY)
    assert [(p.length, p.depth) for p in prompts] == [(n, d) for n in LENGTHS for d in DEPTHS]


def test_a_model_gives_its_own_lengths_and_buffer(tokenizer):
    spec = SimpleNamespace(
        tokenizer=tokenizer, lengths=(80, 128, 176, 224, 272, 320, 368, 416, 464, 512), buffer=40, instruct=False
    )
    prompts = grid(spec, depths=[50], haystack=HAY)
    assert [p.length for p in prompts] == list(spec.lengths)
    assert [p.length for p in grid(spec, lengths=3, depths=1, haystack=HAY)] == [80, 296, 512]
    # Haystack and needle fill the label less the buffer; template, question and BOS come on top.
    extra = len(prompts[0].ids) - (80 - 40)
    assert 15 < extra < 60
    assert all(abs(len(p.ids) - (p.length - 40) - extra) <= 3 for p in prompts)


@pytest.mark.parametrize("template", ["base", "instruct", "jrt"])
@pytest.mark.parametrize("recipe", [CORRECTED, PAPER], ids=lambda r: r.name)
def test_spans_hold_the_needle_and_nothing_else(tokenizer, template, recipe):
    prompts = grid(tokenizer, [250, 1105, 4096], 10, template, HAY, recipe=recipe)
    for p in prompts:
        assert len(p.needle_spans) == (2 if template == "jrt" else 1)
        for start, end in p.needle_spans:
            assert tokenizer.decode(p.ids[start:end]) == PAPER_NEEDLE.sentence
        assert p.ids.count(tokenizer.bos_token_id) == 1
        assert list(p.ids) == tokenizer(p.text)["input_ids"]
        assert p.ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("template", ["base", "instruct", "jrt"])
@pytest.mark.parametrize("control", [False, True], ids=["needle", "control"])
def test_the_question_span_is_its_last_copy(tokenizer, template, control):
    """Also where the needle comes after the question's first copy; what follows is the template's ending alone."""
    asked = f"QUESTION: {PAPER_NEEDLE.question}"
    for p in grid(tokenizer, [250, 1105], [0, 50, 100], template, HAY, control=control):
        start, end = p.question_span
        assert tokenizer.decode(p.ids[start:end]) == asked
        assert tokenizer.decode(p.ids[end:]) == p.text.rpartition(asked)[2]
        assert tokenizer.decode(p.ids[end:]).endswith("[assistant]" if template == "instruct" else "context: ")
        assert tokenizer.decode(p.ids[1:]).count(asked) == (2 if template == "jrt" else 1)
        assert all(last <= start for _, last in p.needle_spans)


def test_a_tokenizer_without_bos_gets_none():
    plain = byte_level(bos=False)
    (p,) = grid(plain, [400], [50], haystack=HAY)
    assert list(p.ids) == plain(p.text)["input_ids"]
    assert plain.decode(p.ids[slice(*p.needle_spans[0])]) == PAPER_NEEDLE.sentence


def test_templates(tokenizer):
    (control,) = grid(tokenizer, [400], [50], haystack=HAY, control=True)
    context = control.text.removeprefix("CONTEXT: ").split("\n\n")[0]
    question = PAPER_NEEDLE.question
    ending = "\n\nANSWER: Here is the most relevant sentence in the context: "
    block = f"CONTEXT: {context}\n\nQUESTION: {question}"
    order = " Output the most relevant sentence in the context, word by word!"
    assert control.text == block + ending
    (jrt,) = grid(tokenizer, [400], [50], "jrt", HAY, control=True)
    assert jrt.text == f"{block}\n\n{block}{ending}"
    (chat,) = grid(tokenizer, [400], [50], "instruct", HAY, control=True)
    assert chat.text == f"[user] {block}{order} [/][assistant]"
    spec = SimpleNamespace(tokenizer=tokenizer, instruct=True)
    (both,) = grid(spec, [400], [50], "jrt", HAY, control=True)
    assert both.text == f"[user] {block}\n\n{block}{order} [/][assistant]"
    assert both.template == "jrt" and both.length == 400


def test_a_prompt_is_the_papers_letter_by_letter(tokenizer):
    question = "What is the best thing to do in San Francisco?"
    sentence = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
    hay = "One two. " * 100
    (prompt,) = grid(tokenizer, (260,), (0,), haystack=hay)
    context = hay[: len(prompt.text) - len(f"CONTEXT: \n{sentence}\n\n\nQUESTION: {question}\n\n{ENDING}")]
    assert prompt.text == f"CONTEXT: \n{sentence}\n{context}\n\nQUESTION: {question}\n\n{ENDING}"
    cost = len(tokenizer(f"\n{sentence}\n", add_special_tokens=False)["input_ids"])
    assert len(tokenizer(context, add_special_tokens=False)["input_ids"]) == 260 - 200 - cost
    assert (prompt.needle, prompt.question, prompt.reference) == ("paper", question, sentence)
    assert prompt.keywords == ("eat a sandwich", "sit in Dolores Park", "sunny day")
    assert len(prompt.key) == 12 and not prompt.control and prompt.haystack_seed == 0
    (control,) = grid(tokenizer, (260,), haystack=hay, control=True)
    assert control.text == f"CONTEXT: {context}\n\nQUESTION: {question}\n\n{ENDING}" and control.control
    shortest = 200 + cost + 1
    assert grid(tokenizer, (shortest,), (100,), haystack=hay)[0].position == 1
    with pytest.raises(HybretError, match=f"the shortest length is {shortest}"):
        grid(tokenizer, (260, shortest - 1), (0,), haystack=hay)
    for value in (prompt, PAPER_NEEDLE):
        with pytest.raises(AttributeError):
            value.question = "?"


def test_only_as_much_haystack_is_needed_as_the_longest_prompt_takes(tokenizer):
    cost = len(tokenizer(PAPER_NEEDLE.insertion, add_special_tokens=False)["input_ids"])
    hay = "One two. " * 20
    size = len(tokenizer(hay, add_special_tokens=False)["input_ids"])
    grid(tokenizer, (200 + cost + size,), (0,), haystack=hay)
    with pytest.raises(HybretError, match="give a longer haystack"):
        grid(tokenizer, (200 + cost + size + 1,), (0,), haystack=hay)


def test_labels_that_would_repeat_are_refused(tokenizer):
    with pytest.raises(HybretError, match="102 depths between 0 and 100 would repeat some"):
        grid(tokenizer, (260,), 102, haystack=HAY)
    assert len(grid(tokenizer, (260,), 101, haystack=HAY)) == 101


def test_jrt_goes_through_the_chat_template_of_an_instruction_tuned_model_alone(tokenizer):
    options = {"haystack": HAY, "template": "jrt"}
    (base,) = grid(SimpleNamespace(tokenizer=tokenizer, instruct=False), (260,), (0,), **options)
    (chat,) = grid(SimpleNamespace(tokenizer=tokenizer, instruct=True), (260,), (0,), **options)
    (plain,) = grid(SimpleNamespace(tokenizer=tokenizer, instruct=True), (260,), (0,), haystack=HAY)
    assert base.text.startswith("CONTEXT: ") and base.text.endswith(ENDING)
    assert chat.text.startswith("[user] CONTEXT: ") and chat.text.endswith("[assistant]")
    assert plain.text.startswith("CONTEXT: ")


def test_needle_goes_deeper_with_depth_and_stands_after_a_sentence(tokenizer):
    prompts = grid(tokenizer, [2000], 10, haystack=HAY)
    places = [real_depth(p) for p in prompts]
    assert places == sorted(places) and len(set(places)) == 10
    assert prompts[0].text.startswith("CONTEXT: \nThe best thing")
    assert all(p.text[at - 2] in ".?" for p, at in zip(prompts[1:-1], places[1:-1], strict=True))
    assert [p.position for p in prompts[:1] + prompts[-1:]] == [0.0, 1.0]
    for p in prompts:
        assert 0 <= p.depth / 100 - p.position < 0.05


def test_token_id_misses_the_sentence_ends_that_characters_find(tokenizer):
    ask = "Is it so? " * 10 + "It is. " + "Is it so? " * 200
    by_id = grid(tokenizer, [1000], [5, 90], haystack=ask, recipe=PAPER)
    by_character = grid(tokenizer, [1000], [5, 90], haystack=ask, recipe=CORRECTED)
    assert by_id[0].position == 0
    assert by_character[0].position > 0.03
    assert "It is.\nThe best thing" in by_id[1].text
    assert "so?\nThe best thing" in by_character[1].text


def test_a_decimal_point_is_no_sentence_end_and_a_lost_paragraph_break_is(tokenizer):
    text = "one 3.5 and 4.5 " * 200
    assert {p.position for p in grid(tokenizer, [500], [30, 90], haystack=text)} == {0.0}
    glued = "it should be useful.To start with " * 200
    assert "useful.\nThe best" in grid(tokenizer, [500], [50], haystack=glued)[0].text


def test_a_haystack_that_holds_the_needle_is_refused_also_where_its_blanks_differ(tokenizer):
    for sentence in (PAPER_NEEDLE.sentence, PAPER_NEEDLE.sentence.replace(" ", "\n")):
        with pytest.raises(HybretError, match="holds the needle 'paper' already"):
            grid(tokenizer, [400], [50], haystack=f"Hills. {sentence} " * 40)


def test_degenerate_cells_share_a_key_and_say_where_the_needle_is(tokenizer):
    prompts = grid(tokenizer, [300], 10, haystack="word " * 500)
    assert [p.position for p in prompts] == [0.0] * 9 + [1.0]
    assert len({p.key for p in prompts}) == 2
    assert [p.depth for p in prompts] == DEPTHS


def test_the_control_is_the_same_prompt_without_the_needle(tokenizer):
    prompts = grid(tokenizer, [300, 600], 10, haystack=HAY)
    controls = grid(tokenizer, [300, 600], 10, haystack=HAY, control=True)
    assert [p.length for p in controls] == [300, 600]
    for p in prompts:
        (control,) = [c for c in controls if c.length == p.length]
        assert p.text.replace(PAPER_NEEDLE.insertion, "", 1) == control.text
        assert control.needle_spans == () and control.needle == "none" and math.isnan(control.depth)
        assert control.target.sentence == PAPER_NEEDLE.sentence


def test_another_needle_keeps_its_own_question_and_reference(tokenizer):
    other = Needle(
        "lamp", "Old Mr Finch keeps a blue lamp in the boathouse.", "What does Mr Finch keep?", ("blue lamp",)
    )
    (p,) = grid(tokenizer, [400], [50], haystack=HAY, needle=other)
    assert tokenizer.decode(p.ids[slice(*p.needle_spans[0])]) == other.sentence
    assert (p.needle, p.reference, p.question, p.keywords) == (
        other.name,
        other.sentence,
        other.question,
        other.keywords,
    )
    assert p.target == other


def test_depths_do_not_carry_rounding(tokenizer):
    (p,) = grid(tokenizer, [300], [100 * (0.1 + 0.2)], haystack=HAY)
    assert p.depth == 30.0 and grid(tokenizer, [300], [100 - 1e-12], haystack=HAY)[0].depth == 100.0
    assert str(grid(tokenizer, [300], [-0.0], haystack=HAY)[0].depth) == "0.0"


def test_small_depths_beside_others_are_no_fractions(tokenizer):
    assert [p.depth for p in grid(tokenizer, [300], [0.5, 2], haystack=HAY)] == [0.5, 2]


def test_the_control_of_another_needle_is_cut_and_asked_as_its_prompts_are(tokenizer):
    lamp = Needle("lamp", "A blue lamp.", "What does Mr Finch keep in the boathouse?", ("blue lamp",))
    prompts = grid(tokenizer, [300, 600], 3, haystack=HAY, needle=lamp)
    controls = {p.length: p for p in grid(tokenizer, [300, 600], 3, haystack=HAY, needle=lamp, control=True)}
    for p in prompts:
        control = controls[p.length]
        assert p.text.replace(lamp.insertion, "", 1) == control.text
        assert control.needle == "none" and control.needle_spans == ()
        assert control.target.digest == p.target.digest == lamp.digest != PAPER_NEEDLE.digest
    other = Needle("lamp", "A blue lamp.", "What does Mr Finch keep in the boathouse?", ("lamp",))
    assert other.digest != lamp.digest and Needle("other", *_but_name(lamp)).digest == lamp.digest


def _but_name(needle):
    return needle.sentence, needle.question, needle.keywords


def test_real_lengths_at_the_papers_scale_and_speed(tokenizer):
    start = time.perf_counter()
    prompts = grid(tokenizer, haystack=HAY)
    assert time.perf_counter() - start < 2
    for p in prompts:
        assert p.length - 200 < len(p.ids) < p.length - 100
    (twice,) = grid(tokenizer, [4096], [50], "jrt", HAY)
    assert 7700 < len(twice.ids) < 8000 and twice.length == 4096


def test_non_ascii_haystack(tokenizer):
    prompts = grid(tokenizer, [600], 10, haystack="Die Straße führt über das Tor. Ça va “bien”? 今日は。 " * 80)
    for p in prompts:
        assert tokenizer.decode(p.ids[slice(*p.needle_spans[0])]) == PAPER_NEEDLE.sentence
        assert tokenizer.decode(p.ids[1:]) == p.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lengths": [220]}, "the shortest length is"),
        ({"lengths": [1]}, "^length 1 leaves no room"),
        ({"lengths": [0]}, "^a length is 0; a length must be at least 1, at most 1000000"),
        ({"lengths": [10**6 + 1]}, "^a length is 1000001; a length must be at least 1, at most 1000000"),
        ({"lengths": True}, "^lengths is True; give a number of lengths"),
        ({"lengths": "400"}, "^lengths is '400'; give a number of lengths"),
        ({"lengths": [300, 300]}, "twice"),
        ({"depths": [30, 30.0]}, "^the depths .30.0, 30.0. hold an entry twice"),
        ({"depths": [33.3, 33.300000000000004]}, "hold an entry twice"),
        ({"lengths": []}, "no lengths"),
        ({"lengths": 0}, "at least 1"),
        ({"depths": [101]}, "outside 0 to 100"),
        ({"depths": [-1]}, "outside 0 to 100"),
        ({"depths": [None]}, "^a depth is None; give a finite number"),
        ({"depths": 10_001}, "at most 10000"),
        ({"depths": 10_000}, "^10000 depths between 0 and 100 would repeat"),
        ({"template": "chat"}, "^unknown template 'chat'; choose one of base, instruct, jrt"),
        ({"buffer": -1}, "^buffer is -1; buffer must be at least 0"),
        ({"needle": "It is blue."}, "^needle is 'It is blue.'; give a Needle"),
        ({"needle": None}, "^needle is None; give a Needle .* and control=True for the same prompts without it"),
        ({"control": "yes"}, "^control is 'yes'; give True for the prompts without the needle, or False"),
        ({"needle": Needle("none", "It is blue.", "What?")}, "another name than 'none'"),
        ({"haystack": "A short text."}, "has 4 tokens|tokens, but"),
        ({"haystack": "/no/such/folder"}, "no haystack folder"),
        ({"haystack": Path("no folder")}, "no haystack folder"),
    ],
)
def test_bad_input_is_one_sentence(tokenizer, arguments, says):
    with pytest.raises(HybretError, match=says) as error:
        grid(tokenizer, **{"lengths": [400], "depths": [50], "haystack": HAY, **arguments})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"name": ""}, "the name of a needle is ''; give a text"),
        ({"sentence": " "}, "the sentence of a needle is ' '; give a text"),
        ({"question": None}, "the question of a needle is None; give a text"),
        ({"keywords": "lamp"}, "the keywords of a needle are 'lamp'; give a tuple of texts"),
        ({"keywords": ("lamp", "")}, "a keyword of a needle is ''; give a text"),
    ],
)
def test_a_needle_is_made_of_texts(fields, says):
    with pytest.raises(HybretError, match=f"^{says}"):
        Needle(**{"name": "lamp", "sentence": "It is blue.", "question": "What?", **fields})


@pytest.mark.parametrize("depths", [[0, 1], [0.5, 50], [0], [1]])
def test_depths_that_are_no_fractions_are_taken(tokenizer, depths):
    assert [p.depth for p in grid(tokenizer, [400], depths, haystack=HAY)] == depths


def test_readers_are_tokenizers_and_chat_templates_where_they_are_used(tokenizer):
    other, plain = byte_level(chat=CHAT.replace("assistant", "model")), byte_level(bos=False)
    found = {template: niah.reader(tokenizer, template) for template in niah.TEMPLATES}
    assert found["base"] == found["jrt"] == niah.reader(other, "base") != found["instruct"]
    assert found["base"] != niah.reader(plain, "base") and found["instruct"] != niah.reader(other, "instruct")
    chatty = SimpleNamespace(tokenizer=tokenizer, instruct=True)
    assert niah.reader(chatty, "jrt") == found["instruct"]
    for template in niah.TEMPLATES:
        (p,) = grid(tokenizer, [400], [50], template, HAY)
        assert p.reader == found[template]


def test_tokenizers_that_cannot_place_the_needle_are_refused(tokenizer):
    vocabulary = Tokenizer(models.WordLevel({"[UNK]": 0, "The": 1, ".": 2}, unk_token="[UNK]"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(HybretError, match="cannot place the needle"):
        grid(PreTrainedTokenizerFast(tokenizer_object=vocabulary, unk_token="[UNK]"), [400], [50], haystack=HAY)
    for slow in (SimpleNamespace(is_fast=False), SimpleNamespace()):
        with pytest.raises(HybretError, match="offsets"):
            grid(slow, [400], [50], haystack=HAY)
    with pytest.raises(HybretError, match="chat template fails .*; use template 'base'"):
        grid(byte_level(chat="{{ raise_exception('no') }}"), [400], [50], "instruct", HAY)
    with pytest.raises(HybretError, match="no chat template"):
        grid(byte_level(chat=None), [400], [50], "instruct", HAY)
    with pytest.raises(HybretError, match="rewrites the user turn"):
        grid(byte_level(chat="{{ messages[0]['content'] | upper }}"), [400], [50], "instruct", HAY)


def test_a_question_that_a_tokenizer_drops_has_no_place():
    """It would be the whole prompt that `Only` keeps in sight, if it were said to begin at the first token."""
    backend = Tokenizer(models.BPE(vocab={"m": 0}, merges=[]))  # other letters leave nothing behind
    dropping = PreTrainedTokenizerFast(tokenizer_object=backend)
    (control,) = grid(dropping, [250], haystack="mmmm " * 100, control=True)
    assert control.question_span is None and set(control.ids) == {0}
    with pytest.raises(HybretError, match="cannot place the needle"):
        grid(dropping, [250], [100], haystack="mmmm " * 100)


def test_folders(tmp_path, tokenizer):
    with pytest.raises(HybretError, match="holds no text"):
        niah.load_haystack(tmp_path)
    for name in ("a.txt", "newideas.txt", "useful.txt"):
        (tmp_path / name).write_text(f"This is {name}. ")
    hay = niah.load_haystack(str(tmp_path))
    assert [name for name, _ in hay.sources] == ["useful.txt", "newideas.txt", "a.txt"]
    assert hay.text == "This is useful.txt. This is newideas.txt. This is a.txt. "
    assert hay.name == f"{tmp_path.name}-{hay.sha256[:8]}"  # not the authors' essays, so not their name
    (tmp_path / "useful.txt").unlink()
    assert [name for name, _ in niah.load_haystack(tmp_path).sources] == ["a.txt", "newideas.txt"]
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HybretError, match="not UTF-8"):
        niah.load_haystack(tmp_path)


def test_embedded_haystacks_differ_by_seed_and_keep_their_beginning(tokenizer):
    one, two = niah.load_haystack("embedded", 0), niah.load_haystack("embedded", 1)
    assert one.text != two.text and one.sha256 != two.sha256
    assert niah.load_haystack("embedded", 0, tokens=8000).text.startswith(one.text)
    (p,) = grid(tokenizer, [400], [50], seed=1)
    assert (p.haystack, p.haystack_seed) == ("embedded", 1)
    (p,) = grid(tokenizer, [400], [50])
    assert (p.haystack, p.haystack_seed, p.haystack_sha256) == ("embedded", 0, one.sha256)


@pytest.mark.skipif(not ESSAYS.is_dir(), reason="the essays are not part of the repository")
def test_the_authors_haystack(tokenizer):
    hay = niah.load_haystack(ESSAYS)
    assert hay.name == "paul-graham"
    assert hay.text.startswith("February 2020What should an essay be?")
    prompts = grid(tokenizer, [4096], 10, haystack=hay, recipe=PAPER)
    assert all(tokenizer.decode(p.ids[slice(*p.needle_spans[0])]) == PAPER_NEEDLE.sentence for p in prompts)
    assert all(p.text[real_depth(p) - 2] == "." for p in prompts[1:-1])
