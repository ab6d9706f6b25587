from fractions import Fraction

import pytest
import torch

from rac import allocation, hessians, owl
from rac.artifacts import read_json
from rac.definitions import Calibration
from rac.errors import RacError
from rac.linear import in_scope
from rac.models import checkpoint, weights
from rac.variants import Allocation, Scope, Variant

CALIBRATION = Calibration(sum={"traces.prompt": 1, "traces.decode": 1})


@pytest.fixture
def given(tiny_model, tiny_hessians):
    """Arguments of both functions: model, located, groups, terms."""
    by_key = hessians.terms(CALIBRATION, tiny_hessians, checkpoint.identity(tiny_model))
    terms = [term for of_key in by_key.values() for term in of_key]
    groups = in_scope(read_json(tiny_model / "model.json")["linear_groups"], Scope())
    return tiny_model, weights.locate(tiny_model), groups, terms


@pytest.fixture
def traces(tiny_hessians):
    return tiny_hessians["traces"].parent.parent / "sources/traces/sequences.safetensors"


def zeros(patterns, model):
    """Weights that the patterns set to zero, and all of them."""
    located, count, total = weights.locate(model), Fraction(0), 0
    for name, pattern in patterns.items():
        size = weights.read(located[f"{name}.weight"], f"{name}.weight").numel()
        count += Fraction(pattern.split()[1]) * size
        total += size
    return count, total


def test_owl_looks_at_all_layers_of_a_block(given):
    model, located, groups, terms = given
    patterns, said = allocation.by_owl(*given, 0.6)
    ratios = []
    for block in (0, 1):
        combined, scores = hessians.combine(terms, block), []
        for group in groups:
            if group["block"] == block:
                for name in group["layers"]:
                    weight = weights.read(located[f"{name}.weight"], f"{name}.weight")
                    norms = combined[group["name"]].diagonal().sqrt()
                    scores.append((weight.abs() * norms).flatten())
        together = torch.cat(scores).double()
        ratios.append((together > 5 * together.mean()).double().mean().item())
    assert said == {"method": "owl", "outlier_ratios": pytest.approx(ratios, rel=1e-2)}
    shares = owl.owl(said["outlier_ratios"], [1, 1], 0.6)
    for name, pattern in patterns.items():
        assert float(pattern.split()[1]) == pytest.approx(float(shares["layers.1" in name]))
    count, total = zeros(patterns, model)
    assert float(count / total) == pytest.approx(0.6, abs=1e-9)


def test_evopress_keeps_the_total_and_never_gets_worse(given, traces, tmp_path):
    model = given[0]
    variant = Variant(solver="sparsegpt", sparsity=0.5)
    asked = Allocation(method="evopress", source="traces", sequences=3, step=0.1, generations=6)
    arguments = (*given, 0.5, variant, asked, traces, "float32", tmp_path)
    patterns, said = allocation.by_evopress(*arguments)
    count, total = zeros(patterns, model)
    assert count / total == Fraction(1, 2) and len(patterns) == 14
    course = said["divergence"]
    assert len(course) == 7 and course == sorted(course, reverse=True) and course[-1] < course[0]
    assert len(set(patterns.values())) > 1
    assert allocation.by_evopress(*arguments) == (patterns, said)
    assert not list(tmp_path.iterdir())


def test_traces_without_a_thought_are_refused(given, write_sequences, tmp_path):
    only_prompts = write_sequences(tmp_path / "s", given[0], "prompts", [5, 9])
    variant = Variant(solver="sparsegpt", sparsity=0.5)
    asked = Allocation(method="evopress", source="traces")
    with pytest.raises(RacError, match="no trace has a decode token"):
        allocation.by_evopress(*given, 0.5, variant, asked, only_prompts, "float32", tmp_path)
