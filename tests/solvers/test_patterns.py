from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rac.solvers.patterns import (
    SAMPLE,
    Pattern,
    kept,
    order_statistic,
    parse,
    smallest,
    smallest_of_few,
)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("unstructured 0.5", Pattern(Fraction(1, 2), 1)),
        ("unstructured 0.29", Pattern(Fraction(29, 100), 1)),
        ("unstructured 1e-05", Pattern(Fraction(1, 100000), 1)),
        ("2:4", Pattern(Fraction(1, 2), 4)),
        ("1:32", Pattern(Fraction(31, 32), 32)),
    ],
)
def test_names(text, pattern):
    assert parse(text) == pattern


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "unstructured", "unstructured 0", "unstructured 1", "unstructured -0.5", "2:4 "]
    + ["unstructured 50%", "4:4", "0:4", "5:4", "1:33", "2:4:8", "structured 0.5"],
)
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match="neither 'unstructured S'"):
        parse(text)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.data())
def test_smallest_is_the_stable_order(values, data):
    count = data.draw(st.integers(0, len(values)))
    chosen = smallest(torch.tensor(values, dtype=torch.float32), count)
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    assert chosen.nonzero().flatten().tolist() == sorted(order[:count])


@given(st.integers(1, 32), st.integers(1, 5), st.integers(0, 99), st.data())
def test_of_few_is_the_same_along_the_first_dimension(size, others, seed, data):
    count = data.draw(st.integers(0, size))
    scores = torch.randint(-3, 4, (size, others), generator=torch.Generator().manual_seed(seed))
    chosen = smallest_of_few(scores.float(), count)
    assert torch.equal(chosen, smallest(scores.float().T, count).T)


def long_rows():
    """Rows that are sampled; of some the sample tells nothing or something wrong."""
    size = 16 * SAMPLE + 7
    plain = torch.rand(size, generator=torch.Generator().manual_seed(0))
    misleading = plain.clone()
    misleading[::16] += 2  # all that is looked at is large
    few = (plain * 5).floor()
    return {
        "plain": plain,
        "sorted": plain.sort().values,
        "equal": torch.ones(size),
        "ties": few,
        "misleading": misleading,
    }


@pytest.mark.parametrize("kind", ["plain", "sorted", "equal", "ties", "misleading"])
@pytest.mark.parametrize("share", [0.0, 0.003, 0.5, 0.9, 1.0])
def test_long_rows_are_counted_exactly(kind, share):
    row = long_rows()[kind]
    count = max(int(share * len(row)), 1)
    expected = row.sort().values[count - 1]
    assert order_statistic(row, count) == expected
    chosen = smallest(row, count)
    assert chosen.sum() == count and (row[~chosen] >= expected).all()
    tied = (row == expected).nonzero().flatten()
    assert chosen[tied].sort(descending=True).values.equal(chosen[tied])  # the first ones


def test_a_share_is_a_decimal_number_not_a_float():
    # int(0.29 * 100) is 28
    assert (~kept(torch.rand(100), parse("unstructured 0.29"))).sum() == 29


@given(st.integers(1, 31), st.integers(1, 5), st.integers(1, 4))
def test_every_group_keeps_n_of_m(n, rows, groups):
    m = n + 1
    mask = kept(torch.zeros(rows, groups * m), parse(f"{n}:{m}"))
    assert (mask.view(rows, groups, m).sum(-1) == n).all()
