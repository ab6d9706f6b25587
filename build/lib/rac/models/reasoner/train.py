"""Train the embedded reasoner: one file, two CPU cores, a quarter of an hour.

Every step takes problems of similar length (`problems.generate`) and windows of general text
(`text.documents`) and scores all their tokens, prompts included. Muon (Jordan et al. 2024, as in
torch.optim) trains the hidden matrices, AdamW the rest; the rates warm up, then fall to zero in a
straight line. Short problems come first. What a step reads hangs on the seed and its number alone,
so a checkpoint needs no random state: a killed run goes on and ends in the same weights.
"""

import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from rac.artifacts import atomic_file, atomic_folder, sha256_json, write_json
from rac.errors import RacError
from rac.models.reasoner import problems, text
from rac.models.reasoner.tokenizer import PAD, train_tokenizer

STEPS = 1400


@dataclass(frozen=True)
class Recipe:
    """Size of the model and how it is trained; the defaults are those of the shipped weights."""

    hidden: int = 192
    layers: int = 4
    mlp: int = 512
    heads: int = 6
    key_value_heads: int = 2
    vocabulary: int = 768
    rows: int = 30_000  # training problems
    problem_tokens: int = 4_500  # a step, padding included
    windows: int = 3  # of general text, a step
    window: int = 512  # tokens
    muon_rate: float = 0.02
    adamw_rate: float = 3e-3
    warmup: int = 50  # steps
    easy: float = 0.4  # share of shortest problems that the first tenth of the steps draws from
    checkpoint_every: int = 100  # steps


def train(output: Path, seed: int = 0, steps: int = STEPS, recipe: Recipe | None = None) -> Path:
    """Train a reasoner and write it to `output`: a Hugging Face folder in float16 with tokenizer.

    Checkpoints live in `{output}.work` until the end; one of another recipe, seed, number of steps
    or data is thrown away, with a message.

    Raises:
        RacError: `steps` below 1.
    """
    if steps < 1:
        raise RacError(f"steps is {steps}; it must be 1 or more")
    recipe = recipe or Recipe()
    tokenizer, rows, stream = load_data(recipe, seed)
    header = {"recipe": asdict(recipe), "seed": seed, "steps": steps}
    header["data"] = sha256_json([tokenizer.get_vocab(), rows, stream])
    batches = plan_batches([len(row) for row in rows], steps, recipe, seed)
    torch.manual_seed(seed)
    model = build_model(recipe, tokenizer)
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    other = [p for p in model.parameters() if all(p is not q for q in hidden)]
    optimizers = (
        torch.optim.Muon(hidden, lr=recipe.muon_rate),
        torch.optim.AdamW(other, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0),
    )
    stateful: tuple[Any, ...] = (model, *optimizers)
    checkpoint = output.with_name(output.name + ".work") / "checkpoint.pt"
    first = tokens = 0
    if checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=True)
        if kept["header"] == header:
            first, tokens = kept["step"], kept["tokens"]
            for part, state in zip(stateful, kept["states"], strict=True):
                part.load_state_dict(state)
            print(f"goes on from step {first}")
        else:
            print(f"{checkpoint}: of another recipe, seed, length or data; thrown away")
            shutil.rmtree(checkpoint.parent)
    started, tokens_before = time.monotonic(), tokens
    for step in range(first, steps):
        scale = min(1.0, (step + 1) / recipe.warmup) * (1 - step / steps)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = scale * optimizer.defaults["lr"]
        rng = random.Random(f"{seed} {step}")
        starts = [rng.randrange(len(stream) - recipe.window + 1) for _ in range(recipe.windows)]
        windows = [stream[start : start + recipe.window] for start in starts]
        parts = [pad([rows[i] for i in batches[step]]), pad(windows)]
        scored, losses = [int((labels[:, 1:] >= 0).sum()) for _, labels in parts], []
        for inputs, labels in parts:
            loss = summed_loss(model, inputs, labels)
            (loss / sum(scored)).backward()
            losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        tokens += sum(scored)
        if step % 20 == 0 or step + 1 == steps:
            on_problems, on_text = (loss / n for loss, n in zip(losses, scored, strict=True))
            minutes = (time.monotonic() - started) / 60
            print(
                f"step {step}: loss {on_problems:.4f} on problems, {on_text:.3f} on text, "
                f"{(tokens - tokens_before) / minutes / 60:,.0f} tokens/s, "
                f"{minutes / (step + 1 - first) * (steps - step - 1):.1f} minutes left",
                flush=True,
            )
        if (step + 1) % recipe.checkpoint_every == 0 and step + 1 < steps:
            kept = {"header": header, "step": step + 1, "tokens": tokens}
            kept["states"] = [part.state_dict() for part in stateful]
            with atomic_file(checkpoint) as file:
                torch.save(kept, file)
    with atomic_folder(output) as folder:
        model.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "training.json", header | {"tokens": tokens})
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return output


def load_data(recipe: Recipe, seed: int) -> tuple[Qwen2Tokenizer, list[list[int]], list[int]]:
    """Tokenizer (the same for all seeds), ids of each conversation, ids of the general text."""
    documents = text.documents("train")
    sample = [f"{row['problem']}\n{row['solution']}" for row in problems.generate("train", 2_000)]
    tokenizer = train_tokenizer([*documents, *sample], recipe.vocabulary)
    conversations = [
        [
            {"role": "user", "content": row["problem"]},
            {"role": "assistant", "content": "<think>\n" + row["solution"]},
        ]
        for row in problems.generate("train", recipe.rows, seed)
    ]
    rows = tokenizer(tokenizer.apply_chat_template(conversations, tokenize=False))["input_ids"]
    stream = [i for ids in tokenizer([d + PAD for d in documents])["input_ids"] for i in ids]
    return tokenizer, rows, stream


def plan_batches(lengths: list[int], steps: int, recipe: Recipe, seed: int) -> list[list[int]]:
    """Which rows each step reads: similar lengths together, the shortest in the first tenth."""
    rng = random.Random(f"batches {seed}")
    limit = sorted(lengths)[int(recipe.easy * (len(lengths) - 1))]
    short = [i for i, length in enumerate(lengths) if length <= limit]
    batches: list[list[int]] = []
    for pool, until in ((short, steps // 10), (list(range(len(lengths))), steps)):
        waiting: dict[int, list[int]] = {}
        while len(batches) < until:
            for i in rng.sample(pool, len(pool)):
                width = padded(lengths[i])
                waiting.setdefault(width, []).append(i)
                if (len(waiting[width]) + 1) * width > recipe.problem_tokens:
                    batches.append(waiting.pop(width))
        del batches[until:]
    return batches


def padded(length: int) -> int:
    """The next multiple of 16: few shapes, for which oneDNN keeps its compiled kernels."""
    return -(-length // 16) * 16


def pad(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels [rows, width]; padding comes last and has the label -100."""
    width = padded(max(map(len, rows)))
    inputs = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
    return inputs, labels


def summed_loss(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, summed over scored tokens. Padding comes last, so it needs no mask."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=inputs, use_cache=False).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum")


def build_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A Qwen2 of the recipe's size with random float32 weights."""
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.key_value_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        **ends,
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(temperature=0.6, top_p=0.95, do_sample=True, **ends)
    return model
