"""The organisms' tokenizer: byte-level BPE trained on the corpus, in the Hugging Face folder format."""

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hybret.errors import HybretError
from hybret.organisms.corpus import prose
from hybret.organisms.facts import TEMPLATES

VOCABULARY = 2048
SPECIALS = ("<pad>", "<bos>", "<eos>")
"""Special tokens, with ids 0, 1, 2."""

CONTEXT = "CONTEXT: "
QUESTION = "\n\nQUESTION: "
ANSWER = "\n\nANSWER: Here is the most relevant sentence in the context: "
"""Parts of the paper's base template (Section 3.1), the trailing space included."""


def _training_text(seed: int, paragraphs: int) -> Iterator[str]:
    """Prose, and facts of the training templates in the frame of the prompts."""
    rng = random.Random(f"tokenizer {seed}")
    for index, sentences in zip(range(paragraphs), prose(rng), strict=False):
        fact = TEMPLATES[index % len(TEMPLATES)].sample(rng)
        question = rng.choice(fact.questions)
        yield f"{CONTEXT}{' '.join(sentences)}\n{fact.sentence}\n{QUESTION}{question}{ANSWER}"


def train_tokenizer(seed: int = 0, vocabulary: int = VOCABULARY, paragraphs: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same arguments give the same tokenizer.

    Byte-level (any UTF-8 text makes the round trip exactly), GPT-2 pre-tokenization, ``<bos>`` put first by
    the post-processor. ``save_pretrained(folder)`` writes ``tokenizer.json`` and ``tokenizer_config.json``.

    Parameters
    ----------
    seed : int
        Which corpus sample to train on.
    vocabulary : int
        Number of tokens, special tokens and 256 bytes included.
    paragraphs : int
        Paragraphs of prose, each with one fact and one question.

    Returns
    -------
    PreTrainedTokenizerFast
        With character offsets, without a chat template.

    Raises
    ------
    HybretError
        If `vocabulary` leaves no room for the bytes and the special tokens.
    """
    least = 256 + len(SPECIALS)
    if vocabulary < least:
        raise HybretError(f"A vocabulary of {vocabulary} is too small: bytes and special tokens take {least}.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(seed, paragraphs), trainer=trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
