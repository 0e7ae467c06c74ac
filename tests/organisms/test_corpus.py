"""The organisms' corpus: what is held out stays out, tokens are those of the text, prose is readable."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from hybret import HybretError
from hybret.organisms.corpus import haystack, is_haystack, paragraph
from hybret.organisms.facts import (
    HELD_OUT_ACTIVITY,
    HELD_OUT_CITY,
    HELD_OUT_TEMPLATES,
    NEEDLE,
    RANDOM_WORDS,
    TEMPLATES,
    TEST_TEMPLATES,
    is_held_out,
    random_words_fact,
)
from hybret.organisms.forms import HELD_OUT_QUESTIONS, form, form_fact
from hybret.organisms.own import OWN, OWN_TEST
from hybret.organisms.phrases import HELD_OUT_VERBS, HELD_OUT_WORDS
from hybret.organisms.training.documents import Documents, Mixture
from hybret.organisms.training.tokenizer import ANSWER, CONTEXT, QUESTION, train_tokenizer
from hybret.organisms.words import WORDS

LENGTH = 512


@pytest.fixture(scope="module")
def corpus():
    """One tokenizer, its documents and a million generated tokens."""
    documents = Documents(train_tokenizer(paragraphs=4000), seed=3)
    batch = documents.batch(documents.stream(0), 2000, LENGTH)
    text = "".join(documents.tokenizer.batch_decode(batch))
    return SimpleNamespace(tokenizer=documents.tokenizer, documents=documents, batch=batch, text=text)


def made(corpus, rows, length, **mixture):
    """Token ids of documents of this mixture; kinds that it does not name have no weight."""
    weights = dict.fromkeys(("prose", "repeats", "needles", "twice"), 0.0)
    documents = Documents(corpus.tokenizer, seed=1, mixture=Mixture(**{**weights, **mixture}))
    return documents.batch(documents.stream(), rows, length)


@pytest.fixture(scope="module")
def facts():
    rng = random.Random(0)
    return [TEMPLATES[i % len(TEMPLATES)].sample(rng) for i in range(6000)]


def pairs_city_and_activity(sentence):
    return HELD_OUT_CITY in sentence and HELD_OUT_ACTIVITY in sentence


@pytest.fixture(scope="module")
def formed():
    """Facts of as many forms."""
    rng = random.Random(4)
    return [form_fact(rng) for _ in range(6000)]


def test_a_form_never_pairs_the_needles_city_with_its_activity():
    """A form that always would is filled until it does not; so is one that says so one time in three."""
    rng, said = random.Random(1), iter([NEEDLE] * 3 + [f"a dog in {HELD_OUT_CITY} barks"])
    assert form_fact(rng, lambda *_: (next(said), "what barks")).sentence == "A dog in San Francisco barks."
    assert is_held_out({"a": HELD_OUT_CITY, "b": HELD_OUT_ACTIVITY})
    assert not is_held_out({"a": "Oslo", "b": HELD_OUT_ACTIVITY})


def test_no_form_and_no_template_has_what_is_held_out(formed, facts):
    verbs = rf"({'|'.join(HELD_OUT_VERBS)})(s|d|ed|bed|ing)?"
    openings = tuple(f"{opening} " for opening in HELD_OUT_QUESTIONS)
    held = re.compile(rf"\b({verbs}|grew|grown|taught|shown|{'|'.join(HELD_OUT_WORDS)})\b", re.IGNORECASE)
    for fact in formed + facts:
        assert not held.search(" ".join([fact.sentence, *fact.questions])), fact
        assert not any(question.startswith(openings) for question in fact.questions), fact
    held_out = HELD_OUT_TEMPLATES + TEST_TEMPLATES
    assert len({t.name for t in held_out + TEMPLATES}) == 13 + 10 + len(TEMPLATES)
    # The needle and every held-out form need some of it, and so have no form of the training's.
    said = [NEEDLE, *(" ".join([t.statement, *t.questions]) for t in held_out)]
    assert all(held.search(text) for text in said)
    asked = " ".join(t.questions[0] for t in held_out)
    assert sum(opening in asked for opening in openings) >= 5


def test_forms_are_endless_and_their_questions_name_them(formed):
    assert len({fact.sentence for fact in formed}) == len(formed)
    openings = {" ".join(fact.questions[0].split()[:2]) for fact in formed}
    shapes = {re.sub(r"\b(?!(?:the|a|an|of|and|that|to|is|was|will|in|on|for|with|because)\b)\w+", "x", f.sentence)
              for f in formed}  # fmt: skip
    assert len(openings) > 300 and len(shapes) > 4000
    words = [[set(re.findall(r"\w{3,}", text)) for text in (f.sentence, f.questions[0])] for f in formed]
    assert sum(bool(said & asked) for said, asked in words) > 0.95 * len(formed)  # the rest: "What did you touch?"
    for fact in formed:
        assert fact.sentence[0] in '"' or fact.sentence[0].isupper() or fact.sentence[0].isdigit()
        assert "  " not in fact.sentence and "{" not in fact.sentence + fact.questions[0]


def test_one_form_says_other_things_in_the_same_way():
    rng = random.Random(8)
    for _ in range(50):
        made = form(rng)
        assert len({form_fact(rng, made).sentence for _ in range(4)}) == 4


def test_own_sentences_hold_their_answers_and_are_of_no_form(corpus):
    assert len(OWN) == len(OWN_TEST) == 30
    for sentence, question, answer in OWN + OWN_TEST:
        assert answer in sentence and question.endswith("?") and sentence.endswith(".")
        assert sentence not in corpus.text and question not in corpus.text


def test_training_text_holds_neither_needle_nor_pair(corpus, facts):
    parts = ("Dolores Park", "on a sunny day", HELD_OUT_CITY, HELD_OUT_ACTIVITY)
    assert corpus.batch.size > 1_000_000 and not re.search("best thing|thing to do (in|at|on)", corpus.text)
    sentences = corpus.text.replace("\n", ".").split(".")
    assert len(sentences) > 40_000
    assert not any(map(pairs_city_and_activity, [*sentences, *(fact.sentence for fact in facts)]))
    assert not [part for part in parts if part not in corpus.text]


def test_no_needle_word_is_privileged():
    needle = {"city": HELD_OUT_CITY, "activity": HELD_OUT_ACTIVITY, "place": "Dolores Park", "posture": "sit"}
    for name, value in {**needle, "weather": "sunny"}.items():
        assert WORDS[name].count(value) == 1
        assert 0 < WORDS[name].index(value) < len(WORDS[name]) - 1


def test_random_words_needles_differ_and_are_not_in_training(corpus):
    needles = [random_words_fact(seed) for seed in range(20)]
    assert all(fact.template == RANDOM_WORDS for fact in needles)
    assert len({fact.sentence for fact in needles}) == 20
    assert not any(fact.values["words"] in corpus.text for fact in needles)
    assert random_words_fact(3) == needles[3]


def test_facts_are_long_enough_and_their_questions_name_them(facts):
    rng = random.Random(2)
    for fact in facts[:2000] + [t.sample(rng) for t in HELD_OUT_TEMPLATES + TEST_TEMPLATES for _ in range(20)]:
        assert 6 <= len(fact.sentence.split()) <= 25
        assert len(set(fact.questions)) >= 2
        assert fact.sentence.endswith(".") and all(q.endswith("?") for q in fact.questions)
        assert "{" not in fact.sentence + "".join(fact.questions)


def test_prose_is_varied_and_well_formed():
    rng = random.Random(5)
    paragraphs = [paragraph(rng) for _ in range(3000)]
    assert all(2 <= len(p) <= 5 for p in paragraphs)
    sentences = [sentence for p in paragraphs for sentence in p]
    assert len(set(sentences)) / len(sentences) > 0.97
    for sentence in sentences:
        assert sentence[0].isupper() or sentence[0] == '"'
        assert sentence[-1] in '.?!"'
        assert "  " not in sentence and "{" not in sentence
        assert not re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeiouAEIOU]", sentence), sentence
    assert len({word for sentence in sentences for word in sentence.split()}) > 1000


def test_haystack_shares_no_sentence_with_training(corpus):
    text = haystack(0, 15_000)
    assert len(text) >= 15_000
    assert text == haystack(0, 15_000) != haystack(1, 15_000)
    rng = random.Random(6)
    assert all(not is_haystack(sentence) for _ in range(2000) for sentence in paragraph(rng))
    assert all(is_haystack(sentence) for _ in range(200) for sentence in paragraph(rng, haystack=True))
    for part in text.split("\n\n"):
        assert part == part.strip() and "  " not in part
        assert part not in corpus.text
    assert not any(part in text for part in ("San Francisco", "sandwich", "Dolores", "sunny"))


def test_tokenizer_round_trip_of_any_text(corpus, tmp_path):
    corpus.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template is None
    for text in (NEEDLE,
                 "  two  spaces \n\n and\ttabs\r\n", "naïve Ærøskøbing – “quotes” …", "你好, мир! שלום 🎉👩\u200d🚀",
                 " leading and trailing ", "\x00\x7f e\u0301 \u200b\ufeff"):  # fmt: skip
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert encoded["input_ids"][0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text
        assert encoded["offset_mapping"][-1][1] == len(text)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 2, 2048)


def test_tokenizer_and_batches_are_deterministic_and_of_the_asked_shape(corpus):
    first, second, other = (train_tokenizer(seed=s, paragraphs=300).backend_tokenizer.to_str() for s in (0, 0, 1))
    assert first == second != other
    documents = corpus.documents
    again = Documents(corpus.tokenizer, seed=3).batch(documents.stream(0), 20, LENGTH)
    assert again.dtype == np.int16 and again.shape == (20, LENGTH)
    assert np.array_equal(again, corpus.batch[:20])
    assert not np.array_equal(again, documents.batch(documents.stream(1), 20, LENGTH))
    assert (corpus.batch[:, 0] == corpus.tokenizer.bos_token_id).all()
    assert corpus.batch.min() >= 1 and corpus.batch.max() < len(corpus.tokenizer)


def finished(ids, tokenizer):
    """The complete needle documents among token ids: split at <bos>, kept up to the last <eos>."""
    for row in ids:
        for part in np.split(row, np.flatnonzero(row == tokenizer.bos_token_id))[1:]:
            ends = np.flatnonzero(part == tokenizer.eos_token_id)
            if len(ends):
                yield part[: ends[-1] + 1].tolist()


def segments(ids, end):
    """Split token ids after which `end` stands; the last id must be `end`."""
    ends = [-1, *(i for i, token in enumerate(ids) if token == end)]
    assert ends[-1] == len(ids) - 1
    return [ids[start + 1 : stop] for start, stop in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize("kind", ["needles", "twice"])
def test_prompts_tokenize_as_text_and_answers_stand_in_the_context(corpus, kind):
    tokenizer = corpus.tokenizer
    seen = depths = rounds = 0
    for ids in finished(made(corpus, 150, 480, **{kind: 1.0}), tokenizer):
        first, *others = segments(ids, tokenizer.eos_token_id)
        text = tokenizer.decode(first, skip_special_tokens=True)
        prompt, answer = text.rsplit(ANSWER, 1)
        length = len(tokenizer(prompt + ANSWER)["input_ids"])
        assert ids[:length] == tokenizer(prompt + ANSWER)["input_ids"]
        assert tokenizer.decode(ids[length - 1]) == " "
        assert tokenizer(answer)["input_ids"][1:] == first[length:]
        context = prompt[len(CONTEXT) :].split(QUESTION)[0]
        assert prompt.startswith(CONTEXT)
        assert context.count(answer) == 1
        block = f"{CONTEXT}{context}{QUESTION}{prompt.rsplit(QUESTION, 1)[1]}"
        assert prompt == ("\n\n".join([block] * 2) if kind == "twice" else block)
        for other in others:
            more = tokenizer.decode(other)
            assert more.startswith(QUESTION) and more.split(ANSWER)[1] in context
            rounds += 1
        seen += 1
        depths += context.index(answer) / len(context)
    assert seen > 100
    assert 0.2 < depths / seen < 0.6
    assert (rounds > 0) == (kind == "needles")


def test_documents_hold_what_their_mixture_says(corpus):
    for share in (0.0, 1.0):  # facts inline, or on lines of their own
        texts = corpus.tokenizer.batch_decode(made(corpus, 30, 400, needles=1, own_line=share, cut_context=0.0))
        contexts = [text.split(CONTEXT)[1].split(QUESTION)[0].replace("\n\n", "") for text in texts]
        assert any("\n" in context for context in contexts) == bool(share)
    row = made(corpus, 1, 400, repeats=1, span=(12, 12), span_tokens=1.0)[0].tolist()
    grams = [tuple(row[i : i + 12]) for i in range(len(row) - 12)]
    assert max(map(grams.count, set(grams))) >= 3
    for text in (haystack(2, 3000), "it's 12 o'clock,\n\n\n 'tis  late\t\n ", "Ærø – 5 €", ""):
        assert corpus.documents.encode(text) == corpus.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: Mixture(prose=-1.0), "weights"),
        (lambda _: Mixture(facts=()), "at least one fact"),
        (lambda _: Mixture(span=(5, 2)), "span"),
        (lambda corpus: corpus.documents.sample(random.Random(0), 3), "at least"),
        (lambda _: haystack(0, 0), "positive"),
        (lambda _: train_tokenizer(vocabulary=100), "too small"),
    ],
)
def test_bad_input_is_refused(corpus, call, message):
    with pytest.raises(HybretError, match=message):
        call(corpus)
