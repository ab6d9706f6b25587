"""Which linear layers a model has, which of them share an input, and which norm makes it."""

import copy
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rac.models.skeleton import decoder_blocks, output_embedding
from rac.variants import Scope

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def groups(model: "PreTrainedModel") -> list[dict]:
    """The linear layers of the decoder blocks and the output embedding, grouped by input, in order.

    Sharing is seen, not guessed from names: one short sequence is run, and layers of a block that
    are given the very same tensor belong together, so that one Hessian serves them all. Only
    `nn.Linear` counts, and no class made of it. Blocks without weights, of `rac.models.skeleton`, do as well.

    Returns:
        {"block": its number, "name": of the first layer, "layers": names, "columns": of the input,
        "norm": name of the module whose output is that input, goes nowhere else and is linear in its
        weight (and bias), or None}. The output embedding is the last group, of a block by itself,
        and it alone has "tied": whether its weight is the input embedding's.

    Raises:
        ValueError: the model has no decoder blocks, or no linear layers that run in them.
    """
    names = {module: name for name, module in model.named_modules()}
    blocks, head = decoder_blocks(model), output_embedding(model)
    block_of = {
        layer: i
        for i, block in enumerate(blocks)
        for layer in block.modules()
        if type(layer) is nn.Linear  # what quantized checkpoints know by its name
    }
    inputs: dict[nn.Module, torch.Tensor] = {}  # keeps them, so that no two share an identity
    normed: dict[nn.Module, torch.Tensor] = {}
    uses = _Uses()

    def remember(layer, args, kwargs):
        inputs.setdefault(layer, args[0] if args else kwargs["input"])

    def leave(layer, args):
        inputs[layer] = args[0]
        raise _Left  # its logits are not wanted

    def follow(norm, args, output):
        if isinstance(output, torch.Tensor):
            normed.setdefault(norm, output)
            uses.of[id(output)] = 0

    def enter(block, args, kwargs):  # a block without weights computes nothing but shapes
        device = next(block.parameters()).device
        return _moved(args, device), _moved(kwargs, device)

    def emerge(block, args, output):
        return _real(output, device)

    handles = [layer.register_forward_pre_hook(remember, with_kwargs=True) for layer in block_of]
    handles += [module.register_forward_hook(follow) for module in names if _is_norm(module)]
    handles += [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(emerge) for block in blocks]
    handles += [head.register_forward_pre_hook(leave)] if head else []
    device = next(x.device for x in chain(model.parameters(), model.buffers()) if not x.is_meta)
    embedding: Any = model.get_input_embeddings().weight
    hidden = torch.ones(1, 8, embedding.shape[1], dtype=embedding.dtype, device=device)
    try:
        with uses:
            model(inputs_embeds=hidden, use_cache=False)
    except _Left:
        pass
    finally:
        for handle in handles:
            handle.remove()

    found: dict[tuple[int, int], dict] = {}
    for layer, block in block_of.items():  # in the order of definition
        if layer in inputs:
            new = {"block": block, "name": names[layer], "layers": [], "columns": layer.in_features}
            found.setdefault((block, id(inputs[layer])), new)["layers"].append(names[layer])
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no nn.Linear in its decoder blocks: nothing to compress"
        )
    for (_, shared), group in found.items():
        norm = _maker(normed, shared)
        alone = norm and uses.of[shared] == len(group["layers"]) and _is_linear_in_weight(norm)
        group["norm"] = names[norm] if alone else None
    if head not in inputs:
        return list(found.values())
    given = inputs[head] if inputs[head]._base is None else inputs[head]._base  # all its positions
    norm = _maker(normed, id(given))
    alone = norm and uses.of[id(given)] <= 1 and _is_linear_in_weight(norm)
    last = {
        "block": len(blocks),
        "name": names[head],
        "layers": [names[head]],
        "columns": head.in_features,
        "norm": names[norm] if alone else None,
        "tied": head.weight is embedding,
    }
    return [*found.values(), last]


class _Left(Exception):
    """Thrown out of the model's forward pass when it comes to the logits."""


class _Uses(TorchFunctionMode):
    """Counts how often each tensor, by its identity, goes into a computation."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, torch.Size | torch.dtype | torch.device | int | bool):
            given = (*args, *(kwargs or {}).values())
            self.of.update(id(x) for x in given if isinstance(x, torch.Tensor))
        return result


def _moved(value: Any, device: torch.device) -> Any:
    """The tensors of nested arguments, on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    return value


def _real(value: Any, device: torch.device) -> Any:
    """A block's output, or zeros of its shape if the block has no weights."""
    if isinstance(value, tuple):
        return tuple(_real(item, device) for item in value)
    is_meta = isinstance(value, torch.Tensor) and value.is_meta
    return torch.zeros_like(value, device=device) if is_meta else value


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 1 and not any(module.children())


def _maker(normed: dict[nn.Module, torch.Tensor], identity: int) -> nn.Module | None:
    """The norm whose output has this identity."""
    return next((norm for norm, output in normed.items() if id(output) == identity), None)


def _is_linear_in_weight(norm: nn.Module) -> bool:
    """Whether the output is weight ⊙ g(x) + bias: Gemma's, (1 + weight) ⊙ g(x), is not."""
    trial: Any = copy.deepcopy(norm).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, *trial.weight.shape, generator=generator)

    def output(weight):
        for parameter in trial.parameters():
            parameter.zero_()
        trial.weight.copy_(weight)
        return trial(x[None, None])

    return torch.allclose(output(weight), weight * output(torch.ones_like(weight)), atol=1e-6)


def decoder_groups(groups: list[dict]) -> list[dict]:
    """The groups of the decoder blocks: all but the output embedding's."""
    return [group for group in groups if "tied" not in group]


def by_block(groups: list[dict]) -> dict[int, list[dict]]:
    """The groups of each block, blocks in order."""
    blocks: dict[int, list[dict]] = {}
    for group in groups:
        blocks.setdefault(group["block"], []).append(group)
    return dict(sorted(blocks.items()))


def in_scope(groups: list[dict], scope: Scope) -> list[dict]:
    """The groups of a model with only those layers that `scope` names; groups without any are left out.

    A third is of the model's blocks, by i · 3 // count. A layer belongs to attention if a part of its
    name says so, else to the MLP. The output embedding belongs to no block and no projection: it is
    in scope if `scope.lm_head` says so.

    Raises:
        ValueError: the range goes beyond the model's blocks, no layer is in scope, or the model has
            no linear output embedding for `scope.lm_head`.
    """
    head = [group for group in groups if "tied" in group]
    groups = decoder_groups(groups)
    numbers = sorted({group["block"] for group in groups})
    chosen = set(numbers)
    if "third" in scope.blocks:
        third = ["first-third", "middle-third", "last-third"].index(scope.blocks)
        chosen = {block for i, block in enumerate(numbers) if i * 3 // len(numbers) == third}
    elif scope.blocks != "all":
        first, last = map(int, scope.blocks.split("-"))
        chosen = set(range(first, last + 1))
        if not chosen <= set(numbers):
            raise ValueError(f"scope.blocks {scope.blocks}: the model has blocks 0-{numbers[-1]}")
    scoped = [
        group
        | {
            "layers": [
                name for name in group["layers"] if scope.projections in ("all", projection(name))
            ]
        }
        for group in groups
        if group["block"] in chosen
    ]
    scoped = [group for group in scoped if group["layers"]]
    if not scoped:
        raise ValueError(f"scope {scope.blocks}, {scope.projections}: no layer is in it")
    if not scope.lm_head:
        return scoped
    if not head:
        raise ValueError("scope.lm_head: the model has no linear output embedding")
    return scoped + head


def projection(name: str) -> str:
    """What a decoder block's layer belongs to: attention or mlp."""
    return "attention" if "attn" in name or "attention" in name else "mlp"
