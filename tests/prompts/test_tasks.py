"""A task outside the package: a class of two methods, which `hybret.sweep` runs as it runs the grid."""

from __future__ import annotations

import random
from typing import Any

import hybret as hb
from hybret.tasks.encoding import encode, token_span

NAMES = ("lamp", "ring", "boat", "clock")


class KeyValue:
    """Pairs of a name and a number; the question asks for one of them, which is the needle."""

    def __init__(self, pairs: int, seed: int = 0) -> None:
        numbers = random.Random(seed).sample(range(1000, 9999), pairs)
        self.pairs = dict(zip(NAMES, map(str, numbers), strict=False))

    def prompts(self, model: hb.Model) -> list[hb.Prompt]:
        lines = {name: f"The code of the {name} is {number}." for name, number in self.pairs.items()}
        prompts = []
        for name, line in lines.items():
            needle = hb.Needle(name, line, f"What is the code of the {name}?", (self.pairs[name],))
            text = f"{' '.join(lines.values())}\n{needle.question} It is "
            ((text, ids, offsets),) = encode(model, [text], chat=False)
            parts = {"needle": line, "question": needle.question, "number": self.pairs[name]}
            places = {part: (text.index(words), text.index(words) + len(words)) for part, words in parts.items()}
            spans = {part: (token_span(offsets, *place),) for part, place in places.items()}
            labels = {"task": "key-value", "key": name, "pairs": len(self.pairs)}
            prompts.append(hb.Prompt(text, ids, needle, labels, spans, task=self))
        return prompts

    def score(self, answer: str, prompt: hb.Prompt, rubric: Any) -> dict[str, Any]:
        exact = self.pairs[prompt.needle.name] in answer
        return {"score": rubric.maximum * exact, "exact": exact, "digits": sum(c.isdigit() for c in answer)}


def test_a_task_of_ones_own_is_swept_as_the_grid_is(griffin, tmp_path):
    prompts = KeyValue(3).prompts(griffin)
    for p in prompts:
        assert griffin.tokenizer.decode(p.ids[slice(*p.spans["needle"][0])]).strip() == p.needle.sentence
    conditions = {"all": hb.Keep(), "k=1": hb.KeepHeads(1), "hidden": hb.Omit("generation")}
    rows = hb.sweep(griffin, prompts, conditions, max_new_tokens=3, progress=False, out=tmp_path)
    assert rows["key"].tolist() == [name for name in NAMES[:3] for _ in conditions]
    assert set(rows["task"]) == {"key-value"} and set(rows["pairs"]) == {3} and "depth" not in rows
    assert (rows["digits"] == rows["answer"].str.count(r"\d")).all()
    assert (rows["needle_start"] == [p.spans["needle"][0][0] for p in prompts for _ in conditions]).all()
    table = hb.metrics.accuracy(rows, "condition")
    assert table["n"].tolist() == [3, 3, 3] and table["accuracy"].between(0, 1).all()
    for p in prompts:
        answers = rows[rows["prompt"] == p.key].set_index("condition")["answer"]
        with hb.attach(griffin, conditions["hidden"]):
            assert answers["hidden"] == griffin.generate(p, 3)


def test_scores_are_the_tasks(griffin):
    class Full(KeyValue):
        def score(self, answer: str, prompt: hb.Prompt, rubric: Any) -> dict[str, Any]:
            return super().score(self.pairs[prompt.needle.name], prompt, rubric)

    rows = hb.sweep(griffin, Full(2).prompts(griffin), {"all": hb.Keep()}, max_new_tokens=1, progress=False)
    assert rows["score"].tolist() == [5, 5] and rows["exact"].all()
