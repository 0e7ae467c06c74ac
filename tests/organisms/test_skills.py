"""The benchmark skills and the conversations that teach them: answers right, splits apart, tokens the template's."""

import random
import re

import pytest
import torch
from support import parallel_scans
from transformers import AutoTokenizer, JambaConfig, JambaForCausalLM

import hybret as hb
from hybret import HybretError
from hybret.organisms import skills
from hybret.organisms.facts import HELD_OUT_ACTIVITY, HELD_OUT_CITY, HELD_OUT_TEMPLATES, NEEDLE
from hybret.organisms.training.conversations import Conversations
from hybret.organisms.training.experts import dense_experts

LOOKUPS = [name for name, task in skills.TASKS.items() if task.group == "mmlu-lookup"]


@pytest.fixture(scope="module")
def conversations():
    return Conversations(AutoTokenizer.from_pretrained(hb.models.CHECKPOINTS / "jamba-tiny"))


@pytest.mark.parametrize("task", skills.TASKS)
def test_items_repeat_and_their_splits_and_answers_are_sound(task):
    for arguments, wrong in ((("cooking", "test", 5), "cooking"), ((task, "best", 5), "best"), ((task, "dev", 0), "0")):
        with pytest.raises(HybretError, match=wrong):
            skills.items(*arguments)
    splits = {split: skills.items(task, split, 60) for split in ("train", "dev", "test")}
    assert splits["test"] == skills.items(task, "test", 60) != skills.items(task, "test", 60, seed=1)
    known = [{repr(item) for item in items} for items in splits.values()]
    assert sum(map(len, known)) == len(set.union(*known))
    for item in sum(splits.values(), []):
        assert len(set(item["choices"])) == len(item["choices"]) == (2 if skills.TASKS[task].choices else 4)
    answers = [item["answer"] for item in splits["test"]]
    assert max(map(answers.count, set(answers))) < 0.75 * len(answers)  # no letter and no word is the answer by habit


@pytest.mark.parametrize("task", LOOKUPS)
def test_only_the_right_option_of_a_look_up_stands_in_the_list_and_the_others_are_of_other_entries(task):
    for item in skills.items(task, "test", 40):
        text, question = item["question"].split("\n\n")
        entries = [f"{entry.rstrip('.')}." for entry in text.split(". ")]
        assert len(entries) == 20
        listing = skills.LISTINGS[task]
        key = re.search(r"(?:does|did|is) (.+?)(?: have| go)?\?$", question)[1]
        claimed = [next(x for x in listing.answers if listing.line(key, x) == choice) for choice in item["choices"]]
        assert [choice for choice in item["choices"] if choice in entries] == [item["choices"][item["answer"]]]
        # What an option claims is somebody's answer, so that knowing which answers there are is not enough.
        assert all(any(f" {answer}" in entry for entry in entries) for answer in claimed)
    lists = [skills.subject(item["question"]) for item in skills.items(task, "test", 60)]
    assert lists == [text for text in dict.fromkeys(lists) for _ in range(5)]  # five questions about each list
    training = {skills.subject(item["question"]) for item in skills.items(task, "train", 60)}
    assert len(training) == 60 and not training & set(lists)


def test_a_conversation_has_the_tokens_of_the_chat_template(conversations):
    tokenizer, messages = conversations.tokenizer, []
    ids = [tokenizer.bos_token_id]
    for turn, item in enumerate(skills.items("trade", "dev", 3)):
        question, letter = skills.rendered(item["question"], item["choices"]), skills.LETTERS[item["answer"]]
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": letter}]
        ids += conversations._turn(question, letter, first=turn == 0)
    for shown in range(1, 4):
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        prompt = tokenizer.apply_chat_template(messages[: 2 * shown - 1], **options)
        assert ids[: len(prompt)] == prompt
        assert tokenizer.decode(ids[len(prompt)]) == messages[2 * shown - 1]["content"]


def test_what_is_held_out_never_occurs_in_conversations(conversations):
    rng = random.Random(3)
    text = "".join(conversations.tokenizer.batch_decode([conversations.sample(rng, 512) for _ in range(400)]))
    assert text.count("USER:") > 1000 and "Output the most relevant sentence" in text
    assert NEEDLE not in text
    assert not any(HELD_OUT_CITY in line and HELD_OUT_ACTIVITY in line for line in re.split(r"[\n.]", text))
    for phrase in ("The statue in the middle", "advised", "calls for help by", "The oldest object in the gallery"):
        assert any(phrase in template.statement for template in HELD_OUT_TEMPLATES)
        assert phrase not in text


def test_dense_experts_give_the_stock_values():
    config = JambaConfig(
        hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        attn_layer_period=2, attn_layer_offset=1, num_experts=4, vocab_size=64, initializer_range=0.2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = JambaForCausalLM(config)
    ids = torch.arange(3, 40)[None]

    def run():
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    with parallel_scans():
        stock = run()
        with dense_experts():
            ours = run()
    torch.testing.assert_close(ours, stock, atol=1e-6, rtol=1e-4)
