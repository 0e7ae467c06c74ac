"""The corpus of the small models: what is held out stays out, tokens are those of the text."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from hybret import HybretError
from hybret.organisms import facts
from hybret.organisms.corpus import haystack, is_haystack, paragraph
from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, NEEDLE, TEMPLATES
from hybret.organisms.forms import HELD_OUT_QUESTIONS, form, form_fact
from hybret.organisms.phrases import HELD_OUT_VERBS, HELD_OUT_WORDS
from hybret.organisms.training.documents import Documents, Mixture
from hybret.organisms.training.tokenizer import train_tokenizer

LENGTH = 512
HELD_OUT = facts.HELD_OUT_TEMPLATES + facts.TEST_TEMPLATES


def batch(documents, rows, seed=3):
    rng = random.Random(seed)
    return np.stack([documents.sample(rng, LENGTH) for _ in range(rows)])


@pytest.fixture(scope="module")
def corpus():
    """One tokenizer, its documents and a million generated tokens."""
    documents = Documents(train_tokenizer(paragraphs=4000))
    made = batch(documents, 2000)
    text = "".join(documents.tokenizer.batch_decode(made))
    return SimpleNamespace(tokenizer=documents.tokenizer, documents=documents, batch=made, text=text)


@pytest.fixture(scope="module")
def formed():
    """Facts of as many forms."""
    rng = random.Random(4)
    return [form_fact(rng) for _ in range(6000)]


def test_no_fact_pairs_the_needles_city_with_its_activity(corpus):
    said = iter([NEEDLE] * 3 + [f"a dog in {HELD_OUT_CITY} barks"])
    assert (
        form_fact(random.Random(1), lambda *_: (next(said), "what barks")).sentence == "A dog in San Francisco barks."
    )
    assert [facts.is_held_out({"a": city, "b": HELD_OUT_ACTIVITY}) for city in (HELD_OUT_CITY, "Oslo")] == [True, False]
    sentences = corpus.text.replace("\n", ".").split(".")
    assert corpus.batch.size > 1_000_000 and len(sentences) > 40_000
    assert not [text for text in sentences if HELD_OUT_CITY in text and HELD_OUT_ACTIVITY in text]
    for part in ("Dolores Park", "on a sunny day", HELD_OUT_CITY, HELD_OUT_ACTIVITY):
        assert part in corpus.text


def test_no_training_fact_has_what_every_held_out_form_needs(corpus, formed):
    verbs = rf"({'|'.join(HELD_OUT_VERBS)})(s|d|ed|bed|ing)?"
    openings = tuple(f"{opening} " for opening in HELD_OUT_QUESTIONS)
    held = re.compile(rf"\b({verbs}|grew|grown|taught|shown|{'|'.join(HELD_OUT_WORDS)})\b", re.IGNORECASE)
    rng = random.Random(0)
    for fact in formed + [template.sample(rng) for template in TEMPLATES * 100]:
        assert not held.search(" ".join([fact.sentence, *fact.questions])), fact
        assert not any(question.startswith(openings) for question in fact.questions), fact
    assert len({template.name for template in HELD_OUT + TEMPLATES}) == 13 + 10 + len(TEMPLATES)
    assert all(held.search(text) for text in [NEEDLE, *(" ".join([t.statement, *t.questions]) for t in HELD_OUT)])
    assert sum(opening in " ".join(t.questions[0] for t in HELD_OUT) for opening in openings) >= 5
    assert not re.search("best thing|thing to do (in|at|on)", corpus.text)
    assert len(facts.OWN) == len(facts.OWN_TEST) == 30
    for sentence, question, answer in facts.OWN + facts.OWN_TEST:
        assert answer in sentence and sentence not in corpus.text and question not in corpus.text
    assert not any(facts.random_words_fact(seed).values["words"] in corpus.text for seed in range(20))


def test_forms_are_endless_readable_and_asked_for_by_their_words(formed):
    small = "the|a|an|of|and|that|to|is|was|will|in|on|for|with|because"
    shapes = {re.sub(rf"\b(?!(?:{small})\b)\w+", "x", fact.sentence) for fact in formed}
    assert len({fact.sentence for fact in formed}) == len(formed) and len(shapes) > 4000
    assert len({" ".join(fact.questions[0].split()[:2]) for fact in formed}) > 300
    words = [[set(re.findall(r"\w{3,}", text)) for text in (fact.sentence, fact.questions[0])] for fact in formed]
    assert sum(bool(said & asked) for said, asked in words) > 0.95 * len(formed)  # the rest: "What did you touch?"
    for fact in formed:
        assert re.match(r'["A-Z0-9]', fact.sentence) and "  " not in fact.sentence
        assert "{" not in fact.sentence + fact.questions[0] and fact.questions[0].endswith("?")
    made = form(random.Random(8))
    assert len({form_fact(random.Random(i), made).sentence for i in range(50)}) == 50


def test_haystack_shares_no_sentence_with_training(corpus):
    text = haystack(0, 15_000)
    assert len(text) >= 15_000 and text == haystack(0, 15_000) != haystack(1, 15_000)
    rng = random.Random(6)
    assert all(not is_haystack(sentence) for _ in range(2000) for sentence in paragraph(rng))
    assert all(is_haystack(sentence) for _ in range(200) for sentence in paragraph(rng, haystack=True))
    assert not any(part in corpus.text for part in text.split("\n\n"))
    assert not any(part in text for part in ("San Francisco", "sandwich", "Dolores", "sunny"))


def test_tokenizer_round_trip_of_any_text(corpus, tmp_path):
    corpus.tokenizer.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.chat_template is None
    for text in (
        NEEDLE,
        "  two  spaces \n\n and\ttabs\r\n",
        "你好, мир! שלום 🎉👩\u200d🚀",
        "\x00\x7f e\u0301 \u200b\ufeff",
    ):
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert encoded["input_ids"][0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == text
        assert encoded["offset_mapping"][-1][1] == len(text)
        assert corpus.documents.encode(text) == encoded["input_ids"][1:]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 2, 2048)


def test_tokenizer_and_batches_are_deterministic_and_of_the_asked_shape(corpus):
    first, second, other = (train_tokenizer(seed=s, paragraphs=300).backend_tokenizer.to_str() for s in (0, 0, 1))
    assert first == second != other
    again = batch(Documents(corpus.tokenizer), 20)
    assert again.dtype == np.int16 and (corpus.batch[:, 0] == corpus.tokenizer.bos_token_id).all()
    assert np.array_equal(again, corpus.batch[:20]) and not np.array_equal(again, batch(corpus.documents, 20, seed=4))
    assert corpus.batch.min() >= 1 and corpus.batch.max() < len(corpus.tokenizer)


def test_bad_input_is_refused(corpus):
    for message, call in {
        "weights": lambda: Mixture(prose=-1.0),
        "at least one fact": lambda: Mixture(facts=()),
        "span": lambda: Mixture(span=(5, 2)),
        "at least 24 tokens": lambda: corpus.documents.sample(random.Random(0), 3),
        "positive": lambda: haystack(0, 0),
        "too small": lambda: train_tokenizer(vocabulary=100),
    }.items():
        with pytest.raises(HybretError, match=message):
            call()
