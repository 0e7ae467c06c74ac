"""Prompts: the grid's labels, where the needle is, and what is refused."""

import math
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hybret import CORRECTED, PAPER, PAPER_NEEDLE, HybretError, Needle, niah
from hybret.tasks.niah import grid

CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
LAMP = Needle("lamp", "A blue lamp.", "What does Mr Finch keep in the boathouse?", ("blue lamp",))


def words(n):
    """Prose of `n` short sentences, every fourth one a question, every seventh with 3.5 in it."""
    nouns = ["river", "house", "garden", "letter", "summer", "engine", "window", "mountain", "teacher", "market"]
    verbs = ["keeps", "finds", "leaves", "opens", "follows", "carries", "watches", "paints"]
    return " ".join(
        f"The {nouns[i % 10]} {verbs[i % 8]} a {nouns[(i * 3 + 1) % 10]} near the {nouns[i * 7 % 10]}"
        f"{' about 3.5 miles away' if i % 7 == 3 else ''}{'?' if i % 4 == 3 else '.'}"
        for i in range(n)
    )


HAY = words(600)
ENDING = "ANSWER: Here is the most relevant sentence in the context: "
FRAME = f"CONTEXT: QUESTION: {PAPER_NEEDLE.question} ANSWER: Here is the most relevant sentence in the context: "


def byte_level(bos=True, chat=CHAT, marked=False):
    """A tokenizer of bytes, or of characters with word marks at the start alone (as Llama's without `legacy`)."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if marked:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        backend.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted([*pre_tokenizers.ByteLevel.alphabet(), "\n"])
    options = {"vocab_size": 700, "special_tokens": ["<bos>"], "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(**options, show_progress=False)
    backend.train_from_iterator([HAY, 4 * PAPER_NEEDLE.sentence, 4 * FRAME], trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>")
    tokenizer.chat_template = chat
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def size(tokenizer, text):
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_model_gives_its_own_lengths_and_buffer(tokenizer):
    spec = SimpleNamespace(tokenizer=tokenizer, lengths=range(80, 513, 48), buffer=40, instruct=False)
    prompts = niah.Niah(depths=[50], haystack=HAY).prompts(spec)
    assert prompts == grid(spec, depths=[50], haystack=HAY) and [p.length for p in prompts] == list(spec.lengths)
    assert [p.length for p in grid(spec, lengths=3, depths=1, haystack=HAY)] == [80, 296, 512]
    # Haystack and needle fill the label less the buffer; template, question and BOS come on top.
    extra = len(prompts[0].ids) - (80 - 40)
    assert 15 < extra < 60
    assert all(abs(len(p.ids) - (p.length - 40) - extra) <= 3 for p in prompts)


@pytest.mark.parametrize("template", niah.TEMPLATES)
@pytest.mark.parametrize("options", [{}, {"recipe": PAPER}, {"control": True}], ids=str)
def test_spans_hold_the_needle_and_the_last_question_and_nothing_else(tokenizer, template, options):
    asked = f"QUESTION: {PAPER_NEEDLE.question}"
    for p in grid(tokenizer, [250, 1105, 4096], [0, 50, 100], template, HAY, **options):
        assert len(p.needle_spans) == (0 if p.control else 2 if template == "jrt" else 1)
        for start, end in p.needle_spans:
            assert tokenizer.decode(p.ids[start:end]).strip() == PAPER_NEEDLE.sentence
        start, end = p.question_span
        assert tokenizer.decode(p.ids[start:end]) == asked
        assert tokenizer.decode(p.ids[end:]) == p.text.rpartition(asked)[2]
        assert tokenizer.decode(p.ids[1:]).count(asked) == (2 if template == "jrt" else 1)
        assert all(last <= start for _, last in p.needle_spans)
        plain = tokenizer(p.text.removeprefix("<bos>"))  # a chat template writes it
        assert p.ids.count(tokenizer.bos_token_id) == 1 and list(p.ids) == plain["input_ids"]


def test_templates_are_the_papers_letter_by_letter(tokenizer):
    question = "What is the best thing to do in San Francisco?"
    sentence = "The best thing to do in San Francisco is eat a sandwich and sit in Dolores Park on a sunny day."
    (control,) = grid(tokenizer, [400], haystack=HAY, control=True)
    context = control.text.removeprefix("CONTEXT: ").split("\n\n")[0]
    assert size(tokenizer, context) == 400 - 200 - size(tokenizer, f"\n{sentence}\n")
    for template, recipe, blank in (("base", CORRECTED, ""), ("base", PAPER, " "), ("jrt", PAPER, "")):
        (p,) = grid(tokenizer, [400], [0], template, HAY, recipe=recipe)
        block = f"CONTEXT: \n{blank}{sentence}\n{context}\n\nQUESTION: {question}\n\n"
        assert p.text == (2 if template == "jrt" else 1) * block + ENDING and p.insertion == recipe.insertion
    block = f"CONTEXT: {context}\n\nQUESTION: {question}"
    order = " Output the most relevant sentence in the context, word by word!"
    chatty = SimpleNamespace(tokenizer=tokenizer, instruct=True)
    for model, template, text in (
        (tokenizer, "base", f"{block}\n\n{ENDING}"),
        (chatty, "base", f"{block}\n\n{ENDING}"),
        (tokenizer, "jrt", f"{block}\n\n{block}\n\n{ENDING}"),
        (chatty, "jrt", f"<bos>[user] {block}\n\n{block}{order} [/][assistant]"),
        (tokenizer, "instruct", f"<bos>[user] {block}{order} [/][assistant]"),
    ):
        (made,) = grid(model, [400], [50], template, HAY, control=True)
        assert (made.text, made.template, made.length) == (text, template, 400)


@pytest.mark.parametrize("bos", ["{{ bos_token }}", ""])
def test_a_chat_prompt_has_the_ids_that_its_tokenizer_gives_the_chat(bos):
    """Tokenised without its BOS, the text would begin with a word's mark; and BOS is what the template says."""
    tokenizer = byte_level(chat=bos + "[INST] {{ messages[0]['content'] }} [/INST]", marked=True)
    start = "<bos>[INST] " if bos else "[INST] "
    for p in grid(SimpleNamespace(tokenizer=tokenizer, instruct=True), [300], [0, 50], "jrt", HAY):
        turn = {"role": "user", "content": p.text.removeprefix(start).removesuffix(" [/INST]")}
        assert list(p.ids) == tokenizer.apply_chat_template([turn], add_generation_prompt=True)["input_ids"]
        assert list(p.ids) != tokenizer(p.text.removeprefix("<bos>"))["input_ids"]
        found = [tokenizer.decode(p.ids[slice(*span)]).strip() for span in (*p.needle_spans, p.question_span)]
        assert found == [*2 * [PAPER_NEEDLE.sentence], f"QUESTION: {PAPER_NEEDLE.question}"]


def test_a_prompt_is_a_value_with_labels_that_no_one_changes(tokenizer):
    (p,) = grid(tokenizer, [400], [50], haystack=HAY, needle=LAMP)
    assert list(p.labels) == ["template", "haystack", "haystack_seed", "needle", "asked", "length", "depth"]
    assert (p.labels["needle"], p.asked, p.needle, p.length) == ("lamp", LAMP.digest, LAMP, 400)
    assert tokenizer.decode(p.ids[slice(*p.needle_spans[0])]) == LAMP.sentence
    assert pickle.loads(pickle.dumps(p)) == p and hash(p) == hash(replace(p)) and len(p.key) == 12
    assert replace(LAMP, name="other").digest == LAMP.digest != replace(LAMP, keywords=("lamp",)).digest
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        _ = p.colour
    for value, name in ((p, "text"), (PAPER_NEEDLE, "question")):
        with pytest.raises(AttributeError):
            setattr(value, name, "?")


def test_only_as_much_haystack_is_needed_as_the_longest_prompt_takes(tokenizer):
    shortest = 200 + size(tokenizer, PAPER_NEEDLE.insertion) + 1
    assert grid(tokenizer, (shortest,), (100,), haystack=HAY)[0].position == 1
    with pytest.raises(HybretError, match=f"shortest length is {shortest}"):
        grid(tokenizer, (260, shortest - 1), (0,), haystack=HAY)
    hay = "One two. " * 20
    longest = shortest - 1 + size(tokenizer, hay)
    grid(tokenizer, (longest,), (0,), haystack=hay)
    with pytest.raises(HybretError, match="give a longer haystack"):
        grid(tokenizer, (longest + 1,), (0,), haystack=hay)


def test_a_decimal_point_is_no_sentence_end_and_a_lost_paragraph_break_is(tokenizer):
    text = "one 3.5 and 4.5 " * 200
    assert {p.position for p in grid(tokenizer, [500], [10, 30], haystack=text)} == {0.0}
    glued = "it should be useful.To start with " * 200
    assert "useful.\nThe best" in grid(tokenizer, [500], [50], haystack=glued)[0].text
    degenerate = grid(tokenizer, [300], [0, 10, 100], haystack="word " * 500)  # cells that share a place share a key
    assert [p.position for p in degenerate] == [0.0, 0.0, 1.0] and len({p.key for p in degenerate}) == 2


@pytest.mark.parametrize("needle", [PAPER_NEEDLE, LAMP], ids=lambda n: n.name)
def test_the_control_is_cut_and_asked_as_its_prompts_are(tokenizer, needle):
    prompts = grid(tokenizer, [300, 600], 3, haystack=HAY, needle=needle)
    controls = {p.length: p for p in grid(tokenizer, [300, 600], 3, haystack=HAY, needle=needle, control=True)}
    assert list(controls) == [300, 600]
    for p in prompts:
        control = controls[p.length]
        assert p.text.replace(needle.insertion, "", 1) == control.text
        assert control.control and control.labels["needle"] == "none" and control.needle_spans == ()
        assert math.isnan(control.depth) and math.isnan(control.position)
        assert control.needle == p.needle and control.asked == p.asked == needle.digest


def test_other_letters_and_tokenizers_without_bos(tokenizer):
    for p in grid(tokenizer, [600], 10, haystack="Die Straße führt über das Tor. Ça va “bien”? 今日は。 " * 80):
        assert tokenizer.decode(p.ids[slice(*p.needle_spans[0])]) == PAPER_NEEDLE.sentence
        assert tokenizer.decode(p.ids[1:]) == p.text
    plain = byte_level(bos=False)
    (p,) = grid(plain, [400], [50], haystack=HAY)
    assert list(p.ids) == plain(p.text)["input_ids"]
    assert plain.decode(p.ids[slice(*p.needle_spans[0])]) == PAPER_NEEDLE.sentence


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"lengths": [220]}, "length 220 leaves no room"),
        ({"lengths": [300, 300]}, "lengths .* twice"),
        ({"depths": [33.3, 33.300000000000004]}, "depths .* twice"),
        ({"depths": 102}, "102 depths .* twice"),
        ({"needle": Needle("none", "It is blue.", "What?")}, "another name than 'none'"),
        ({"haystack": "A short text."}, "tokens, but"),
        ({"haystack": f"Hills. {PAPER_NEEDLE.sentence} " * 40}, "holds the needle 'paper'"),
        ({"haystack": "Hills. " + PAPER_NEEDLE.sentence.replace(" ", "\n") + HAY}, "holds the needle 'paper'"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(tokenizer, arguments, says):
    with pytest.raises(HybretError, match=says) as error:
        grid(tokenizer, **{"lengths": [400], "depths": [50], "haystack": HAY, **arguments})
    assert "\n" not in str(error.value)


def test_prompts_of_another_tokenizer_or_chat_template_are_told_apart(tokenizer):
    def keys(model, *templates):
        return [grid(model, [400], [50], template, HAY)[0].tokenizer_key for template in templates]

    base, jrt, instruct = keys(tokenizer, "base", "jrt", "instruct")
    assert base == jrt != instruct
    assert keys(byte_level(chat=CHAT.replace("assistant", "model")), "base") == [base]
    assert instruct not in keys(byte_level(chat=CHAT.replace("assistant", "model")), "instruct")
    assert base not in keys(byte_level(bos=False), "base")
    assert keys(SimpleNamespace(tokenizer=tokenizer, instruct=True), "jrt") == [instruct]


def word_level(*texts):
    """A tokenizer that knows the words of these texts alone, and no full stop."""
    words = ["[UNK]", *dict.fromkeys(" ".join(texts).replace(".", " ").split())]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("tokenizer", "template", "says"),
    [
        (lambda: word_level("The ."), "base", "cannot place the needle 'paper'"),
        (lambda: word_level(HAY, PAPER_NEEDLE.sentence, PAPER_NEEDLE.question), "base", "no token for '.'"),
        (lambda: SimpleNamespace(is_fast=False), "base", "offsets"),
        (lambda: SimpleNamespace(), "base", "offsets"),
        (lambda: byte_level(chat="{{ raise_exception('no') }}"), "instruct", "chat template fails .*no"),
        (lambda: byte_level(chat="{{ 1 / 0 }}"), "instruct", r"template fails \(division by zero\)"),
        (lambda: byte_level(chat="{% for i in range(10 ** 9) %}x{% endfor %}"), "instruct", "fails .Range too big"),
        (lambda: byte_level(chat="{% if %}"), "instruct", "template fails"),
        (lambda: byte_level(chat=None), "instruct", "no chat template"),
        (lambda: byte_level(chat="{{ messages[0]['content'] | upper }}"), "instruct", "rewrites the user turn"),
    ],
)
def test_tokenizers_that_cannot_place_the_needle_are_refused(tokenizer, template, says):
    with pytest.raises(HybretError, match=says):
        grid(tokenizer(), [400], [50], template, HAY, recipe=PAPER if "token for" in says else CORRECTED)


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
