"""Which linear layers a model's decoder blocks have, and which of them share an input."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from rac.config import Scope

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def groups(model: "PreTrainedModel") -> list[dict]:
    """The linear layers of the decoder blocks, grouped by input, in the model's order.

    Sharing is seen, not guessed from names: one short sequence is run, and layers of a block that
    are given the very same tensor belong together, so that one Hessian serves them all. Only
    `nn.Linear` counts; embeddings and `lm_head` do not.

    Returns:
        {"block": its number, "name": of the first layer, "layers": names, "columns": of the input}.

    Raises:
        ValueError: the model has no decoder blocks, or no linear layers that run in them.
    """
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items() if isinstance(module, nn.Linear)}
    block_of = {
        layer: i
        for i, block in enumerate(_blocks(model))
        for layer in block.modules()
        if isinstance(layer, nn.Linear)
    }
    inputs: dict[nn.Module, torch.Tensor] = {}  # keeps them, so that no two share an identity

    def remember(layer, args, kwargs):
        inputs.setdefault(layer, args[0] if args else kwargs["input"])

    handles = [layer.register_forward_pre_hook(remember, with_kwargs=True) for layer in block_of]
    try:
        vocabulary = model.config.get_text_config().vocab_size
        token_ids = torch.arange(8, device=model.device)[None] % vocabulary
        model.base_model(input_ids=token_ids, use_cache=False)
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
    return list(found.values())


def in_scope(groups: list[dict], scope: Scope) -> list[dict]:
    """The groups of a model with only those layers that `scope` names; groups without any are left out.

    A third is of the model's blocks, by i · 3 // count. A layer belongs to attention if a part of its
    name says so, else to the MLP.

    Raises:
        ValueError: the range goes beyond the model's blocks, or no layer is in scope.
    """
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
        group | {"layers": [name for name in group["layers"] if _projection(name, scope)]}
        for group in groups
        if group["block"] in chosen
    ]
    scoped = [group for group in scoped if group["layers"]]
    if not scoped:
        raise ValueError(f"scope {scope.blocks}, {scope.projections}: no layer is in it")
    return scoped


def _projection(name: str, scope: Scope) -> bool:
    kind = "attention" if "attn" in name or "attention" in name else "mlp"
    return scope.projections in ("all", kind)


def _blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """The outermost list of as many modules as the configuration has layers."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {count} decoder blocks")
