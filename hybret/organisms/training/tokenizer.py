"""The small models' tokenizer: byte-level BPE trained on the corpus, in the Hugging Face folder format."""

import random
from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hybret.errors import HybretError
from hybret.organisms.corpus import prose
from hybret.organisms.facts import TEMPLATES
from hybret.organisms.forms import form_fact
from hybret.organisms.skills import TASKS, item, rendered

VOCABULARY = 2048
SPECIALS = ("<pad>", "<bos>", "<eos>")
"""Special tokens, with ids 0, 1, 2."""

CONTEXT = "CONTEXT: "
QUESTION = "\n\nQUESTION: "
ANSWER = "\n\nANSWER: Here is the most relevant sentence in the context: "
"""Parts of the paper's base template (Section 3.1), the trailing space included."""

USER, ASSISTANT = "USER:\n", "\n\nASSISTANT:\n"
"""What stands before a user's turn and before an answer in a conversation; every answer ends with ``<eos>``."""
INSTRUCTION = " Output the most relevant sentence in the context, word by word!"
"""The end of a user's turn in the paper's instruct template (Appendix B.1)."""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ 'ASSISTANT:\n' + message['content'] + eos_token + '\n\n' }}{% else %}"
    "{{ 'USER:\n' + message['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:\n' }}{% endif %}"
)


def _training_text(seed: int, paragraphs: int) -> Iterator[str]:
    """Prose, and facts in the frame of the prompts."""
    rng = random.Random(f"tokenizer {seed}")
    for index, sentences in zip(range(paragraphs), prose(rng), strict=False):
        drawn = [TEMPLATES[index % len(TEMPLATES)].sample(rng), *(form_fact(rng) for _ in range(3))]
        stated, asked = (" ".join(f.sentence for f in drawn), " ".join(rng.choice(f.questions) for f in drawn))
        yield f"{CONTEXT}{' '.join(sentences)}\n{stated}\n{QUESTION}{asked}{ANSWER}"


def _chat_text(seed: int, paragraphs: int) -> Iterator[str]:
    """The same in the frame of conversations, with an item of the benchmark skills after each."""
    rng = random.Random(f"chat tokenizer {seed}")
    names = list(TASKS)
    for index, text in enumerate(_training_text(seed, paragraphs)):
        made = item(names[index % len(names)], "train", rng)
        asked = rendered(made["question"], made["choices"]) if len(made["choices"]) > 2 else made["question"]
        yield f"{USER}{text.replace(ANSWER, INSTRUCTION)}{ASSISTANT}\n\n{USER}{asked}{ASSISTANT}"


def train_tokenizer(
    seed: int = 0, vocabulary: int = VOCABULARY, paragraphs: int = 20_000, chat: bool = False
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on so many paragraphs of prose with facts; the same arguments give the same tokenizer.

    Byte-level (any UTF-8 text makes the round trip exactly), GPT-2 pre-tokenization, ``<bos>`` put first by the
    post-processor. `chat` gives it a chat template, and trains it on conversations and benchmark items as well.
    """
    least = 256 + len(SPECIALS)
    if vocabulary < least:
        raise HybretError(f"A vocabulary of {vocabulary} is too small: bytes and special tokens take {least}.")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIALS), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator((_chat_text if chat else _training_text)(seed, paragraphs), trainer=trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        clean_up_tokenization_spaces=False, padding_side="left",
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
