"""The transformers engine: batched sampling with a key-value cache, one seed a sample.

Every sample draws from its own stream of uniform numbers, so its randomness does not depend on what
shares its batch (its logits do, in the last bits). Finished samples leave the batch.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rac import memory
from rac.definitions import Sampling
from rac.engines import Completion, Generate, NotNumbers, Task, check_context
from rac.errors import RacError, one_line
from rac.models import checkpoint as checkpoints

FEW = 64  # most probable tokens that are looked at first; they nearly always hold the nucleus
KEEP = 7 / 8  # ended samples leave the batch when so few are left: each leaving copies the cache
# All but cuDNN, which makes a plan for every length of the cache: 11 ms a block and token on an H100.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
GROWTH = 128  # tokens by which the cache grows: a copy every so many steps instead of at each


class GrowingLayer(DynamicLayer):
    """A cache layer with spare room, so that a step appends in place instead of copying the past."""

    def update(self, key_states, value_states, *args, **kwargs):
        """Append keys and values [batch, heads, new tokens, head size]; return all so far (views)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = {}
        self.keys = self._append("keys", self.keys, key_states)
        self.values = self._append("values", self.values, value_states)
        return self.keys, self.values

    def _append(self, what: str, past: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        start = past.shape[-2] if past.numel() else 0
        end = start + new.shape[-2]
        room = self.room.get(what)
        if room is None or room.shape[0] != new.shape[0] or room.shape[-2] < end:
            room = new.new_empty(*new.shape[:-2], end + GROWTH, new.shape[-1])
            room[..., :start, :] = past if start else room[..., :0, :]
            self.room[what] = room
        room[..., start:end, :] = new
        return room[..., :end, :]


def grouped_sdpa(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """Attention of one new token: query heads that share a key-value head are rows of one product.

    The stock implementation repeats keys and values for every query head, which costs more than the
    attention itself when one token is decoded against a long cache.
    """
    groups = getattr(module, "num_key_value_groups", 1)
    if query.shape[2] != 1 or groups == 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    rows = query.view(key.shape[0], key.shape[1], groups, query.shape[-1])
    out = torch.nn.functional.scaled_dot_product_attention(
        rows, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(key.shape[0], 1, key.shape[1] * groups, value.shape[-1]), None


AttentionInterface.register("grouped_sdpa", grouped_sdpa)
AttentionMaskInterface.register("grouped_sdpa", sdpa_mask)


def sample(logits: torch.Tensor, uniforms: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Draw a token a row from the nucleus of the tempered distribution (arXiv 1904.09751, section 3.1).

    The nucleus is the smallest set of most probable tokens whose probability reaches top_p; the token is
    where the cumulative probability passes u × the nucleus's probability. With top_k, only the k most
    probable tokens, and those as probable as the last of them, have any.

    Args:
        logits: [rows, vocabulary].
        uniforms: [rows], in [0, 1).
        sampling: temperature, top_p and top_k.

    Returns:
        token ids, int64 [rows].

    Raises:
        NotNumbers: the logits of a row are none.
    """
    probabilities = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.top_k and sampling.top_k < probabilities.shape[-1]:
        least = probabilities.topk(sampling.top_k).values[:, -1:]
        probabilities = torch.where(probabilities < least, 0, probabilities)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    few = min(FEW, probabilities.shape[-1])
    top, tokens = _by_token(*probabilities.topk(few))
    broken = top[:, 0].isnan()
    if broken.any():
        raise NotNumbers(int(broken.nonzero()[0]))
    if (
        few < probabilities.shape[-1]
        and (top * (top > top[:, -1:])).sum(-1).min() <= sampling.top_p
    ):
        top, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = top.cumsum(-1)
    nucleus = top * (cumulative - top < sampling.top_p)
    cumulative = nucleus.cumsum(-1)
    targets = uniforms[:, None].to(cumulative) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, targets, right=True)
    last = (nucleus > 0).sum(-1, keepdim=True) - 1
    return tokens.gather(-1, torch.minimum(chosen, last)).squeeze(-1)


def _by_token(top: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Order ties by token, which topk does not; else a sample would hang on who needs the full sort."""
    tokens, order = tokens.sort(dim=-1)
    top, by_probability = top.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return top, tokens.gather(-1, by_probability)


@torch.inference_mode()
@sdpa_kernel(ATTENTION)
def generate(
    model: PreTrainedModel,
    stop: list[int],
    prompts: list[list[int]],
    seeds: list[int],
    sampling: Sampling,
    max_new_tokens: int,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[Completion]:
    """Sample one completion a prompt, all in one batch.

    Args:
        model: a causal language model.
        stop: token ids that end a completion.
        prompts: token ids, one list a sample.
        seeds: one a sample; the sampled tokens hang on it.
        sampling: temperature, top_p and top_k.
        max_new_tokens: where a completion is cut (finish reason "length").
        progress: called with the number of tokens sampled at each step.

    Raises:
        RacError: prompt and completion do not fit the model's context.
        NotNumbers: the logits of a prompt are none.
    """
    device = model.device
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    check_context(context, max(map(len, prompts)), max_new_tokens)
    uniforms = torch.stack(
        [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ).to(device)
    width = max(map(len, prompts))
    padded = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    mask = torch.zeros(len(prompts), width + max_new_tokens, dtype=torch.long, device=device)
    for row, ids in enumerate(prompts):  # padding stands at the left
        padded[row, width - len(ids) :] = torch.tensor(ids, device=device)
        mask[row, width - len(ids) :] = 1
    positions = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)
    cache = Cache(layer_class_to_replicate=GrowingLayer)
    stops = torch.tensor(stop, device=device)
    sampled = torch.zeros(len(prompts), max_new_tokens, dtype=torch.long, device=device)
    lengths = torch.full((len(prompts),), max_new_tokens, device=device)
    stopped = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the samples in the batch
    live = torch.ones_like(stopped)  # those of them that have not ended
    inputs = padded
    for step in range(max_new_tokens):
        logits = model(
            input_ids=inputs,
            attention_mask=mask[rows, : width + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        try:
            tokens = sample(logits, uniforms[rows, step], sampling)
        except NotNumbers as error:
            raise NotNumbers(int(rows[error.index])) from None
        sampled[rows, step] = tokens
        progress(int(live.sum()))
        ended = live & torch.isin(tokens, stops)
        if ended.any():
            lengths[rows[ended]] = step + 1
            stopped[rows[ended]] = True
            live &= ~ended
            going = live.nonzero().squeeze(-1)
            if not len(going):
                break
            if len(going) <= len(live) * KEEP:
                rows, tokens, positions = rows[going], tokens[going], positions[going]
                cache.batch_select_indices(going)
                live = live[going]
        inputs, positions = tokens[:, None], positions[:, -1:] + 1
    return [
        Completion(ids[:length], "stop" if done else "length")
        for ids, length, done in zip(
            sampled.tolist(), lengths.tolist(), stopped.tolist(), strict=True
        )
    ]


def load(checkpoint: Path, dtype: str) -> PreTrainedModel:
    """The model in `checkpoint`, set up for `generate`.

    Raises:
        RacError: it cannot be loaded, or has another cache than one of keys and values.
    """
    model = checkpoints.load_model(checkpoint, dtype)
    for layer in DynamicCache(config=model.config).layers:
        if not isinstance(layer, DynamicLayer):
            raise RacError(
                f"{checkpoint}: its blocks keep other states than keys and values ({type(layer).__name__}): "
                "engine transformers cannot sample from it, engine: vllm may"
            )
    model.set_attn_implementation("grouped_sdpa")
    return model


def open_engine(task: Task) -> Generate:
    """Load a checkpoint; see `rac.engines`. A group is a chunk of `task.batch` samples.

    Where a GPU has no memory for a chunk, it and those after it are generated in halves, and standard error
    says so: the last digits of logits hang on what shares a batch.
    """
    model = load(task.checkpoint, task.dtype)
    stop = checkpoints.stop_tokens(task.checkpoint)
    together, halvings = task.batch, 0

    def of_chunk(prompts, seeds, progress, first):
        nonlocal together, halvings
        done: list[Completion] = []
        while len(done) < len(prompts):
            part = slice(len(done), len(done) + together)
            try:
                drawn = generate(
                    *(model, stop, prompts[part], seeds[part]),
                    *(task.sampling, task.max_new_tokens, progress),
                )
                done += [completion._replace(halvings=halvings) for completion in drawn]
                continue
            except NotNumbers as error:
                raise NotNumbers(first + part.start + error.index) from None
            except torch.OutOfMemoryError as error:
                if together == 1:
                    raise RacError(
                        f"memory is short for a single sample: {one_line(error)}"
                    ) from None
                together, halvings = -(-together // 2), halvings + 1
                line = one_line(error)
            memory.go_on(f"{together} samples at once from now on", line)
        return done

    def run(prompts, seeds, progress):
        for start in range(0, len(prompts), task.batch):
            chunk = slice(start, start + task.batch)
            yield list(enumerate(of_chunk(prompts[chunk], seeds[chunk], progress, start), start))

    return run
