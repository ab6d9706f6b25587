"""Weights of linear layers by name, one at a time, to be held against the dense ones."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rac.artifacts import read_json
from rac.errors import RacError
from rac.models import weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Weights = Callable[[str], torch.Tensor]  # a module's name → its weight, float32


def of_model(model: "PreTrainedModel") -> Weights:
    """The weights of a model, on its device."""
    return lambda name: model.get_parameter(f"{name}.weight").detach().float()


def of_folder(folder: Path, dtype: str | None = None) -> Weights:
    """The weights of a Hugging Face folder, quantized ones as the numbers that they stand for, on the CPU.

    Args:
        folder: the folder; each weight is read when it is asked for.
        dtype: what the model runs in, which weights are rounded to; as they are stored without.

    Raises:
        RacError: a file is missing or damaged; when a weight is asked for that none holds.
    """
    located = weights.locate(folder)
    runs_in = getattr(torch, dtype) if dtype else None

    def weight(name: str) -> torch.Tensor:
        key = f"{name}.weight"
        if f"{key}_scale" in located:
            from rac.models import quantized

            parts = {part.rpartition(".")[2]: part for part in located if part.startswith(key)}
            stored = {part: weights.read(located[of], of) for part, of in parts.items()}
            config = read_json(folder / "config.json")["quantization_config"]
            return quantized.decompress(stored, config, runs_in).float()
        if key not in located:
            raise RacError(f"no file of {folder} holds {key}")
        return weights.read(located[key], key).to(runs_in).float()

    return weight


def unsmoothed(changed: Weights, dense: Weights, name: str, norm: str | None) -> torch.Tensor:
    """A checkpoint's weight as the dense model's inputs meet it: what SmoothQuant multiplied, divided again.

    Args:
        changed: weights of the checkpoint.
        dense: weights of the dense model.
        name: the layer's.
        norm: the name of the module that makes the layer's input, if smoothing can divide it.

    Returns:
        float32 [out, in].
    """
    if norm is None:
        return changed(name)
    before, after = dense(norm), changed(norm)
    return changed(name) / torch.where((before == 0) | (after == 0), 1, before / after)
