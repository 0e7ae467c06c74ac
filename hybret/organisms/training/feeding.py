"""Feeding a training run: the documents of every step, written by processes ahead of their use."""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Generator, Iterable
from queue import Empty
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from hybret.errors import HybretError
from hybret.organisms.training.documents import Documents
from hybret.organisms.training.recipes import Training


def sources(training: Training, tokenizer: PreTrainedTokenizerBase) -> tuple[Documents, Documents]:
    """The documents of the training and of its opening."""
    return training.documents(tokenizer), training.documents(tokenizer, opening=True)


def batch(training: Training, sources: tuple[Documents, Documents], step: int) -> np.ndarray:
    """Documents of one step, shape (documents, tokens), 16-bit ids; a function of the seed and the step."""
    rng = random.Random(f"{training.name.removesuffix('-ssm')} {training.seed} {step}")
    opens = training.opens(step)
    documents = sources[opens]
    lengths, shares = zip(*(training.opening.lengths if opens and training.opening else training.lengths), strict=True)
    length = rng.choices(lengths, shares)[0]
    rows = training.batch_tokens // length
    return np.stack([np.asarray(documents.sample(rng, length), np.uint16) for _ in range(rows)])


def _work(training: Training, tokenizer: PreTrainedTokenizerBase, steps: Iterable[int], queue: Any) -> None:
    made = sources(training, tokenizer)
    for step in steps:
        queue.put(batch(training, made, step))


def batches(training: Training, tokenizer: PreTrainedTokenizerBase, first: int, workers: int) -> Generator[np.ndarray]:
    """Endless batches from step `first` on, made ahead by this many processes (0: in this one, when asked for)."""
    if workers == 0:
        made, step = sources(training, tokenizer), first
        while True:
            yield batch(training, made, step)
            step += 1
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    queues = [context.Queue(4) for _ in range(workers)]
    # Worker i makes every workers-th step, so the order of the batches does not depend on who is faster.
    work = [(training, tokenizer, range(first + i, 1 << 40, workers), queue) for i, queue in enumerate(queues)]
    processes = [context.Process(target=_work, args=args, daemon=True) for args in work]
    for process in processes:
        process.start()
    try:
        while True:
            for queue in queues:
                yield queue.get(timeout=120)
    except Empty:
        raise HybretError("No batch came from the workers for two minutes; run with --workers 0 to see why.") from None
    finally:
        for process in processes:
            process.terminate()
