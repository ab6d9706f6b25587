import itertools
import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from rac import divergences, evopress
from rac.errors import RacError
from rac.models import checkpoint, weights
from rac.sources import Sequence


def test_a_grid_is_exact_and_stays_between_0_and_1():
    assert [float(share) for share in evopress.grid(0.5, 0.05).values()] == [
        *(0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    ]
    assert evopress.grid(0.9, 0.05) == {k: Fraction(18 + k, 20) for k in (-4, -3, -2, -1, 0, 1)}
    with pytest.raises(ValueError, match="share"):
        evopress.grid(0.5, 0)


def _toy(layers: int, levels: range, seed: int):
    """A cost of each layer at each level that grows faster and faster, and noise between samples."""
    generator = random.Random(seed)
    cost = {}
    for layer in range(layers):
        steep = generator.uniform(0.1, 3)
        for level in levels:
            cost[layer, level] = steep * 1.5 ** (level - levels[0])

    def fitness(assignment, samples):
        noise = [random.Random(f"{assignment} {sample}").gauss(0, 0.05) for sample in samples]
        exact = sum(cost[layer, level] for layer, level in enumerate(assignment))
        return exact + (sum(noise) / len(noise) if len(noise) < 16 else 0)

    return fitness


@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [6, 2, 2, 2, 1]])
def test_the_best_assignment_is_found(sizes):
    levels = range(-2, 3)
    fitness = _toy(len(sizes), levels, seed=3)
    everything = tuple(range(16))
    possible = [
        assignment
        for assignment in itertools.product(levels, repeat=len(sizes))
        if sum(size * level for size, level in zip(sizes, assignment, strict=True)) == 0
    ]
    best = min(possible, key=lambda assignment: fitness(assignment, everything))
    found = evopress.evolve(sizes, levels, fitness, 16, generations=30, seed=0)
    assert best != (0,) * len(sizes)
    assert found.assignment == best
    assert found.fitness[-1] == fitness(best, everything)


@given(
    sizes=st.lists(st.sampled_from([1, 2, 3, 5, 6]), min_size=1, max_size=6),
    low=st.integers(-3, 0),
    high=st.integers(0, 3),
    samples=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_whatever_the_fitness_the_total_stays_and_it_never_grows(sizes, low, high, samples, seed):
    levels, asked = range(low, high + 1), []

    def fitness(assignment, chosen):
        asked.append((assignment, chosen))
        value = random.Random(f"{seed} {assignment} {chosen}").random()
        return math.nan if value > 0.9 else value

    found = evopress.evolve(sizes, levels, fitness, samples, 4, seed, offspring=6)
    assert len(asked) == len(set(asked))
    for assignment, chosen in asked:
        assert sum(s * level for s, level in zip(sizes, assignment, strict=True)) == 0
        assert all(level in levels for level in assignment)
        assert set(chosen) <= set(range(samples))
    assert len(found.fitness) == 5
    assert all(after <= before for before, after in itertools.pairwise(found.fitness))
    known = found.fitness[-1], fitness(found.assignment, tuple(range(samples)))
    assert known[0] == known[1] or (known[0] == math.inf and math.isnan(known[1]))


def test_the_seed_decides():
    fitness = _toy(6, range(-4, 5), seed=0)
    first, again, other = (
        evopress.evolve([1] * 6, range(-4, 5), fitness, 8, 3, seed) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_later_stages_see_more_samples():
    seen: dict[int, set] = {}

    def fitness(assignment, samples):
        seen.setdefault(len(samples), set()).add(assignment)
        return sum(level**2 for level in assignment)

    evopress.evolve([1] * 30, range(-4, 5), fitness, 64, generations=1, seed=0)
    assert {size: len(of) for size, of in seen.items()} == {2: 64, 16: 8, 64: 3}


def test_a_layer_without_a_match_keeps_its_level():
    found = evopress.evolve([7, 2, 2], range(-2, 3), lambda a, _: a[0] + a[1], 1, 5, seed=0)
    assert found.assignment == (0, -2, 2)


@pytest.mark.parametrize(
    "wrong", [{"sizes": []}, {"levels": [1, 2]}, {"samples": 0}, {"offspring": 0}]
)
def test_a_search_needs_something_to_search(wrong):
    asked = {"sizes": [1, 1], "levels": [-1, 0, 1], "samples": 1, "offspring": 1} | wrong
    with pytest.raises(ValueError, match="a search needs"):
        evopress.evolve(fitness=lambda *_: 0.0, generations=1, seed=0, **asked)


# ---- divergence


def test_the_fitness_is_the_divergence_of_the_models(tiny_model, monkeypatch):
    names = [
        f"model.layers.{i}.{name}" for i in (0, 1) for name in ("mlp.up_proj", "self_attn.q_proj")
    ]
    located = weights.locate(tiny_model)
    stored = {name: weights.read(located[f"{name}.weight"], f"{name}.weight") for name in names}
    generator = torch.Generator().manual_seed(0)
    traces = [
        Sequence(torch.randint(3, 700, (length,), generator=generator), prompt)
        for length, prompt in ((20, 8), (31, 1), (9, 0))
    ]

    def solution(name, level):
        return stored[name] * (stored[name].abs() > 0.05 * (level + 1))

    monkeypatch.setattr(divergences, "LOGITS", 768 * 5)  # several portions a trace
    network = checkpoint.load_model(tiny_model, "float32")
    fitness = evopress.divergence(network, names, solution, traces)
    for assignment in ((1, 0, 2, -1), (-1, -1, -1, -1), (1, 1, 2, -1)):
        compressed = checkpoint.load_model(tiny_model, "float32")
        for name, level in zip(names, assignment, strict=True):
            compressed.get_submodule(name).weight.data = solution(name, level)
        assert fitness(assignment, (0, 2)) == pytest.approx(
            _divergence(
                checkpoint.load_model(tiny_model, "float32"), compressed, [traces[0], traces[2]]
            ),
            rel=1e-3,
            abs=1e-6,
        )


def test_logits_that_are_scaled_behind_the_head_are_refused():
    settings = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "pad_token_id": 0}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = AutoConfig.for_model("granite", logits_scaling=8.0, **settings)
    network = AutoModelForCausalLM.from_config(config).eval()
    traces = [Sequence(torch.arange(3, 20), 4)]
    with pytest.raises(RacError, match="GraniteForCausalLM changes its logits"):
        evopress.divergence(network, [], None, traces)


@torch.no_grad()
def _divergence(dense, compressed, traces) -> float:
    values = []
    for trace in traces:
        log_p, log_q = (
            model(input_ids=trace.token_ids[None]).logits[0].double().log_softmax(-1)
            for model in (dense, compressed)
        )
        each = (log_p.exp() * (log_p - log_q)).sum(-1)
        values += each[max(trace.prompt_length, 1) - 1 : -1].tolist()
    return sum(values) / len(values)
