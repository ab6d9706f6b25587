"""The reasoner's tokenizer: byte-level BPE in which each digit is a token of its own."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

PAD, START, END, THINK, STOP_THINKING = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 768) -> Qwen2Tokenizer:
    """Byte-level BPE of `vocab_size` tokens, a function of `texts`.

    `<think>` and `</think>` are single tokens that decoding keeps when it skips special tokens, so
    that an answer can be told from its thought. `<|im_end|>` ends a turn, `<|endoftext|>` ends a
    document and pads. Text is brought to Unicode's NFC.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # transformers loads the tokenizer of any Qwen2 folder as this class.
    model = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    loaded = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
    )
    loaded.add_tokens([AddedToken(token, normalized=False) for token in (THINK, STOP_THINKING)])
    return loaded
