"""Sums over the inputs x of linear layers: Σ x xᵀ and max |x|, as a block is run."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from rac import blocks, sources
from rac.errors import RacError

# Columns of the squares on the diagonal, the only ones computed whole: fewer are less work, but slower.
PANEL = {"cpu": 128, "cuda": 512}


class Inputs(NamedTuple):
    """What is kept of the inputs x of a group over the tokens of a part."""

    hessian: torch.Tensor  # Σ x xᵀ, float32 [columns, columns]
    absmax: torch.Tensor  # the largest |x|, float32 [columns]

    def is_finite(self) -> bool:
        return bool(self.hessian.diagonal().isfinite().all())


@torch.no_grad()
def sum_inputs(
    step: blocks.Step,
    groups: list[dict],
    sequences: list[sources.Sequence],
    parts: tuple[str, ...],
    keep: bool = True,
    advance: Callable[[int], None] = lambda tokens: None,
) -> dict[tuple[str, str], Inputs]:
    """Σ x xᵀ and max |x| over the tokens of each part, for the input x of each group of a block.

    The block is run over all batches with its present weights. Activations of padding are left out.

    Args:
        step: of `rac.blocks.walk` over these sequences.
        groups: those of the block, of `rac.linear.groups`.
        sequences: token ids and prompt lengths.
        parts: one part for all tokens, or prompt and decode.
        keep: let the outputs of this very pass be what the next block sees; False to change the
            block's weights first, and have them run again.
        advance: told the tokens of each batch when it is done.

    Returns:
        By (group name, part).

    Raises:
        RacError: a layer is not given every token (a mixture of experts), or a token's activations are not
            finite; names the layer and the sequence.
    """
    inputs: dict[tuple[str, str], Inputs] = {}
    device = next(step.module.parameters()).device
    for group in groups:
        for part in parts:
            inputs[group["name"], part] = Inputs(
                torch.zeros(group["columns"], group["columns"], device=device),
                torch.zeros(group["columns"], device=device),
            )
    rows: dict[str, torch.Tensor | None] = {}  # of the running batch: positions of each part

    def add(name, x):
        x = x.flatten(0, -2)
        if len(x) != real.numel():
            raise RacError(
                f"{name} is given {len(x)} of {real.numel()} tokens: it is not supported"
            )
        for part, positions in rows.items():
            selected = x if positions is None else x[positions.to(x.device)]
            if len(selected):
                total, largest = inputs[name, part]
                add_outer_product(total, selected)
                torch.maximum(largest, selected.amax(0).float(), out=largest)
                torch.maximum(largest, -selected.amin(0).float(), out=largest)
                if not largest.isfinite().all():
                    refuse(name, selected, positions)

    def refuse(name, selected, positions):
        row = int((~selected.isfinite().all(1)).nonzero()[0])
        place = row if positions is None else int(positions[row])
        dtype = str(selected.dtype).removeprefix("torch.")
        raise RacError(
            f"{name} gets activations that are not finite in {dtype}, first at token "
            f"{place % real.shape[1]} of sequence {batch[place // real.shape[1]]}"
        )

    def hook(name):
        return lambda layer, args, kwargs: add(name, args[0] if args else kwargs["input"])

    is_head = any("tied" in group for group in groups)
    handles = [
        step.layer(group["name"]).register_forward_pre_hook(hook(group["name"]), with_kwargs=True)
        for group in groups
        if not is_head
    ]
    try:
        for number, batch in enumerate(step.batches):
            chosen = [sequences[i] for i in batch]
            real, *masks = _masks(chosen, len(parts))
            for part, mask in zip(parts, masks, strict=True):
                rows[part] = None if mask.all() else mask.flatten().nonzero().squeeze(1)
            output = step.forward(number, keep)
            if is_head:  # it is not run: its logits are not wanted
                add(groups[0]["name"], output)
            advance(sum(len(sequence.token_ids) for sequence in chosen))
    finally:
        for handle in handles:
            handle.remove()
    for total, _ in inputs.values():
        mirror(total)
    return inputs


def add_outer_product(total: torch.Tensor, x: torch.Tensor) -> None:
    """Add xᵀx to the lower triangle of `total`, at half the work of the whole product.

    Recursive halving: the off-diagonal quarter is one product, and only squares of PANEL columns on
    the diagonal are computed whole. On a GPU numbers of 16 bits are multiplied as such: products are exact in
    float32, in which they are added up.

    Args:
        total: float32 [columns, columns]; above the diagonal it holds nothing of use afterwards.
        x: [rows, columns].
    """
    _add_below(total, x if x.is_cuda else x.float())


def _add_below(total: torch.Tensor, x: torch.Tensor) -> None:
    if len(total) <= PANEL[total.device.type]:
        _add_product(total, x, x)
        return
    half = _half(len(total))
    _add_below(total[:half, :half], x[:, :half])
    _add_below(total[half:, half:], x[:, half:])
    _add_product(total[half:, :half], x[:, half:], x[:, :half])


def _add_product(total: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
    """Add rowsᵀ · columns to a float32 `total`."""
    if rows.dtype == torch.float32:
        total.addmm_(rows.T, columns)
    else:
        total.add_(torch.mm(rows.T, columns, out_dtype=torch.float32))


def mirror(total: torch.Tensor) -> None:
    """Make a matrix symmetric by its lower triangle, in place."""
    if len(total) <= PANEL[total.device.type]:
        total.copy_(total.tril() + total.tril(-1).T)
        return
    half = _half(len(total))
    mirror(total[:half, :half])
    mirror(total[half:, half:])
    total[:half, half:] = total[half:, :half].T


def _half(size: int) -> int:
    """About a half, in whole panels of 32."""
    return (size // 2 + 31) // 32 * 32


def _masks(sequences: list[sources.Sequence], parts: int) -> list[torch.Tensor]:
    """Real tokens, and those of each part, [sequences, longest]: all, or the prompt and the rest."""
    lengths = torch.tensor([len(sequence.token_ids) for sequence in sequences])[:, None]
    position = torch.arange(lengths.max().item())
    real = position < lengths
    if parts == 1:
        return [real, real]
    prompt = position < torch.tensor([sequence.prompt_length for sequence in sequences])[:, None]
    return [real, real & prompt, real & ~prompt]


def count_tokens(sequences: list[sources.Sequence], parts: tuple[str, ...]) -> dict[str, int]:
    """Tokens of each part."""
    masks = [_masks([sequence], len(parts))[1:] for sequence in sequences]
    sums = [sum(int(mask.sum()) for mask in of_part) for of_part in zip(*masks, strict=True)]
    return dict(zip(parts, sums, strict=True))
