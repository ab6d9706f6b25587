import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rac.errors import RacError
from rac.models.reasoner import problems, train

TINY = train.Recipe(
    hidden=32,
    layers=1,
    mlp=64,
    heads=2,
    key_value_heads=1,
    vocabulary=400,
    rows=60,
    problem_tokens=600,
    windows=1,
    window=64,
    warmup=2,
    checkpoint_every=4,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_batches_keep_to_the_budget_and_begin_with_short_rows(seed):
    rng = random.Random(seed)
    lengths = [rng.randrange(40, 420) for _ in range(3_000)]
    recipe = train.Recipe(problem_tokens=2_000)
    batches = train.plan_batches(lengths, 100, recipe, seed)
    assert len(batches) == 100
    short = sorted(lengths)[int(0.4 * len(lengths))]
    for i, batch in enumerate(batches):
        widths = {train.padded(lengths[row]) for row in batch}
        assert len(widths) == 1
        assert 2_000 - 2 * widths.pop() < sum(train.padded(lengths[row]) for row in batch) <= 2_000
        assert i >= 10 or max(lengths[row] for row in batch) <= short
    rows = [row for batch in batches[10:] for row in batch]
    assert len(set(rows)) == len(rows)
    assert batches != train.plan_batches(lengths, 100, recipe, seed + 2)


def test_padding_changes_no_loss_and_prompts_are_scored(tokenizer):
    texts = [row["problem"] for row in problems.generate("validation", 20)]
    rows = sorted(tokenizer(texts)["input_ids"], key=len)
    short, long = rows[0], rows[-1]
    torch.manual_seed(0)
    model = train.build_model(replace(TINY, vocabulary=768), tokenizer)
    inputs, labels = train.pad([short, long])
    assert inputs.shape[1] % 16 == 0 and int((labels >= 0).sum()) == len(short) + len(long)
    together = train.summed_loss(model, inputs, labels).item()
    alone = 0.0
    for row in (short, long):
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0].double().log_softmax(-1)
        alone -= sum(logits[i, row[i + 1]].item() for i in range(len(row) - 1))
    assert together == pytest.approx(alone, rel=2e-3)  # bfloat16 against float32


@pytest.mark.slow
def test_loss_falls_and_a_killed_run_ends_in_the_same_bytes(tmp_path, monkeypatch, capsys):
    whole = train.train(tmp_path / "whole", seed=0, steps=14, recipe=TINY)
    summed_loss, calls = train.summed_loss, 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls == 20:  # two parts a step: in step 10 of 14, two after the checkpoint
            raise KeyboardInterrupt
        return summed_loss(*arguments)

    monkeypatch.setattr(train, "summed_loss", dies)
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "killed", seed=0, steps=14, recipe=TINY)
    assert not (tmp_path / "killed").exists()
    capsys.readouterr()
    monkeypatch.setattr(train, "summed_loss", summed_loss)
    resumed = train.train(tmp_path / "killed", seed=0, steps=14, recipe=TINY)
    assert "goes on from step 8" in capsys.readouterr().out
    for file in ("model.safetensors", "tokenizer.json", "config.json", "training.json"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes()
    assert not (tmp_path / "killed.work").exists()

    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(whole)
    torch.manual_seed(0)
    untrained = train.build_model(TINY, tokenizer)
    text = [row["problem"] + row["solution"] for row in problems.generate("validation", 8)]
    inputs, labels = train.pad(tokenizer(text)["input_ids"])
    with torch.no_grad():
        after = train.summed_loss(model, inputs, labels)
        assert after < 0.95 * train.summed_loss(untrained, inputs, labels)


@pytest.mark.slow
def test_a_checkpoint_of_another_seed_is_thrown_away(tmp_path, monkeypatch, capsys):
    other = train.train(tmp_path / "other", seed=1, steps=5, recipe=TINY)

    def full(*arguments):
        raise RacError("disk full")

    with monkeypatch.context() as patch, pytest.raises(RacError, match="disk full"):
        patch.setattr(train, "atomic_folder", full)
        train.train(tmp_path / "model", seed=0, steps=5, recipe=TINY)
    assert (tmp_path / "model.work" / "checkpoint.pt").exists()
    train.train(tmp_path / "model", seed=1, steps=5, recipe=TINY)
    output = capsys.readouterr().out
    assert "of another recipe, seed, length or data; thrown away" in output
    assert "goes on" not in output
    tensors, expected = (load_file(f / "model.safetensors") for f in (tmp_path / "model", other))
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps(tmp_path, steps):
    with pytest.raises(RacError, match=f"steps is {steps}; it must be 1 or more"):
        train.train(tmp_path / "model", steps=steps)
