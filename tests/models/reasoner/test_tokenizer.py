import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config

from rac.models.reasoner import problems, text
from rac.models.reasoner.tokenizer import train_tokenizer

SPECIAL = re.compile(r"<\|endoftext\|>|<\|im_start\|>|<\|im_end\|>|</?think>")


def test_any_text_comes_back(tokenizer):
    @given(st.text().filter(lambda s: not SPECIAL.search(s)))
    @example("  two  spaces\t\r\n\n and 007 + 1٣²…  ")
    @settings(max_examples=200)
    def check(written):
        expected = unicodedata.normalize("NFC", written)
        assert tokenizer.decode(tokenizer(written)["input_ids"]) == expected

    check()


@pytest.mark.parametrize("split", text.SPLITS)
def test_documents_come_back(split, tokenizer):
    documents = text.documents(split)[:50]
    assert tokenizer.batch_decode(tokenizer(documents)["input_ids"]) == documents


def test_each_digit_is_a_token(tokenizer):
    assert len({tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"}) == 10
    for row in problems.generate("validation", 50):
        tokens = tokenizer.convert_ids_to_tokens(
            tokenizer(row["problem"] + row["solution"])["input_ids"]
        )
        assert all(len(token) == 1 for token in tokens if any(c.isdigit() for c in token))
    assert len(tokenizer) == 768


def test_think_marks_are_tokens_that_decoding_keeps(tokenizer):
    ids = tokenizer("<think>\na 1\n</think>\nb<|im_end|>")["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens.count("<think>") == tokens.count("</think>") == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>\na 1\n</think>\nb"
    assert tokenizer.eos_token == tokens[-1] == "<|im_end|>"


def test_prompt_opens_the_thought_and_begins_the_conversation(tokenizer):
    row = problems.generate("validation", 1)[0]
    user = {"role": "user", "content": row["problem"]}
    assistant = {"role": "assistant", "content": "<think>\n" + row["solution"]}
    prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert prompt == (
        f"<|im_start|>user\n{row['problem']}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    whole = tokenizer.apply_chat_template([user, assistant], tokenize=False)
    assert whole == prompt + row["solution"] + "<|im_end|>\n"
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer(whole)["input_ids"][: len(ids)] == ids


def test_loads_as_it_was_trained(tmp_path):
    texts = text.documents("train")[:60]
    trained = train_tokenizer(texts, 400)
    trained.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=400).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.backend_tokenizer.to_str() == trained.backend_tokenizer.to_str()
    assert loaded.chat_template == trained.chat_template


def test_the_same_texts_give_the_same_tokenizer():
    texts = text.documents("train")[:60]
    one, other = (train_tokenizer(texts, 400).backend_tokenizer.to_str() for _ in range(2))
    assert one == other
