"""EvoPress (arXiv 2410.14649): a search for the layers that need fewer zeros, at the same total."""

import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn.functional import linear

from rac import divergences
from rac.errors import RacError
from rac.owl import exact_share

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rac.sources import Sequence as Trace

Assignment = tuple[int, ...]  # a level for each layer, 0 being the target
Fitness = Callable[[Assignment, tuple[int, ...]], float]

# Survivors of a selection, and its share of the samples: arXiv 2410.14649, which gives 64 offspring
# 2,048, then 16,384, then 65,536 tokens.
STAGES = ((8, Fraction(1, 32)), (2, Fraction(1, 4)), (1, Fraction(1)))
TRIES = 50  # draws for an offspring that is new


class Found(NamedTuple):
    """What `evolve` ends with."""

    assignment: Assignment
    fitness: list[float]  # on all samples: of uniform sparsity, then after each generation


def grid(target: float, step: float, reach: int = 4) -> dict[int, Fraction]:
    """Levels of sparsity, target + k · step for k = −reach … reach, as far as they are between 0 and 1.

    Raises:
        ValueError: the target or the step is not between 0 and 1.
    """
    goal, by = exact_share(target), exact_share(step)
    return {k: goal + k * by for k in range(-reach, reach + 1) if 0 < goal + k * by < 1}


def evolve(
    sizes: Sequence[int],
    levels: Sequence[int],
    fitness: Fitness,
    samples: int,
    generations: int,
    seed: int,
    offspring: int = 64,
) -> Found:
    """Search for the levels of least fitness at a constant number of zeros (arXiv 2410.14649, algorithm 1).

    Every generation makes offspring of the best assignment so far, and selects in three stages: all
    of them on a few samples drawn anew, the better ones on more, and the best ones, with their parent, on
    all. So the fitness on all samples never grows. An offspring differs by one to three switches: a
    layer goes one level up (or down), and others that have as many weights together one level down (or up).
    In the paper's code a level is the same number of weights in each layer, so that any two can switch; here
    it is the same share, and sizes are matched. A layer that no sum of others matches keeps its level.

    Args:
        sizes: weights of each layer.
        levels: those that every layer is solved at, in steps of one, with 0 among them: `grid`'s keys.
        fitness: of an assignment on some of the samples, by their numbers, the less the better; not a
            number counts as infinite. It is asked once for the same assignment and samples.
        samples: how many there are.
        generations, offspring: how many; of a generation.
        seed: what all draws hang on.

    Raises:
        ValueError: there are no layers, samples or offspring, or no level 0.
    """
    if not sizes or samples < 1 or offspring < 1 or 0 not in levels:
        raise ValueError("a search needs layers, samples, offspring, and the level 0")
    generator = random.Random(seed)
    known: dict[tuple[Assignment, tuple[int, ...]], float] = {}

    def measured(assignment: Assignment, chosen: tuple[int, ...]) -> float:
        if (assignment, chosen) not in known:
            value = fitness(assignment, chosen)
            known[assignment, chosen] = math.inf if math.isnan(value) else value
        return known[assignment, chosen]

    everything = tuple(range(samples))
    parent: Assignment = (0,) * len(sizes)
    course = [measured(parent, everything)]
    for _ in range(generations):
        candidates = _offspring(parent, sizes, levels, offspring, generator)
        for survivors, share in STAGES:
            chosen = tuple(sorted(generator.sample(everything, math.ceil(share * samples))))
            if chosen == everything and parent not in candidates:
                candidates.insert(0, parent)  # of equals the first one stays
            candidates = sorted(candidates, key=lambda one: measured(one, chosen))[:survivors]
        parent = candidates[0]
        course.append(measured(parent, everything))
    return Found(parent, course)


def _offspring(
    parent: Assignment,
    sizes: Sequence[int],
    levels: Sequence[int],
    count: int,
    generator: random.Random,
) -> list[Assignment]:
    """Different mutations of a parent; fewer than `count` where no more are found."""
    found: dict[Assignment, None] = {}
    for _ in range(TRIES * count):
        child = list(parent)
        for _ in range(min(generator.randint(1, 3), generator.randint(1, 3))):
            child = _switched(child, sizes, levels, generator)
        if tuple(child) != parent:
            found[tuple(child)] = None
        if len(found) == count:
            break
    return list(found)


def _switched(
    child: list[int], sizes: Sequence[int], levels: Sequence[int], generator: random.Random
) -> list[int]:
    """A layer moved by one level and others against it; as it was if no sizes add up to the layer's."""
    by = generator.choice((1, -1))
    able = [i for i, level in enumerate(child) if level + by in levels]
    if not able:
        return child
    one = generator.choice(able)
    left, moved = sizes[one], list(child)
    moved[one] += by
    while left:
        able = [
            i
            for i, level in enumerate(moved)
            if i != one and sizes[i] <= left and level - by in levels
        ]
        if not able:
            return child
        other = generator.choice(able)
        moved[other] -= by
        left -= sizes[other]
    return moved


# ---- a fitness: the divergence from the dense model on traces


@torch.no_grad()
def divergence(
    network: "PreTrainedModel",
    names: Sequence[str],
    solution: Callable[[str, int], torch.Tensor],
    traces: "Sequence[Trace]",
) -> Fitness:
    """A fitness for `evolve`: the divergence from the dense model where decode tokens are predicted.

    What the dense model says is kept as its last hidden states: logits are vocabulary / hidden size times
    as large. Weights are put in place as they are asked for, and are anything afterwards.

    Args:
        network: the dense causal language model, whose logits are its output embedding's outputs.
        names: of the layers, in the order of an assignment.
        solution: the weight [out, in] of a layer at a level.
        traces: the samples, token ids and prompt lengths, each with a decode token.

    Raises:
        RacError: the model's logits are not its output embedding's outputs.
    """
    head = network.get_output_embeddings()
    dense, present = head.weight.detach(), dict.fromkeys(names)  # detached, it stays as it is

    def hidden(i: int) -> torch.Tensor:
        token_ids = traces[i].token_ids[None, :-1].to(network.device)
        states = network.base_model(input_ids=token_ids, use_cache=False)[0][0]
        return states[max(traces[i].prompt_length, 1) - 1 :]

    wanted = [hidden(i) for i in range(len(traces))]
    ids = traces[0].token_ids[None, :-1].to(network.device)
    said = network(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1].float()
    ours = head(wanted[0][-1]).float()
    if not torch.allclose(ours, said, rtol=0, atol=0.02 * float(said.abs().max())):
        raise RacError(
            f"allocation.method evopress: {type(network).__name__} changes its logits behind its output "
            "embedding (a scale or a cap), which the search leaves out: take method owl"
        )

    @torch.no_grad()
    def fitness(assignment: Assignment, samples: tuple[int, ...]) -> float:
        for name, level in zip(names, assignment, strict=True):
            if present[name] != level:
                weight = network.get_parameter(f"{name}.weight")
                weight.data = solution(name, level).to(weight)
                present[name] = level
        total, tokens, rows = 0.0, 0, max(divergences.LOGITS // len(dense), 1)
        for i in samples:
            for before, after in zip(wanted[i].split(rows), hidden(i).split(rows), strict=True):
                logits = linear(before, dense, head.bias), head(after)
                total += divergences.kl_divergence(*logits) * len(after)
            tokens += len(wanted[i])
        return total / tokens

    return fitness
