import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac import divergences
from rac.divergences import kl_divergence


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
    assert kl_divergence(dense, other) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def _log_sum(row: list[float]) -> float:
    return math.log(math.fsum(math.exp(x - max(row)) for x in row))


def test_divergence_does_not_hang_on_the_rows_at_once(monkeypatch):
    dense, other = torch.randn(2, 50, 9).unbind()
    whole = kl_divergence(dense, other)
    monkeypatch.setattr(divergences, "LOGITS", 27)
    assert kl_divergence(dense, other) == pytest.approx(whole, rel=1e-6)
    assert kl_divergence(dense, dense) == 0


def test_impossible_and_broken_tokens():
    dense = torch.tensor([[0.0, 1.0, -math.inf]])
    assert kl_divergence(dense, dense + 5) == pytest.approx(0, abs=1e-6)
    assert kl_divergence(dense, torch.tensor([[0.0, -math.inf, 0.0]])) == math.inf
    assert kl_divergence(dense, torch.full((1, 3), math.nan)) == math.inf
    with pytest.raises(ValueError, match="dense"):
        kl_divergence(torch.full((1, 3), math.nan), dense)
    for shape in ((3,), (0, 3), (1, 2)):
        with pytest.raises(ValueError, match="vocabulary"):
            kl_divergence(torch.zeros(shape), torch.zeros(shape[:-1] + (3,)))
