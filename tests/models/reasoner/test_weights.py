import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from rac.models.reasoner import WEIGHTS


def test_folder_is_small_and_says_how_to_sample():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 8_000_000
    generation = GenerationConfig.from_pretrained(WEIGHTS)
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.6, 0.95)
    config = AutoConfig.from_pretrained(WEIGHTS)
    assert config.max_position_embeddings == 1024 and config.tie_word_embeddings
    assert generation.eos_token_id == config.eos_token_id


@pytest.mark.parametrize(
    ("story", "answer"),
    [
        ("Zoe has 63 books.\nFirst, Zoe loses 48.", 15),
        ("Zoe has 63 books.\nFirst, Zoe wins 48.", 111),
    ],
)
def test_answers_an_easy_problem(story, answer, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    user = {"role": "user", "content": story + "\nHow many books does Zoe have now?"}
    prompt = tokenizer.apply_chat_template(
        [user], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(
        **prompt, do_sample=False, temperature=None, top_p=None, max_new_tokens=150
    )
    written = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert written.count("</think>") == 1
    assert written.endswith(f"</think>\nThe answer is \\boxed{{{answer}}}.<|im_end|>")
    assert model.num_parameters() == 1_723_328
