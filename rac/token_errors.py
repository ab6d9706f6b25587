"""Where in a sequence compression hurts: relative errors of linear layers, token by token."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence

from rac import batching, sources

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOKENS = 4096  # run together


@torch.inference_mode()
def token_errors(
    dense: "PreTrainedModel",
    lost: Callable[[str], torch.Tensor],
    layers: list[str],
    sequences: list[sources.Sequence],
    update: Callable[[int], object] = lambda tokens: None,
) -> tuple[list[torch.Tensor], int]:
    """‖(W − Ŵ) x‖² / ‖W x‖² at each token, the mean over layers; 0 where there is nothing to lose.

    x is what the dense model gives a layer at that token.

    Args:
        dense: a causal language model.
        lost: W − Ŵ of a layer by its name, float32 [out, in].
        layers: names of linear layers of the dense model.
        sequences: token ids.
        update: called with the number of tokens of each batch.

    Returns:
        One float64 [tokens] a sequence, in their order; how often a batch was halved, as memory was short.

    Raises:
        RacError: memory is short for a sequence by itself.
    """
    lengths = [len(sequence.token_ids) for sequence in sequences]
    found: dict[int, torch.Tensor] = {}
    total = torch.empty(0)

    def hook(name: str):
        def add(module, args, kwargs, output):
            x = (args[0] if args else kwargs["input"]).float()
            whole = (output if module.bias is None else output - module.bias).float()
            squares = [
                part.square().sum(-1) for part in (linear(x, lost(name).to(x.device)), whole)
            ]
            total.add_(torch.where(squares[1] > 0, squares[0] / squares[1], 0).double().cpu())

        return add

    def run(batch: list[int]) -> dict[int, torch.Tensor]:
        nonlocal total
        ids = pad_sequence([sequences[i].token_ids for i in batch], batch_first=True)
        total = torch.zeros(ids.shape, dtype=torch.float64)
        dense.base_model(input_ids=ids.to(dense.device), use_cache=False)
        update(sum(lengths[i] for i in batch))
        rows = zip(batch, total, strict=True)
        return {i: row[: lengths[i]] / len(layers) for i, row in rows}

    handles = [
        dense.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True)
        for name in layers
    ]
    halvings = 0
    try:
        for of_batch, halved in batching.run_in_batches(run, lengths, TOKENS):
            found |= of_batch
            halvings = halved
    finally:
        for handle in handles:
            handle.remove()
    return [found[i] for i in range(len(sequences))], halvings
