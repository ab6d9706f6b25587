import itertools
import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac import allocation
from rac.models import checkpoint, weights
from rac.sources import Sequence

# ---- OWL


def test_scores_are_weights_times_norms():
    x = torch.tensor([[3.0, 0.0], [4.0, 2.0]])
    weight = torch.tensor([[-1.0, 1.0], [2.0, -3.0]])
    scores = allocation.wanda_scores(weight, x.T @ x)
    assert torch.allclose(scores, torch.tensor([[5.0, 2.0], [10.0, 6.0]]))


@given(
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    times=st.floats(0.5, 8),
    seed=st.integers(0, 99),
)
def test_outlier_ratio_counts_over_all_layers_of_a_block(sizes, times, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randn(size, generator=generator).exp() for size in sizes]
    together = [score for of_layer in scores for score in of_layer.double().tolist()]
    threshold = times * math.fsum(together) / len(together)
    expected = sum(score > threshold for score in together) / len(together)
    assert allocation.outlier_ratio(scores, times) == expected


@pytest.mark.parametrize(
    "scores", [[], [torch.tensor([1.0, math.inf])], [torch.tensor([math.nan])]]
)
def test_scores_must_be_there_and_finite(scores):
    with pytest.raises(ValueError, match="finite"):
        allocation.outlier_ratio(scores)


def _published(ratios, target, spread):
    """The formula of the published code, where blocks are of one size."""
    low, high = min(ratios), max(ratios)
    scaled = [(ratio - low) / (high - low) * spread * 2 for ratio in ratios]
    mean = sum(scaled) / len(scaled)
    return [1 - (one - mean + 1 - target) for one in scaled]


def test_owl_is_the_published_formula_where_sizes_are_equal():
    ratios = [0.031, 0.012, 0.0194, 0.0071]
    shares = allocation.owl(ratios, [1000] * 4, 0.7)
    assert [float(s) for s in shares] == pytest.approx(_published(ratios, 0.7, 0.08))


@given(
    blocks=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=1, max_size=8),
    target=st.decimals("0.01", "0.99", places=2).map(float),
    spread=st.floats(0.001, 0.5),
)
def test_owl_keeps_the_total_the_range_and_the_order(blocks, target, spread):
    ratios, sizes = zip(*blocks, strict=True)
    shares = allocation.owl(ratios, sizes, target, spread)
    zeros = sum(share * size for share, size in zip(shares, sizes, strict=True))
    assert zeros == Fraction(str(target)) * sum(sizes)
    assert all(0 < float(share) < 1 for share in shares)
    assert max(shares) - min(shares) <= 2 * Fraction(str(spread))
    ranked = sorted(zip(ratios, shares, strict=True))
    assert all(b[1] <= a[1] for a, b in itertools.pairwise(ranked))


def test_equal_ratios_are_the_target_everywhere():
    assert allocation.owl([0.02, 0.02], [10, 30], 0.6) == [Fraction(3, 5)] * 2


@pytest.mark.parametrize(
    ("ratios", "sizes", "target"), [([0.1], [1, 2], 0.5), ([], [], 0.5), ([0.1], [1], 1.0)]
)
def test_owl_refuses_what_does_not_fit(ratios, sizes, target):
    with pytest.raises(ValueError, match="blocks|share"):
        allocation.owl(ratios, sizes, target)


# ---- EvoPress


def test_a_grid_is_exact_and_stays_between_0_and_1():
    assert [float(share) for share in allocation.grid(0.5, 0.05).values()] == [
        *(0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    ]
    assert allocation.grid(0.9, 0.05) == {k: Fraction(18 + k, 20) for k in (-4, -3, -2, -1, 0, 1)}
    with pytest.raises(ValueError, match="share"):
        allocation.grid(0.5, 0)


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
    found = allocation.evolve(sizes, levels, fitness, 16, generations=30, seed=0)
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

    found = allocation.evolve(sizes, levels, fitness, samples, 4, seed, offspring=6)
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
        allocation.evolve([1] * 6, range(-4, 5), fitness, 8, 3, seed) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_later_stages_see_more_samples():
    seen: dict[int, set] = {}

    def fitness(assignment, samples):
        seen.setdefault(len(samples), set()).add(assignment)
        return sum(level**2 for level in assignment)

    allocation.evolve([1] * 30, range(-4, 5), fitness, 64, generations=1, seed=0)
    assert {size: len(of) for size, of in seen.items()} == {2: 64, 16: 8, 64: 3}


def test_a_layer_without_a_match_keeps_its_level():
    found = allocation.evolve([7, 2, 2], range(-2, 3), lambda a, _: a[0] + a[1], 1, 5, seed=0)
    assert found.assignment == (0, -2, 2)


@pytest.mark.parametrize(
    "wrong", [{"sizes": []}, {"levels": [1, 2]}, {"samples": 0}, {"offspring": 0}]
)
def test_a_search_needs_something_to_search(wrong):
    asked = {"sizes": [1, 1], "levels": [-1, 0, 1], "samples": 1, "offspring": 1} | wrong
    with pytest.raises(ValueError, match="a search needs"):
        allocation.evolve(fitness=lambda *_: 0.0, generations=1, seed=0, **asked)


# ---- divergence


@given(
    tokens=st.integers(1, 7),
    vocabulary=st.integers(1, 20),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_divergence_is_that_of_the_definition(tokens, vocabulary, scale, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    dense, other = (
        (torch.randn(tokens, vocabulary, generator=generator) * scale).to(dtype) for _ in range(2)
    )
    expected = 0.0
    for a, b in zip(dense.double().tolist(), other.double().tolist(), strict=True):
        log_p, log_q = ([x - max(of) - _log_sum(of) for x in of] for of in (a, b))
        expected += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)) / tokens
    assert allocation.kl_divergence(dense, other) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def _log_sum(row: list[float]) -> float:
    return math.log(math.fsum(math.exp(x - max(row)) for x in row))


def test_divergence_does_not_hang_on_the_rows_at_once(monkeypatch):
    dense, other = torch.randn(2, 50, 9).unbind()
    whole = allocation.kl_divergence(dense, other)
    monkeypatch.setattr(allocation, "LOGITS", 27)
    assert allocation.kl_divergence(dense, other) == pytest.approx(whole, rel=1e-6)
    assert allocation.kl_divergence(dense, dense) == 0


def test_impossible_and_broken_tokens():
    dense = torch.tensor([[0.0, 1.0, -math.inf]])
    assert allocation.kl_divergence(dense, dense + 5) == pytest.approx(0, abs=1e-6)
    assert allocation.kl_divergence(dense, torch.tensor([[0.0, -math.inf, 0.0]])) == math.inf
    assert allocation.kl_divergence(dense, torch.full((1, 3), math.nan)) == math.inf
    with pytest.raises(ValueError, match="dense"):
        allocation.kl_divergence(torch.full((1, 3), math.nan), dense)
    for shape in ((3,), (0, 3), (1, 2)):
        with pytest.raises(ValueError, match="vocabulary"):
            allocation.kl_divergence(torch.zeros(shape), torch.zeros(shape[:-1] + (3,)))


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

    monkeypatch.setattr(allocation, "LOGITS", 768 * 5)  # several portions a trace
    network = checkpoint.load_model(tiny_model, "float32")
    fitness = allocation.divergence(network, names, solution, traces)
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
