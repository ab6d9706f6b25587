"""A causal language model without its weights, and where its files hold them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from rac.errors import RacError, one_line
from rac.models import weights
from rac.models.checkpoint import default_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DENSE = ("BF16", "F16", "F32", "F64")  # dtypes of safetensors that weights may be stored in


def skeleton(model: Path, dtype: str) -> "PreTrainedModel":
    """The causal language model of a folder, in evaluation mode, without most of its weights.

    Blocks and embeddings are on the meta device; the rest (final norm, learned positions) is read,
    and buffers that no file holds (rotary frequencies) are computed as transformers does.

    Raises:
        RacError: the folder is missing or damaged, or its tensors do not fit its config.json.
        ValueError: as `decoder_blocks`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    model = Path(model)
    if not (model / "config.json").is_file():
        raise RacError(f"{model} is not a Hugging Face folder: config.json is missing")
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    except Exception as error:  # a foreign config.json makes it fail in any way
        raise cannot_build(model, error) from None
    network.eval().requires_grad_(False)
    # Before anything is said of files: experts are stored in several ways.
    blocks = decoder_blocks(network)
    located = locate(network, model)
    try:
        _compute_buffers(network, default_device())
    except ValueError:
        raise
    except Exception as error:
        raise cannot_build(model, error) from None
    late = {*blocks, network.get_input_embeddings(), output_embedding(network)}
    prefixes = tuple(f"{name}." for name, module in network.named_modules() if module in late)
    early = [name for name in network.state_dict() if not name.startswith(prefixes)]
    load(network, early, located, default_device())
    return network


def cannot_build(model: Path, error: Exception) -> RacError:
    """What to say when transformers fails on a config.json."""
    return RacError(
        f"{model}/config.json: transformers cannot build this model: "
        f"{type(error).__name__}: {one_line(error)}"
    )


def decoder_blocks(network: "PreTrainedModel") -> nn.ModuleList:
    """The outermost list of as many modules as the configuration has layers.

    Raises:
        ValueError: there is none, its blocks hold experts, or cannot be run one by one and in batches.
    """
    count = getattr(network.config.get_text_config(), "num_hidden_layers", None)
    for parent in network.base_model.modules():
        for module in parent.children():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                _refuse_experts(module)
                _refuse_ties(network, parent, module)
                return module
    raise ValueError(f"{type(network).__name__} has no list of {count} decoder blocks")


def _refuse_experts(blocks: nn.ModuleList) -> None:
    """Refuse experts, stacked in parameters of three dimensions or one by one: each sees some tokens only.

    Raises:
        ValueError: there are some.
    """
    convolutions = nn.Conv1d | nn.Conv2d | nn.Conv3d
    for name, module in blocks.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            stacked = parameter.ndim > 2 and not isinstance(module, convolutions)
            if stacked or "expert" in name:
                raise ValueError(
                    f"its decoder blocks hold experts ({name}.{leaf}): a mixture of experts is refused, "
                    "as a Hessian over the few tokens that an expert gets would mislead"
                )


def _refuse_ties(network: "PreTrainedModel", decoder: nn.Module, blocks: nn.ModuleList) -> None:
    """Refuse what a block gets from elsewhere than the block before it, or from other sequences.

    Raises:
        ValueError: there is some.
    """
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {str(of.get("rope_type")) for of in (rope, *rope.values()) if isinstance(of, dict)}
    for kind in sorted(kinds & {"dynamic", "longrope"}):
        raise ValueError(
            f"its positions are scaled by the longest sequence of a batch (rope_type {kind}): refused, as "
            "results would hang on what is run together"
        )
    if getattr(config, "num_kv_shared_layers", 0):
        raise ValueError(
            "its last decoder blocks use keys and values of others (num_kv_shared_layers): refused, as "
            "blocks are run one by one"
        )
    inside = set(blocks.modules())
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and module not in inside:
            raise ValueError(
                f"it has a linear layer beside its decoder blocks ({name}): refused, as embeddings go "
                "straight into the first block and out of the last into the head"
            )


def output_embedding(network: "PreTrainedModel") -> nn.Linear | None:
    """The linear layer that makes logits, if the model has one."""
    head = network.get_output_embeddings()
    return head if isinstance(head, nn.Linear) else None


def locate(network: "PreTrainedModel", model: Path) -> dict[str, tuple[Path, str]]:
    """Where each tensor of the model is stored: its file, and the name it has there.

    Names of older checkpoints are translated as transformers does (GPT-NeoX's embed_out is lm_head).

    Raises:
        RacError: the files lack a tensor of the model, have one that the model lacks, or one of another
            shape, or that is not stored as floating-point numbers of 16 bits or more.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    changes = get_model_conversion_mapping(network)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    prefix, expected = network.base_model_prefix, network.state_dict()
    located, headers = {}, weights.headers(model)
    for stored, (file, dtype, _) in headers.items():
        name, _ = rename_source_key(stored, renamings, [], prefix, expected)
        name = stored if stored in expected else name
        floats = name in expected and expected[name].is_floating_point()
        if floats and dtype not in DENSE:  # before all else: scales without a place lie beside it
            raise RacError(f"{file}: {stored} is stored as {dtype}, and not as {', '.join(DENSE)}")
        located[name] = file, stored
    for one, other in network.all_tied_weights_keys.items():
        twin = located.get(one) or located.get(other)
        if twin:
            located = {one: twin, other: twin} | located
    for name in expected:
        if name not in located:
            raise RacError(f"{model}: no file holds {name}, which its config.json asks for")
        file, stored = located[name]
        if (found := headers[stored].shape) != (asked := list(expected[name].shape)):
            raise RacError(f"{file}: {stored} is {found}, and config.json asks for {asked}")
    ignored = [*(network._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq"]
    for name in sorted(located.keys() - expected.keys()):
        if not any(re.search(pattern, name) for pattern in ignored):
            file, stored = located[name]
            raise RacError(f"{file} holds {stored}, which its config.json has no place for")
    return located


def load(
    network: "PreTrainedModel", names: list[str], located: dict[str, tuple[Path, str]], device: str
) -> None:
    """Read tensors of the model from files into it, in the model's dtype."""
    empty, tensors = network.state_dict(), {}
    for name in names:
        file, stored = located[name]
        tensors[name] = weights.read(file, stored).to(device, empty[name].dtype)
    network.load_state_dict(tensors, strict=False, assign=True)


def _compute_buffers(network: "PreTrainedModel", device: str) -> None:
    """Give buffers that no file holds the values that transformers' own initialisation gives them.

    Raises:
        ValueError: it leaves one untouched, which would be garbage.
    """
    owners: dict[nn.Module, list[str]] = {}
    for name, buffer in list(network.named_non_persistent_buffers()):
        parent, _, leaf = name.rpartition(".")
        owner = network.get_submodule(parent)
        marker = float("nan") if buffer.is_floating_point() else torch.iinfo(buffer.dtype).min
        setattr(owner, leaf, torch.full_like(buffer, marker, device=device))
        owners.setdefault(owner, []).append(leaf)
    for owner, leaves in owners.items():
        network._init_weights(owner)
        for leaf in leaves:
            buffer = getattr(owner, leaf)
            untouched = buffer.isnan() if buffer.is_floating_point() else buffer.lt(0)
            if untouched.any():
                raise ValueError(
                    f"{type(owner).__name__}.{leaf} cannot be computed without a model"
                )
