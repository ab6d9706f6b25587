"""Local reconstruction (arXiv 2510.14444): fit the weights that a mask keeps, one part of a block at a time.

A part is a module that holds linear layers, attention or MLP. With what comes to it fixed, Adam moves its
kept weights until it gives what the dense part gives for the same inputs. No gradient leaves the part.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch.func import functional_call

from rac.propagation import Arrived, Weights
from rac.variants import Reconstruct


class Fitted(NamedTuple):
    """How far a part's outputs were from the dense part's: relative squared errors over all tokens."""

    part: str
    before: float
    after: float


def reconstruct(
    arrived: Mapping[str, Arrived],
    weights: Weights,
    layers: Mapping[str, torch.Tensor],
    masks: Mapping[str, torch.Tensor],
    asked: Reconstruct,
) -> tuple[dict[str, torch.Tensor], list[Fitted]]:
    """Fit the kept weights of a block. A part that gets no better stays as it was.

    Args:
        arrived: the calibration's sequences in front of the block, which has its dense weights.
        weights: of the tokens, by source and part of it; those that it does not name do not count.
        layers: name → pruned weight, float32 [out, in].
        masks: name → boolean [out, in], True where a weight may move.
        asked: how long and how fast.

    Returns:
        The weights by name, float32, zero where the mask is; for every part what it gained.
    """
    modules: dict[str, list[str]] = {}
    for name in layers:
        modules.setdefault(name.rpartition(".")[0], []).append(name)
    kept = {name: mask.float() for name, mask in masks.items()}
    moving = {name: (layers[name] * kept[name]).requires_grad_() for name in layers}
    optimizer = torch.optim.Adam(moving.values(), asked.learning_rate)

    def error(part: str, seen: "_Seen", given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the tokens of the squared distance to the dense part's output."""
        dtype = seen.output.dtype
        replaced = {
            f"{name.removeprefix(part)[1:]}.weight": (given[name] * kept[name]).to(dtype)
            for name in modules[part]
        }
        output = functional_call(seen.module, replaced, seen.args, seen.kwargs)
        output = output[0] if isinstance(output, tuple) else output
        return ((output - seen.output).float() ** 2 * seen.weights).sum()

    batches = [(source, i) for source in arrived for i in range(len(arrived[source].step.batches))]
    order = _shuffled(batches)
    with torch.enable_grad():
        for step in range(asked.steps):
            for options in optimizer.param_groups:
                options["lr"] = asked.learning_rate * (1 - step / asked.steps)
            optimizer.zero_grad()
            for part, seen in _dense_pass(arrived, weights, next(order), modules).items():
                energy = (seen.output.float() ** 2 * seen.weights).sum()
                if energy > 0:
                    (error(part, seen, moving) / energy).backward()
            optimizer.step()

    sums = {part: [0.0, 0.0, 0.0] for part in modules}
    with torch.no_grad():
        for batch in batches:
            for part, seen in _dense_pass(arrived, weights, batch, modules).items():
                energy = (seen.output.float() ** 2 * seen.weights).sum()
                found = error(part, seen, layers), error(part, seen, moving), energy
                sums[part] = [
                    total + value.item() for total, value in zip(sums[part], found, strict=True)
                ]
        result, gained = {}, []
        for part, (before, after, dense) in sums.items():
            for name in modules[part]:
                result[name] = (moving if after < before else layers)[name].detach() * kept[name]
            whole = dense or 1.0  # no output: nothing is lost
            gained.append(Fitted(part, before / whole, min(after, before) / whole))
    return result, gained


class _Seen(NamedTuple):
    """What a part of the dense block was given for a batch, and gave."""

    module: torch.nn.Module
    args: tuple
    kwargs: dict[str, Any]
    output: torch.Tensor  # [sequences, longest, hidden]
    weights: torch.Tensor  # of the tokens [sequences, longest, 1], zero for padding


def _shuffled(batches: list[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """All batches again and again, in another order each time."""
    generator = random.Random(0)
    while True:
        yield from generator.sample(batches, len(batches))


@torch.no_grad()
def _dense_pass(
    arrived: Mapping[str, Arrived],
    weights: Weights,
    batch: tuple[str, int],
    parts: Mapping[str, list[str]],
) -> dict[str, _Seen]:
    """Run a batch through the block, and see what its parts are given and give."""
    source, number = batch
    step, sequences, names = arrived[source]
    chosen = [sequences[i] for i in step.batches[number]]
    longest = max(len(sequence.token_ids) for sequence in chosen)
    first, last = weights.get((source, names[0]), 0.0), weights.get((source, names[-1]), 0.0)
    of_tokens = torch.zeros(len(chosen), longest, 1)
    for row, sequence in zip(of_tokens, chosen, strict=True):
        row[: len(sequence.token_ids)] = last
        if len(names) > 1:
            row[: sequence.prompt_length] = first
    seen: dict[str, _Seen] = {}

    def remember(part: str):
        def hook(module, args, kwargs, output):
            output = output[0] if isinstance(output, tuple) else output
            seen[part] = _Seen(module, args, kwargs, output, of_tokens.to(output.device))

        return hook

    handles = [
        step.layer(part).register_forward_hook(remember(part), with_kwargs=True) for part in parts
    ]
    try:
        step.forward(number, keep=False)
    finally:
        for handle in handles:
            handle.remove()
    return seen
