"""The organisms' corpus: what is held out stays out, tokens are those of the text, prose is readable."""

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer

from hybret import HybretError
from hybret.organisms.corpus import haystack, is_haystack, paragraph
from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, HELD_OUT_TEMPLATES, NEEDLE, TEMPLATES
from hybret.organisms.training.documents import Documents, Mixture
from hybret.organisms.training.tokenizer import train_tokenizer
from hybret.organisms.words import WORDS

LENGTH = 512


@pytest.fixture(scope="module")
def corpus():
    """One tokenizer, its documents and a million generated tokens."""
    documents = Documents(train_tokenizer(paragraphs=4000), seed=3)
    batch = documents.batch(documents.stream(0), 2000, LENGTH)
    text = "".join(documents.tokenizer.batch_decode(batch))
    return SimpleNamespace(tokenizer=documents.tokenizer, documents=documents, batch=batch, text=text)


BY_NAME = {template.name: template for template in TEMPLATES}


def pairs_city_and_activity(sentence):
    return HELD_OUT_CITY in sentence and HELD_OUT_ACTIVITY in sentence


@pytest.mark.parametrize("name", ["best_thing", "plan", "custom"])
def test_sampling_rejects_the_pair_even_when_nothing_else_is_likely(name, monkeypatch):
    monkeypatch.setitem(WORDS, "city", (HELD_OUT_CITY, "Oslo"))
    monkeypatch.setitem(WORDS, "activity", (HELD_OUT_ACTIVITY, "fly a kite"))
    rng = random.Random(1)
    drawn = [BY_NAME[name].sample(rng).sentence for _ in range(300)]
    assert not any(map(pairs_city_and_activity, drawn))
    for part in (HELD_OUT_CITY, HELD_OUT_ACTIVITY):
        assert any(part in sentence for sentence in drawn)


def test_training_text_holds_neither_needle_nor_pair(corpus):
    rng = random.Random(0)
    facts = [TEMPLATES[i % len(TEMPLATES)].sample(rng) for i in range(26_000)]
    parts = ("and sit in", "Dolores Park", "on a sunny day", HELD_OUT_CITY, HELD_OUT_ACTIVITY)
    assert corpus.batch.size > 1_000_000 and NEEDLE not in corpus.text
    sentences = corpus.text.replace("\n", ".").split(".")
    assert len(sentences) > 40_000
    for drawn in ([fact.sentence for fact in facts], sentences):
        assert not any(map(pairs_city_and_activity, drawn))
        assert not [part for part in parts if not any(part in sentence for sentence in drawn)]


def test_held_out_templates_never_occur(corpus):
    assert len(HELD_OUT_TEMPLATES) == 5
    assert not {t.name for t in HELD_OUT_TEMPLATES} & {t.name for t in TEMPLATES}
    for templates, occurs in ((HELD_OUT_TEMPLATES, False), (TEMPLATES, True)):
        for template in templates:
            for pattern in (template.statement, *template.questions):
                form = re.sub(r"\ba\b", "an?", re.sub(r"\{\w+\}", r"[^.?\n]{1,60}?", pattern.rstrip(".?")))
                assert bool(re.search(form, corpus.text)) == occurs, form


def test_haystack_shares_no_sentence_with_training(corpus):
    text = haystack(0, 15_000)
    assert len(text) >= 15_000
    assert text == haystack(0, 15_000) != haystack(1, 15_000)
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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: Mixture(prose=-1.0), "weights"),
        (lambda _: Mixture(facts=()), "at least one fact"),
        (lambda _: Mixture(span=(5, 2)), "span"),
        (lambda _: Mixture(templates=(("statue", 2.0),)), "statue"),
        (lambda corpus: corpus.documents.sample(random.Random(0), 3), "at least"),
        (lambda _: haystack(0, 0), "positive"),
        (lambda _: train_tokenizer(vocabulary=100), "too small"),
    ],
)
def test_bad_input_is_refused(corpus, call, message):
    with pytest.raises(HybretError, match=message):
        call(corpus)
