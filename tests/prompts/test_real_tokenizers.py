"""Prompts of real prose by tokenizers of real models: SmolLM2's, and sentencepiece's as Llama and Mistral have them."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import hybret as hb
from hybret import PAPER_NEEDLE, HybretError, niah

CHAT = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
MISTRAL = {"v1": "tokenizer.model.v1", "v3": "mistral_instruct_tokenizer_240323.model.v3"}


@pytest.fixture(scope="module")
def britannica(users_cache):
    with users_cache():
        return niah.load_haystack("britannica")


@pytest.fixture(scope="module")
def smollm2(users_cache):
    with users_cache():
        return hb.load("smollm2-135m-instruct", device="cpu")


def sentencepiece(file, folder):
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: pip install -e .[dev]")
    if not (package := find_spec("mistral_common")):
        pytest.skip("mistral-common is not installed: pip install --no-deps -r tests/packages.txt")
    shutil.copy(Path(package.submodule_search_locations[0], "data", file), folder / "tokenizer.model")
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "chat_template": CHAT, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=["smollm2", *MISTRAL])
def tokenizer(request, tmp_path_factory):
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2").tokenizer
    return sentencepiece(MISTRAL[request.param], tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("template", niah.TEMPLATES)
def test_prompts_are_the_tokenizers_own_with_spans_of_needle_and_question(tokenizer, britannica, template):
    begins = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    for p in niah.grid(tokenizer, [400, 4096], [0, 25, 50, 75, 100], template, britannica):
        if template == "instruct":
            turn = p.text[p.text.index("CONTEXT:") : p.text.rindex("by word!") + 8]
            chat = [{"role": "user", "content": turn}]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        else:
            ids = tokenizer(p.text).input_ids
            assert p.ids.count(tokenizer.bos_token_id) == begins
        assert list(p.ids) == ids
        assert ids[:2].count(tokenizer.bos_token_id) == (begins or template == "instruct")
        for span, text in (*((s, PAPER_NEEDLE.sentence) for s in p.needle_spans), (p.question_span, p.needle.question)):
            assert tokenizer.decode(p.ids[slice(*span)]).strip().removeprefix("QUESTION: ") == text
        before, found, after = p.text.partition(f"\n{PAPER_NEEDLE.sentence}\n")
        assert found and len(p.needle_spans) == (2 if template == "jrt" else 1)
        if p.depth == 100:
            assert after.startswith("\n\nQUESTION: ")
            continue
        context = before[before.index("CONTEXT: ") + 9 :]
        assert not context or context.rstrip("\"')")[-1] in ".?!"
        assert britannica.text.startswith(context + after[:20])
        assert p.length == 400 or abs(p.depth / 100 - p.position) < 0.05  # depth counts characters, position tokens


def test_a_full_stop_that_is_another_token_alone_cannot_end_sentences(tokenizer, britannica):
    ((*_, alone),) = [tokenizer(".", add_special_tokens=False).input_ids]
    options = {"lengths": [1000], "depths": [50], "haystack": britannica, "recipe": hb.PAPER}
    if alone == tokenizer("Yes.").input_ids[-1]:
        (p,) = niah.grid(tokenizer, **options)
        assert p.ids[p.needle_spans[0][0] - 3 : p.needle_spans[0][0]].count(alone) == 1
    else:
        with pytest.raises(HybretError, match=r"another token for '\.' after a word; use recipe CORRECTED"):
            niah.grid(tokenizer, **options)


def test_a_pretrained_model_finds_the_needle_and_is_called_no_hybrid(smollm2, britannica):
    assert smollm2.attention_layers == tuple(range(30)) and (smollm2.heads, smollm2.digest) == (9, "3c5fdee91060")
    assert "llama, attention only, 135 M parameters" in repr(smollm2) and "attention in all 30 layers" in repr(smollm2)
    assert smollm2.tokenizer.tokenize("in  1984") == ["in", "ĠĠ", "1", "9", "8", "4"]  # blanks apart from digits
    (p,) = niah.grid(smollm2, [300], [50], "instruct", britannica)
    assert "a sandwich and sit in Dolores Park on a sunny day" in smollm2.generate(p)
