"""A calibration's sequences in front of each block in turn: what comes out of the blocks before it.

The blocks before are the dense model's, or what has taken their place: then no Hessian can be cached.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from rac import blocks, sources
from rac.definitions import source_parts
from rac.errors import RacError
from rac.inputs import Inputs, count_tokens, sum_inputs

Weights = dict[tuple[str, str], float]  # of a token, by source and part


class Arrived(NamedTuple):
    """The sequences of a source, in front of a block."""

    step: blocks.Step
    sequences: list[sources.Sequence]
    parts: tuple[str, ...]


def walk(
    model: Path,
    dtype: str,
    files: Mapping[str, Path],
    batch_tokens: int | None = None,
    spill: Path | None = None,
) -> Iterator[dict[str, Arrived]]:
    """Take several sources through the model, block by block.

    The next block's inputs are made by the present weights of this one when the next is asked for.

    Args:
        model: folder of the dense model.
        dtype: what it runs in.
        files: source → its sequences.safetensors.
        batch_tokens, spill: as `rac.blocks.walk` has them.

    Raises:
        RacError: a file is missing, damaged or of another model.
    """
    read = {}
    for source, file in files.items():
        metadata = sources.metadata_for(file, model)
        read[source] = sources.read(file), source_parts(metadata["kind"])
    walks = [
        blocks.walk(model, dtype, sequences, batch_tokens, spill) for sequences, _ in read.values()
    ]
    for steps in zip(*walks, strict=True):
        yield {
            source: Arrived(step, *of_source)
            for (source, of_source), step in zip(read.items(), steps, strict=True)
        }


def tokens(files: Mapping[str, Path]) -> dict[str, dict[str, int]]:
    """The tokens of each part of several sources.

    Args:
        files: source → its sequences.safetensors.

    Raises:
        RacError: a file is missing or damaged.
    """
    return {
        source: count_tokens(sources.read(file), source_parts(sources.read_metadata(file)["kind"]))
        for source, file in files.items()
    }


def longest(files: Mapping[str, Path]) -> int:
    """The tokens of the longest sequence of several sources.

    Raises:
        RacError: a file is missing or damaged.
    """
    return max(len(x.token_ids) for file in files.values() for x in sources.read(file))


def sum_all(arrived: dict[str, Arrived], groups: list[dict], weights: Weights) -> dict[str, Inputs]:
    """The calibration's Σ x xᵀ and max |x| for each group of a block, by the group's name.

    Args:
        arrived: the sources in front of the block.
        groups: those of the block, of `rac.linear.groups`.
        weights: of the calibration; what it does not name does not count.

    Raises:
        RacError: activations are not finite.
    """
    found: dict[str, Inputs] = {}
    for source, (step, sequences, parts) in arrived.items():
        for (name, part), x in sum_inputs(step, groups, sequences, parts, keep=False).items():
            if not x.is_finite():
                raise RacError(
                    f"{name} gets activations that are not finite after compressed blocks"
                )
            if weight := weights.get((source, part), 0):
                x.hessian.mul_(weight)
                if name in found:
                    found[name].hessian.add_(x.hessian)
                    torch.maximum(found[name].absmax, x.absmax, out=found[name].absmax)
                else:
                    found[name] = x
    return found


@torch.no_grad()
def put(arrived: dict[str, Arrived], tensors: dict[str, torch.Tensor]) -> None:
    """Let a block compute with other weights, by their names in the model."""
    for step, _, _ in arrived.values():
        for name, tensor in tensors.items():
            layer, _, kind = name.rpartition(".")
            getattr(step.layer(layer), kind).copy_(tensor)
